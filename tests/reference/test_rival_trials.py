"""``saec bench --rivals``: runs are recorded one by one, and only missing ones are run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from saec.errors import DataError, OptionError
from saec.reference import rivals
from saec.reference.methods import METHODS
from saec.reference.rival_runs import RivalRun, RunFile
from saec.reference.rival_trials import (
    AFTER_TRAINING,
    TRAINED_OTHERWISE,
    RivalTrials,
    has_one_size,
)
from saec.reference.rivals import RIVAL_METHODS, RivalBenchmark, trial_settings
from saec.reference.simulated import simulate
from saec.reference.small import SMALL

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL_BENCHMARK = RivalBenchmark(
    "simulated",
    dim=4,
    methods=("float32", "svd", "hash", "qr"),
    ratios=(6.0, 100.0),
    seeds=(0, 1),
    trials=2,
)


@pytest.fixture(autouse=True)
def few_clicks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulated log, with few rows."""

    def load(task: str, path: None, seed: int, *, keys: bool) -> Any:
        assert (task, path) == ("simulated", None)
        return simulate(1000, seed=seed, keys=keys)

    monkeypatch.setattr(rivals, "load", load)


def row(**values: Any) -> dict[str, Any]:
    run = RivalRun("simulated", "deepfm", 4, "hash", 6.0, 0, 0, {"rate": 1.0, "decay": 1.0})
    sizes = {"nbytes": 100, "bytes_all_in": 180, "ratio": 6.0, "ratio_all_in": 6.0}
    scores = {"auc": 0.8, "logloss": 0.5, "validation_logloss": 0.5}
    return {**run.described, **sizes, **scores, "seconds": 2.0, **values}


def test_runs_are_recorded_once_and_go_on(tmp_path: Path) -> None:
    path, told = tmp_path / "runs.jsonl", list[str]()
    SMALL_BENCHMARK.run(path, told.append, progress=False)
    whole = path.read_bytes()
    rows = [json.loads(line) for line in whole.splitlines()]
    # Of each seed one run of float32 and two sizes of svd; two trials of two methods at two
    # sizes, of which the second seed takes the better one. qr has no table so small at ratio 100,
    # which leaves nothing to choose.
    assert len(rows) == (1 + 2 + 8) + (1 + 2 + 3)
    assert told[0] == "14 runs left, about 0 minutes, without 14 of unknown time"
    assert told[-1] == "all runs are recorded"
    impossible = [one for one in rows if one["method"] == "qr" and one["target_ratio"] == 100]
    assert ["needs at least" in one["impossible"] for one in impossible] == [True, True]
    base = next(one for one in rows if one["method"] == "float32")
    for one in rows:
        if "impossible" not in one:
            assert one["seconds"] > 0
            assert one["bytes_all_in"] >= one["nbytes"]
            assert abs(one["auc"] - base["auc"]) < 0.2
    for method in ("hash", "qr"):
        own = [one for one in rows if (one["method"], one["target_ratio"]) == (method, 6.0)]
        best = min(own[:2], key=lambda one: one["validation_logloss"])
        assert [one["seed"] for one in own] == [0, 0, 1]
        assert own[2]["settings"] == best["settings"]
        assert own[2]["trial"] is None
    # Killed while it wrote the last line but one: this run and the next are run again.
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-2]) + lines[-2][:50])
    again = list[str]()
    SMALL_BENCHMARK.run(path, again.append, progress=False)
    assert again[0].startswith("2 runs left, about 0 minutes")
    repeated = [json.loads(line) for line in path.read_text().splitlines()]
    assert repeated[:-2] == rows[:-2]
    for old, new in zip(rows[-2:], repeated[-2:], strict=True):
        assert {name: old.get(name) for name in ("settings", "auc", "nbytes")} == {
            name: new.get(name) for name in ("settings", "auc", "nbytes")
        }


