"""The wheel as users get it: its contents, and what it does in a clean environment.

``make wheel`` builds one and names it in SAEC_WHEEL.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import saec

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SOURCE = ROOT / "src"

pytestmark = pytest.mark.skipif("SAEC_WHEEL" not in os.environ, reason="make wheel builds one")


def call(*words: object, check: bool = True, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a process without the variables of this environment, within a time limit."""
    plain = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(word) for word in words],
        **{"capture_output": True, "text": True, "timeout": 300, "env": plain, **options},
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def wheel() -> Path:
    return Path(os.environ["SAEC_WHEEL"]).resolve()


@pytest.fixture(scope="module")
def clean(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin directory of a new environment with the wheel and what it depends on."""
    home = tmp_path_factory.mktemp("clean") / "venv"
    call(sys.executable, "-m", "venv", home)
    install(home / "bin", str(wheel))
    return home / "bin"


def install(binaries: Path, what: str) -> None:
    pip = [binaries / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    call(*pip, "--only-binary", ":all:", "--constraint", ROOT / "constraints.txt", what)


def test_it_contains_exactly_the_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
        metadata = next(name for name in names if name.endswith(".dist-info/METADATA"))
        about = file.read(metadata).decode()
    info = metadata.rpartition("/")[0]
    inside = {name for name in names if not name.startswith(info)}
    expected = {
        str(path.relative_to(SOURCE))
        for path in (SOURCE / "saec").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".so"
    }
    built = inside - expected
    assert expected <= inside
    assert len(built) == 1
    assert built.pop().startswith("saec/_native.cpython-")
    assert {"saec/py.typed", "saec/_native.pyi"} <= inside
    assert {name.rpartition(".")[2] for name in inside} == {"py", "pyi", "typed", "so", "j2"}
    assert f"{info}/licenses/LICENSE" in names
    assert f"Version: {saec.__version__}\n" in about
    assert wheel.stat().st_size < 5_000_000


def test_without_its_extra_the_command_names_it(clean: Path, tmp_path: Path) -> None:
    if list(clean.parent.glob("lib/*/site-packages/typer")):
        pytest.skip("typer is there already")
    done = call(clean / "saec", "--version", check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "saec: typer is not installed; run: pip install 'saec[cli]'\n"


def test_it_compresses_and_looks_up(clean: Path, tmp_path: Path) -> None:
    shutil.copy(HERE / "smoke.py", tmp_path)  # away from the sources
    done = call(clean / "python", "-W", "error", "smoke.py", cwd=tmp_path)
    assert done.stdout.startswith(f"saec {saec.__version__}, _native.cpython-")


def test_the_command(clean: Path, wheel: Path, tmp_path: Path) -> None:
    install(clean, f"{wheel}[cli]")
    assert call(clean / "saec", "--version", cwd=tmp_path).stdout == f"saec {saec.__version__}\n"
    assert "compress" in call(clean / "python", "-m", "saec", cwd=tmp_path).stdout


def checked(clean: Path, program: Path) -> subprocess.CompletedProcess[str]:
    """The output of mypy with the packages of the clean environment."""
    options = ["--strict", "--python-executable", clean / "python", "--cache-dir", os.devnull]
    return call(sys.executable, "-m", "mypy", *options, program, check=False, cwd=program.parent)


def test_mypy_sees_its_types(clean: Path, tmp_path: Path) -> None:
    program = tmp_path / "consumer.py"
    shutil.copy(HERE / "consumer.py", program)
    assert checked(clean, program).stdout.startswith("Success: no issues found in 1 source file")
    with program.open("a") as file:
        file.write(
            '\n\nwrong: int = squeeze(np.ones((3, 2), np.float32), np.ones(3, np.int64), "27")\n'
        )
    found = checked(clean, program).stdout
    assert 'incompatible type "str"; expected "float"' in found
    assert 'expression has type "Compressed", variable has type "int"' in found
    assert found.rstrip().endswith("Found 2 errors in 1 file (checked 1 source file)")
