"""Help on the command line: suggestions, completion, version."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import saec
from saec.cli import app, main
from saec.cli.bench import MODELS, OPTIMISERS, TASKS, complete_methods
from saec.errors import did_you_mean
from saec.reference import methods, models, tasks
from saec.reference.training_settings import Optimiser
from saec.report.methods import METHODS, TUNINGS

Run = Callable[..., tuple[int, str, str]]
COMPRESS = ["compress", "both.npz", "--frequencies", "counts.npz", "-o", "o.saec", "--ratio", "4"]


COUNTED = ["compress", "both.npz", "--log", "log.parquet", "-o", "o.saec", "--ratio", "4"]


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
        (
            [*COUNTED, "--column", "usr=user_id"],
            "no tables for columns usr; there are user, item; did you mean 'user'?",
        ),
        (["bench", "ml-1"], "; did you mean 'ml-1m'?"),
        (["bench", "simulated", "--methods", "sace"], "; did you mean 'saec'?"),
        (["bench", "simulated", "--methods", "axes+unsen"], "; did you mean 'axes+unseen'?"),
        (["bench", "simulated", "--model", "DeepFM2"], "; did you mean 'deepfm'?"),
        (["bench", "simulated", "--optimiser", "adm"], "; did you mean 'adam'?"),
    ],
)
def test_a_misspelt_name_gets_a_suggestion(
    artifact: Path, run: Run, words: list[str], message: str
) -> None:
    pq.write_table(pa.table({"user_id": [1]}), "log.parquet")
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


def asked(words: str, place: int) -> dict[str, str]:
    """The variables in which bash asks for the completions of the word at a position."""
    return {"_SAEC_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(place)}


Completed = Callable[[str, int], list[str]]


@pytest.fixture
def completed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Completed:
    """The completions that bash offers for the word at a position, found in this process."""

    def completed(words: str, place: int) -> list[str]:
        with monkeypatch.context() as patch:
            for name, value in asked(words, place).items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as ended:
                main([])
        out, err = capsys.readouterr()
        assert (ended.value.code, err) == (0, "")
        return out.split()

    return completed


@pytest.mark.exhaustive
def test_completion_in_a_process() -> None:
    shown = subprocess.run(
        [Path(sys.executable).parent / "saec"],
        env={**os.environ, **asked("saec compr", 1)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (shown.stdout.split(), shown.stderr) == (["compress"], "")


def test_completion_of_verbs_options_and_values(completed: Completed) -> None:
    assert completed("saec compr", 1) == ["compress"]
    assert completed("saec compress --max", 2) == ["--max-bytes"]
    assert completed("saec compress --codec ", 3) == ["axes", "clusters"]


def test_completion_of_tasks_and_methods(completed: Completed) -> None:
    assert completed("saec bench ml", 2) == ["ml-1m", "ml-1m-x"]
    assert completed("saec bench ml-1m --methods axes", 4) == ["axes", "axes-remapped"]
    assert complete_methods("saec,axes+") == ["saec,axes+finetune", "saec,axes+unseen"]


def test_help_lists_the_names_that_exist(run: Run) -> None:
    assert tuple(TASKS) == tasks()
    assert set(METHODS) == set(methods.METHODS)
    assert tuple(TUNINGS) == methods.TUNINGS
    assert tuple(MODELS) == tuple(models.MODELS)
    assert tuple(OPTIMISERS) == get_args(Optimiser)
    _, out, _ = run("bench", "--help")
    for name in (*TASKS, *METHODS, *(f"+{tuning}" for tuning in TUNINGS)):
        assert f"\n    {name} " in out


VERBS = [command.callback.__name__ for command in app.registered_commands if command.callback]


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_no_python_types_and_nothing_cut_off(verb: str, run: Run) -> None:
    code, out, _ = run(verb, "--help")
    assert code == 0
    assert not re.search(r"<(str|int|float|path|list|bool)\b", out)
    assert not re.search(r"\w\.\.\.$", out, re.MULTILINE)


def test_the_list_of_verbs_is_not_cut_off(run: Run) -> None:
    _, out, _ = run("--help")
    commands = out.partition("Commands:")[2]
    assert all(f"\n  {verb} " in commands for verb in VERBS)
    assert "..." not in commands


@pytest.mark.parametrize(
    "package",
    ["saec", "saec.torch", "saec.onnx", "saec.distributed", "saec.serve", "saec.reference"],
)
def test_dir_shows_public_names_only(package: str) -> None:
    module = importlib.import_module(package)
    assert dir(module) == sorted(module.__all__)


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