def test_defaults_come_first_and_trials_differ() -> None:
    for method in SMALL:
        drawn = [trial_settings(method, "ml-1m", trial) for trial in range(8)]
        assert drawn[0] is not None
        assert (drawn[0]["rate"], drawn[0]["decay"]) == (1.0, 1.0)
        assert all(drawn[place] not in drawn[:place] for place in range(8))
        assert drawn == [trial_settings(method, "ml-1m", trial) for trial in range(8)]
        own = {name: value for name, value in drawn[0].items() if name not in ("rate", "decay")}
        assert SMALL[method](**own) == SMALL[method]()
    assert trial_settings("hash", "ml-1m", 16) is None  # four rates and four decays


def test_expected_times_come_from_the_most_similar_runs(tmp_path: Path) -> None:
    file = RunFile(tmp_path / "runs.jsonl")
    run = RivalRun("simulated", "deepfm", 4, "hash", 6.0, 1, 0, {})
    assert file.seconds(run, SMALL) is None
    file.add(row(method="int4", seconds=1.0))
    assert file.seconds(run, SMALL) is None
    file.add(row(method="qr", seconds=9.0))
    assert file.seconds(run, SMALL) == 9
    file.add(row(target_ratio=50.0, seconds=20.0))
    assert file.seconds(run, SMALL) == 20
    file.add(row(seconds=2.0))
    file.add(row(seconds=4.0, seed=5))
    assert file.seconds(run, SMALL) == 3
    file.add(row(seconds=100.0, task="ml-1m"))
    assert file.seconds(run, SMALL) == 3
    assert RunFile(tmp_path / "runs.jsonl").rows == file.rows


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "line 2 of .* is no JSON"),
        (b"[" * 9999, "line 2 of .* is no JSON"),
        (b"\xff", "line 2 of .* is no JSON"),
        (json.dumps(row(seconds="2")).encode(), "line 2 of .* 'seconds' is '2', not a finite"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "runs.jsonl"
    path.write_bytes(json.dumps(row()).encode() + b"\n" + line + b"\n")
    before = path.read_bytes()
    with pytest.raises(DataError, match=message):
        RunFile(path)
    assert path.read_bytes() == before


def test_a_folder_is_no_results_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"cannot read {tmp_path}"):
        RunFile(tmp_path)
    with pytest.raises(DataError, match=r"cannot write .*none/runs\.jsonl"):
        RunFile(tmp_path / "none" / "runs.jsonl").add(row())


