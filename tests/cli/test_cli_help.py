"""What the command line says to who does not know it: suggestions, completion, its version."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import saec
from saec.errors import did_you_mean

Run = Callable[..., tuple[int, str, str]]
COMPRESS = ["compress", "both.npz", "--frequencies", "counts.npz", "-o", "o.saec", "--ratio", "4"]


@pytest.mark.parametrize(
    ("name", "known", "ending"),
    [
        ("usr", ["item", "user"], "; did you mean 'user'?"),
        ("USER", ["item", "user"], "; did you mean 'user'?"),
        ("user", ["item", "User"], "; did you mean 'User'?"),
        ("zip", ["item", "user"], ""),
        ("user", [], ""),
        ("", ["user"], ""),
    ],
)
def test_the_closest_name(name: str, known: list[str], ending: str) -> None:
    assert did_you_mean(name, known) == ending
    assert did_you_mean(name, iter(known)) == ending


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compres"], "No such command 'compres'. Did you mean 'compress'?"),
        (["info", "both.saec", "--jsn"], "--json"),
        ([*COMPRESS, "--codec", "clutsers"], "'axes', 'clusters'; did you mean 'clusters'?"),
        ([*COMPRESS, "--codec", "pca"], "'pca' is not one of 'axes', 'clusters'."),
        ([*COMPRESS, "--codebook", "int4"], "'int8'; did you mean 'int8'?"),
        ([*COMPRESS, "--only", "usr"], "there are user, item; did you mean 'user'?"),
        (["lookup", "both.saec", "itme", "1"], "it has user, item; did you mean 'item'?"),
        (["bench", "ml-1"], "; did you mean 'ml-1m'?"),
        (["bench", "simulated", "--methods", "sace"], "; did you mean 'saec'?"),
        (["bench", "simulated", "--methods", "axes+unsen"], "; did you mean 'axes+unseen'?"),
        (["bench", "simulated", "--model", "DeepFM2"], "; did you mean 'deepfm'?"),
        (["bench", "simulated", "--optimiser", "adm"], "; did you mean 'adam'?"),
    ],
)
def test_a_misspelt_name_is_told_the_right_one(
    artifact: Path, run: Run, words: list[str], message: str
) -> None:
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_fields_of_a_result(artifact: Path) -> None:
    result = saec.load(artifact)
    with pytest.raises(
        KeyError, match=r"no field 'usr'; there are item, user; did you mean 'user'"
    ):
        result["usr"]
    with pytest.raises(saec.FieldError, match="; did you mean 'item'"):
        result.lookup({"itm": [1]})
    assert "usr" not in result
    assert 3 not in result
    assert result.get("usr") is None


def test_a_misspelt_column(folder: Path, run: Run) -> None:
    pq.write_table(pa.table({"user_id": [1]}), "log.parquet")
    counting = ["--log", "log.parquet", "--column", "user=usr_id", "--only", "user"]
    code, _, err = run("compress", "both.npz", *counting, "--ratio", "4", "-o", "o.saec")
    assert code == 2
    assert "no column 'usr_id'; there are user_id; did you mean 'user_id'?" in err


def completed(words: str, place: int) -> list[str]:
    """What bash would offer for the word at a place."""
    asked = {"_SAEC_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(place)}
    shown = subprocess.run(
        [Path(sys.executable).parent / "saec"],
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stderr == ""
    return shown.stdout.split()


def test_completion_of_verbs_options_and_values() -> None:
    assert completed("saec comp", 1) == ["compress"]
    assert completed("saec compress --max", 2) == ["--max-bytes"]
    assert completed("saec compress --codec ", 3) == ["axes", "clusters"]


def test_completion_is_installed_where_the_shell_reads_it(tmp_path: Path) -> None:
    command = Path(sys.executable).parent / "saec"
    home = {**os.environ, "HOME": str(tmp_path)}
    # The shell is told by the process that runs the command; the second keeps bash from leaving.
    subprocess.run(["bash", "-c", f"{command} --install-completion; true"], env=home, check=True)
    script = tmp_path / ".bash_completions" / "saec.sh"
    assert str(script) in (tmp_path / ".bashrc").read_text()
    assert "_SAEC_COMPLETE=complete_bash" in script.read_text()


def test_the_version(run: Run) -> None:
    assert run("--version") == (0, f"saec {saec.__version__}\n", "")
