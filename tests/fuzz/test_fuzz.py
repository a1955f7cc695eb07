"""The fuzz program finds nothing in two seconds, and notices what it looks for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import fuzz_spoil

PROGRAM = Path(__file__).with_name("fuzz.py")


def run(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(PROGRAM), *options], capture_output=True, text=True, timeout=300
    )


def test_two_seconds_without_violation(tmp_path: Path) -> None:
    done = run("--seed", "5", "--seconds", "2", "--keep", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 violations" in done.stdout
    assert list(tmp_path.iterdir()) == []


VIOLATIONS = {
    "exception": ("raise KeyError('odd')", "KeyError: 'odd'"),
    "crash": ("import os; os.abort()", "ended with -6"),
    "memory": ("bytearray(b'x') * (300 << 20); return 'x'", "MB more"),
    "addresses": ("bytearray(8 << 30); return 'x'", "MemoryError"),
}


@pytest.mark.parametrize("kind", VIOLATIONS)
def test_violations_are_noticed_and_the_next_cases_done(tmp_path: Path, kind: str) -> None:
    """Case 1 of three is made to fail, in the children, by a module that they import."""
    code, message = VIOLATIONS[kind]
    (tmp_path / "sitecustomize.py").write_text(
        f"import sys; sys.path[:0] = [{str(PROGRAM.parent)!r}, {str(PROGRAM.parents[1])!r}]\n"
        "if '--child' in sys.argv:\n"
        "    import fuzz_cases\n"
        "    def run(self, number):\n"
        "        if number != 1: return 'fine'\n"
        f"        {code}\n"
        "    fuzz_cases.Cases.run = run\n"
    )
    done = subprocess.run(
        [sys.executable, PROGRAM, "--cases", "3", "--keep", tmp_path / "kept", "--kinds", "numpy"],
        capture_output=True,
        text=True,
        timeout=300,
        env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "VIOLATION in case 1: " in done.stdout
    assert message in done.stdout
    assert "3 cases" in done.stdout
    assert "1 violations" in done.stdout
    assert (tmp_path / "kept" / "1-1").is_dir()


def test_damage_depends_on_the_generator_alone() -> None:
    data = bytes(range(100))
    first = [fuzz_spoil.spoiled(Random(seed), data) for seed in range(50)]
    assert first == [fuzz_spoil.spoiled(Random(seed), data) for seed in range(50)]
    assert len(set(first)) > 40