def test_methods_are_known_and_their_sizes_as_said() -> None:
    for method in AFTER_TRAINING:
        if method in METHODS:
            assert METHODS[method]().codec.has_one_size == has_one_size(method)
    assert set(AFTER_TRAINING) - set(METHODS) == {
        "float32",
        "axes-keyed",
        "axes-keyed+network",
    }
    assert has_one_size("dqrm")
    assert not has_one_size("hash")
    assert not set(SMALL) & set(METHODS)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"methods": ("hsh",)}, "no method 'hsh' of --rivals; .*did you mean 'hash'"),
        ({"methods": ()}, "needs methods"),
        ({"ratios": ()}, "needs ratios"),
        ({"seeds": ()}, "needs seeds"),
        ({"trials": 0}, "trials is 0"),
        ({"ratios": (10.0, 0.5)}, r"ratio 0\.5 is below 1"),
        ({"seeds": (0, -1)}, "seed -1"),
    ],
)
def test_benchmarks_that_make_no_sense(given: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        RivalBenchmark("simulated", **given)


def test_every_method_is_run_by_default() -> None:
    assert RivalBenchmark("simulated").methods == RIVAL_METHODS
    wanted = "int8 int4 pq svd saec axes axes-keyed hash qr mixed-dim robe tt dqrm mpe dhe cce"
    ours = "axes-keyed+network axes-keyed+priced float32+priced axes-keyed+averaged"
    assert {*ours.split(), *wanted.split()} <= set(RIVAL_METHODS)


def test_prices_on_bits_are_tried_in_order_and_the_best_goes_to_other_seeds(
    tmp_path: Path,
) -> None:
    assert [trial_settings("axes+priced", "ml-1m", trial) for trial in range(3)] == [
        {"price": 1.6e-7},
        {"price": 3.2e-7},
        {"price": 6.4e-7},
    ]
    assert trial_settings("axes+priced", "globo", 0) == {"price": 4e-9}
    assert trial_settings("axes+priced", "ml-1m", 8) is None
    assert trial_settings("axes-keyed+averaged", "globo", 1) == {"half_life": 0.02}
    assert trial_settings("axes-keyed+averaged", "globo", 4) is None
    tuned = [trial_settings("float32+tuned", "globo", trial) for trial in range(17)]
    assert tuned == [trial_settings("axes-keyed+tuned", "ml-1m", trial) for trial in range(17)]
    assert (tuned[0], tuned[16]) == ({"rate": 1.0, "decay": 1.0}, None)
    assert trial_settings("axes", "globo", 0) == {}
    assert trial_settings("axes", "globo", 1) is None
    assert has_one_size("float32+priced")
    assert not has_one_size("axes+priced")
    benchmark = RivalBenchmark(
        "simulated", methods=("axes+priced",), ratios=(10.0,), seeds=(0, 1), trials=2
    )
    file = RunFile(tmp_path / "runs.jsonl")
    for run, loss in zip(list(benchmark.missing(file)), (0.5, 0.4), strict=True):
        file.add({**run.described, "seconds": 1.0, "validation_logloss": loss})
    (chosen,) = benchmark.missing(file)
    assert (chosen.seed, dict(chosen.settings)) == (1, {"price": 2e-9})


def test_models_with_prices_are_trained_once_and_kept(tmp_path: Path) -> None:
    log = simulate(2000, seed=1, keys=True)
    trials = RivalTrials(log, "deepfm", 4, 0, False, tmp_path)

    def measured(method: str, ratio: float | None, price: float) -> dict[str, Any]:
        run = RivalRun(log.name, "deepfm", 4, method, ratio, 0, 0, {"price": price})
        return trials.measured(run)

    low, high = (measured("float32+priced", None, price) for price in (1e-9, 1e-3))
    assert low["logloss"] != high["logloss"]
    assert low["ratio"] == high["ratio"] == 1
    small = measured("axes-keyed+priced", 4.0, 1e-3)
    assert small["ratio_all_in"] >= 4
    assert small["train_seconds"] == high["train_seconds"]
    names = {f"simulated-deepfm-4-0-price-{price}.pt" for price in ("1e-09", "0.001")}
    assert {path.name for path in tmp_path.iterdir()} == names
    trials = RivalTrials(log, "deepfm", 4, 0, False, tmp_path)
    again = measured("float32+priced", None, 1e-3)  # from its file, seconds of training included
    assert min(small["lookup_ns"], again.pop("lookup_ns"), high.pop("lookup_ns")) > 0
    assert again == high


def test_methods_of_models_trained_otherwise_compress_as_the_plain_ones() -> None:
    plain = {
        method.removesuffix("+priced").removesuffix("+averaged").removesuffix("+tuned")
        for method in TRAINED_OTHERWISE
    }
    assert plain <= set(AFTER_TRAINING)


def test_runs_on_one_trained_model_follow_one_another(tmp_path: Path) -> None:
    methods = ("axes", "float32+priced", "axes+priced", "float32+averaged", "axes-keyed+averaged")
    benchmark = RivalBenchmark("simulated", methods=methods, ratios=(10.0, 30.0), trials=2)
    models = [
        tuple(run.settings.items()) for run in benchmark.missing(RunFile(tmp_path / "runs.jsonl"))
    ]
    changes = [one for one, before in zip(models, [None, *models], strict=False) if one != before]
    assert len(changes) == len(set(models))
    assert len(set(models)) == 1 + 2 + 2
