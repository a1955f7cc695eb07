"""``saec bench --rivals``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Run

from saec.reference import kept_model, rivals, simulate
from saec.reference.rivals import RIVAL_METHODS
from saec.report.methods import METHODS, SMALL_METHODS

BENCH = ("bench", "simulated", "--rivals", "--dim", "2", "--ratios", "6", "--seeds", "0")


@pytest.fixture
def small_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks have a log of 1,000 rows, in an empty working folder."""

    def load(task: str, path: None, seed: int, *, keys: bool) -> Any:
        return simulate(1000, seed=seed, keys=keys)

    monkeypatch.setattr(rivals, "load", load)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("small_log")
def test_runs_are_told_and_recorded(run: Run) -> None:
    words = (*BENCH, "--methods", "hash,dqrm", "--trials", "1")
    code, out, err = run(*words)
    assert (code, out) == (0, "")
    assert "2 runs left, about 0 minutes, without 2 of unknown time" in err
    assert "seed 0, trial 0: hash at ratio 6: AUC 0." in err
    assert "seed 0, trial 0: dqrm: AUC 0." in err
    assert len(Path("rivals-simulated.jsonl").read_text().splitlines()) == 2
    code, out, err = run(*words)
    assert (code, out) == (0, "")
    assert err == (
        "all runs are recorded\n"
        "no table: changes are counted from float32 of the same seed; it is not there\n"
    )
    assert run(*words, "--quiet") == (0, "", "")


@pytest.mark.usefixtures("small_log")
def test_tables_are_shown_and_a_page_drawn(run: Run) -> None:
    """Of the task, model and width that were asked for, whatever else the file has."""
    assert run(*BENCH, "--methods", "float32,hash", "--quiet", "--trials", "1") == (0, "", "")
    path = Path("rivals-simulated.jsonl")
    first = path.read_text().splitlines()[0]
    other = json.loads(first) | {"dim": 3, "auc": 0.123}
    path.write_text(path.read_text() + json.dumps(other) + "\n")
    code, out, err = run(*BENCH, "--methods", "float32,hash", "--trials", "1")
    assert (code, err.splitlines()[-1]) == (0, f"saec report {path} -o report.html draws it")
    lines = out.splitlines()
    titles = [line.strip() for line in lines if line and "  " not in line.strip()]
    assert titles[:3] == ["After training", "Weight sharing", "Ours beside the best rival"]
    assert titles[3].endswith("where a rival fits, no table of ours does.")
    assert [line.split()[0] for line in lines if line.startswith(("float32", "hash"))] == [
        "float32",
        "hash",
    ]
    assert "0.123" not in out
    code, out, _ = run("report", str(path), "-o", "page.html")
    assert (code, out) == (0, "wrote page.html\n")
    assert Path("page.html").read_text().count("<svg") == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--keyed",), "--keyed cannot be used with --rivals"),
        (("--bit-price", "1e-7"), "--bit-price cannot be used with --rivals"),
        (("--json", "out.json"), "--json cannot be used with --rivals"),
        (("--methods", "kmeans"), "no method 'kmeans' of --rivals"),
        (("--trials", "0"), "greater than or equal to 1"),
        (("--ratios", "a"), "--ratios takes numbers separated by commas, not 'a'"),
    ],
)
def test_options_that_do_not_fit(run: Run, words: tuple[str, ...], message: str) -> None:
    code, _, err = run(*BENCH, *words)
    assert code == 2
    assert message in " ".join(err.split())


def test_options_of_rivals_need_rivals(run: Run) -> None:
    code, _, err = run("bench", "simulated", "--runs", "a.jsonl")
    assert code == 2
    assert "--runs needs --rivals" in err
    code, _, err = run("bench", "simulated", "--keep", ".")
    assert code == 2
    assert "--keep needs --rivals" in err


@pytest.mark.usefixtures("small_log")
def test_uncompressed_models_are_kept(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*BENCH, "--keep", ".", "--quiet")
    assert run(*words, "--methods", "float32") == (0, "", "")
    assert [path.name for path in tmp_path.glob("*.pt")] == ["simulated-deepfm-2-0.pt"]
    monkeypatch.setattr(kept_model, "train", None)
    assert run(*words, "--methods", "float32,int8") == (0, "", "")
    assert len(Path("rivals-simulated.jsonl").read_text().splitlines()) == 2
    code, _, err = run(*BENCH, "--keep", "none")
    assert code == 2
    assert "'--keep': dir 'none' does not exist" in " ".join(err.split())


def test_help_lists_every_method(run: Run) -> None:
    assert set(RIVAL_METHODS) <= {*METHODS, *SMALL_METHODS}
    assert set(SMALL_METHODS) <= set(RIVAL_METHODS)
    _, out, _ = run("bench", "--help")
    assert all(f"\n    {name} " in out for name in SMALL_METHODS)
