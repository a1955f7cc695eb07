"""Experiments on logs of a few thousand rows: the figures, the file, and what is refused."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coding_calls import offers

import saec
import saec.torch
from saec.compression.budget import LossIncrease, Ratio
from saec.errors import BudgetError, DataError, OptionError, SaecError
from saec.reference import experiment, load, simulate
from saec.reference import tuning as tuning_module
from saec.reference.benchmark import Benchmark
from saec.reference.datasets.avazu import FIELDS
from saec.reference.evaluate import divergence, evaluate, predict
from saec.reference.experiment import bench, demo, write_json
from saec.reference.job import Job
from saec.reference.log import TRAIN, VALIDATION
from saec.reference.machine import machine
from saec.reference.methods import METHODS
from saec.reference.models import build
from saec.reference.train import train
from saec.reference.trial import Trial
from saec.reference.tuning import Tuning
from saec.report import read_results
from saec.torch import CompressedEmbedding

ROWS = 4000

# One of a single size comes first, and what tunes a result not always after it, so that a row's
# place tells nothing.
METHOD_NAMES = (
    *("kmeans+finetune", "saec", "saec+finetune", "axes+unseen", "axes", "axes-remapped"),
    *("axes-remapped+unseen", "faiss-kmeans"),
)

TIMES = ("compress_seconds", "finetune_seconds")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def clicks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A click log in Avazu's format: two fields with heavy tails tell the click."""
    rng = np.random.default_rng(0)
    columns = {name: np.zeros(ROWS, np.int64) for name in FIELDS}
    columns["site_id"] = (500 * rng.random(ROWS) ** 3).astype(np.int64)
    columns["device_ip"] = (1100 * rng.random(ROWS) ** 3).astype(np.int64)
    effects = rng.normal(size=1101)
    logits = effects[columns["site_id"]] + effects[-columns["device_ip"]]
    clicked = rng.random(ROWS) < 1 / (1 + np.exp(-2 * logits))
    path = tmp_path_factory.mktemp("avazu") / "train.csv"
    lines = [",".join(("id", "click", "hour", *FIELDS))]
    for row in range(ROWS):
        values = [columns[name][row] for name in FIELDS]
        lines.append(",".join(map(str, [row, int(clicked[row]), 14102100 + row % 24, *values])))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def told() -> list[dict[str, Any]]:
    """The rows that on_row received."""
    return []


@pytest.fixture(scope="module")
def results(clicks: Path, told: list[dict[str, Any]]) -> dict[str, Any]:
    """The results of one bench with all options."""
    benchmark = Benchmark(
        "avazu",
        str(clicks),
        methods=METHOD_NAMES,
        ratios=[4, 6],
        loss_increases=[0.01],
        seeds=[0, 1],
    )
    return bench(benchmark, progress=False, on_row=told.append)


@pytest.fixture(scope="module")
def trial() -> Trial:
    """A model trained on a simulated log."""
    return Trial.start(simulate(3000, 3, seed=1), "deepfm", 8, 1, progress=False)


def job(name: str, budget: Ratio | LossIncrease | None) -> Job:
    """A method by its name, as bench makes them."""
    plain, _, tuning = name.partition("+")
    return Job(name, dataclasses.replace(METHODS[plain](), tuning=tuning or None), budget)


def quality(row: dict[str, Any]) -> dict[str, Any]:
    """A row without what depends on the machine, or on the other rows."""
    return {key: value for key, value in row.items() if key not in (*TIMES, "pictures")}


def chosen(results: dict[str, Any], method: str, **values: object) -> list[dict[str, Any]]:
    return [
        row
        for row in results["rows"]
        if row["method"] == method and all(row[name] == value for name, value in values.items())
    ]


def test_methods_of_one_size_take_no_budget() -> None:
    methods = ("kmeans+finetune", "axes", "axes-remapped")
    asked = Benchmark(
        "avazu", "a.csv", methods=methods, ratios=(4,), loss_increases=(0.01,), seeds=(2,)
    )
    assert [(job.name, job.budget) for job in asked.jobs()] == [
        ("kmeans+finetune", None),
        ("axes", Ratio(4)),
        ("axes", LossIncrease(0.01)),
        ("axes-remapped", Ratio(4)),
    ]
    assert asked.command().endswith("--ratios 4 --loss-increases 0.01 --seeds 2")


@pytest.mark.exhaustive
def test_the_order_of_the_rows(results: dict[str, Any], told: list[dict[str, Any]]) -> None:
    expected = [
        (seed, method, *target)
        for seed in (0, 1)
        for method, targets in (
            ("kmeans+finetune", [(None, None)]),
            ("saec", [(4, None), (6, None)]),  # has no metric and skips the loss increase
            ("saec+finetune", [(4, None), (6, None)]),
            ("axes+unseen", [(4, None), (6, None), (None, 0.01)]),
            ("axes", [(4, None), (6, None), (None, 0.01)]),
            ("axes-remapped", [(4, None), (6, None)]),  # renumbers, and skips it, too
            ("axes-remapped+unseen", [(4, None), (6, None)]),
            ("faiss-kmeans", [(None, None)]),
        )
        for target in targets
    ]
    found = [
        (row["seed"], row["method"], row["target_ratio"], row["target_loss_increase"])
        for row in results["rows"]
    ]
    assert found == expected
    assert told == results["rows"]


@pytest.mark.exhaustive
def test_what_a_row_holds(results: dict[str, Any]) -> None:
    for row in results["rows"]:
        assert (row["task"], row["model"], row["dim"]) == ("avazu", "deepfm", 16)
        assert row["ratio"] == row["original_nbytes"] / row["nbytes"]
        assert row["original_nbytes"] == row["features"] * 16 * 4
        assert row["target_ratio"] is None or row["ratio"] >= row["target_ratio"]
        assert row["compress_seconds"] > 0
        assert row["finetuned"] == ("+" in row["method"])
        assert ("finetune_seconds" in row) == row["finetuned"]
        assert 0 < row["divergence"] < 1
        # A file has a header besides.
        assert set(row["field_bytes"]) == set(row["clusters"]) == {"hour", "weekday", *FIELDS}
        assert 0 < row["nbytes"] - sum(row["field_bytes"].values()) < 1500
        assert sum(row["field_original_bytes"].values()) == row["original_nbytes"]
        for tiers in row["field_tiers"].values():
            assert [tier["rows"] for tier in tiers[:-1]] == [64, 192, 768][: len(tiers) - 1]
        clustered = not row["method"].startswith("axes")
        assert (row["clusters"]["device_ip"] is not None) == clustered
        # Four features each, or one: no codebook would be smaller.
        assert row["clusters"]["weekday"] is None


@pytest.mark.exhaustive
def test_the_smallest_of_each_method_is_pictured_once(results: dict[str, Any]) -> None:
    pictured = [row for row in results["rows"] if "pictures" in row]
    assert [row["seed"] for row in pictured] == [0, 0, 0, 0]
    assert {row["method"] for row in pictured} == {"saec", "axes", "axes-remapped", "faiss-kmeans"}
    for row in pictured:
        same = chosen(results, row["method"], seed=0)
        assert row["nbytes"] == min(other["nbytes"] for other in same)
        assert {picture["field"] for picture in row["pictures"]} == {"site_id", "device_ip"}
        for picture in row["pictures"]:
            assert len(picture["ids"]) == min(picture["features"], 400)
            assert "names" not in picture  # nobody asked for them
    saec, axes = (row["pictures"] for row in pictured[:2])
    # Features lie where the uncompressed model has them, whatever the method.
    for one, other in zip(saec, axes, strict=True):
        assert (one["x"], one["y"]) == (other["x"], other["y"])


@pytest.mark.exhaustive
def test_names_of_features(clicks: Path) -> None:
    asked = Benchmark("avazu", str(clicks), methods=["saec"], ratios=[6], seeds=[0], names=True)
    given = bench(asked, progress=False)
    assert given["command"].endswith("--seeds 0 --names")
    log = load("avazu", clicks, seed=0, vocabularies=True)
    assert log.vocabularies is not None
    for picture in given["rows"][0]["pictures"]:
        values = log.vocabularies[picture["field"]]
        assert picture["names"] == [values[feature] for feature in picture["ids"]]


@pytest.mark.exhaustive
def test_only_a_metric_predicts_and_only_before_tuning(results: dict[str, Any]) -> None:
    for row in results["rows"]:
        predicted = row["predicted_loss_increase"]
        assert (predicted is not None) == (row["method"] in ("axes", "axes-remapped"))
        assert predicted is None or 0 < predicted < 0.1


@pytest.mark.exhaustive
def test_a_loss_increase_is_met_on_the_rows_that_calibrate(results: dict[str, Any]) -> None:
    rows = chosen(results, "axes", target_loss_increase=0.01)
    assert rows
    for row in rows:
        on_validation = row["validation_logloss"] - row["base_validation_logloss"]
        assert 0 < row["predicted_loss_increase"] <= 0.01 * 1.05
        # 320 rows tell it to 0.008 (one standard error: an increase of 0.01 is a change of the
        # losses by 0.14 each), for which larger increases have had a say in the forecast.
        assert on_validation == pytest.approx(row["predicted_loss_increase"], abs=0.024)


@pytest.mark.exhaustive
def test_deciles_add_up_to_the_whole(results: dict[str, Any]) -> None:
    for row in results["rows"]:
        assert sum(decile["rows"] for decile in row["deciles"]) == row["test_rows"]
        assert [decile["least"] for decile in row["deciles"]] == sorted(
            decile["least"] for decile in row["deciles"]
        )
        change = sum(decile["rows"] * decile["logloss_change"] for decile in row["deciles"])
        increase = row["logloss"] - row["base_logloss"]
        assert change / row["test_rows"] == pytest.approx(increase, abs=1e-9)


@pytest.mark.exhaustive
def test_one_model_for_all_rows_of_a_seed(results: dict[str, Any]) -> None:
    for seed in (0, 1):
        rows = [row for row in results["rows"] if row["seed"] == seed]
        for name in ("base_auc", "base_logloss", "base_validation_auc", "original_nbytes"):
            assert len({row[name] for row in rows}) == 1
        assert rows[0]["base_auc"] > 0.6


@pytest.mark.exhaustive
def test_the_figures_are_those_of_the_decoded_model(
    clicks: Path, results: dict[str, Any], tmp_path: Path
) -> None:
    log = load("avazu", clicks, seed=1)
    model = build("deepfm", log.vocab_sizes, 16, seed=1)
    train(model, log, seed=1, progress=False)
    tables = saec.torch.fields(
        model, {f"embeddings.{name}": counts for name, counts in log.frequencies.items()}
    )
    result = saec.compress(tables, saec.Ratio(6), saec.Clusters(), seed=1, progress=False)
    result.save(tmp_path / "a.saec")
    for name in log.field_names:
        with torch.no_grad():
            rows = torch.from_numpy(result[f"embeddings.{name}"].decode())
            model.embeddings[name].weight.copy_(rows)
    (row,) = chosen(results, "saec", seed=1, target_ratio=6)
    score = evaluate(model, log, "test", progress=False)
    assert (row["auc"], row["logloss"]) == (score.auc, score.logloss)
    assert row["nbytes"] == (tmp_path / "a.saec").stat().st_size


@pytest.mark.exhaustive
def test_fine_tuning_never_hurts_on_validation_rows(results: dict[str, Any]) -> None:
    pairs = list(
        zip(chosen(results, "saec"), chosen(results, "saec+finetune"), strict=True),
    )
    for plain, tuned in pairs:
        assert tuned["validation_logloss"] <= plain["validation_logloss"]
        assert tuned["ratio"] == pytest.approx(plain["ratio"], rel=0.01)
        assert tuned["compress_seconds"] == plain["compress_seconds"]  # one result for both
    assert any(tuned["validation_logloss"] < plain["validation_logloss"] for plain, tuned in pairs)


@pytest.mark.exhaustive
def test_each_method_alone_and_again(clicks: Path, results: dict[str, Any]) -> None:
    methods = ["axes", "kmeans+finetune"]
    asked = Benchmark("avazu", str(clicks), methods=methods, ratios=[6], seeds=[1])
    again = bench(asked, progress=False)
    axes, kmeans = again["rows"]
    (before,) = chosen(results, "axes", seed=1, target_ratio=6)
    assert quality(axes) == quality(before)
    (before,) = chosen(results, "kmeans+finetune", seed=1)
    assert quality(kmeans) == quality(before)


@pytest.mark.exhaustive
def test_the_command_that_does_the_same(clicks: Path, results: dict[str, Any]) -> None:
    assert results["command"] == (
        f"saec bench avazu --path {clicks} --model deepfm --dim 16 "
        f"--methods {','.join(METHOD_NAMES)} --ratios 4,6 --loss-increases 0.01 --seeds 0,1"
    )


@pytest.mark.exhaustive
def test_the_file_is_one_that_the_report_reads(results: dict[str, Any], tmp_path: Path) -> None:
    write_json(tmp_path / "r.json", results)
    assert read_results(tmp_path / "r.json") == results


def test_the_model_is_afterwards_as_it_was(trial: Trial) -> None:
    modules = dict(trial.model.embeddings.items())
    state = {key: value.clone() for key, value in trial.model.state_dict().items()}
    jobs = [job("saec+unseen", Ratio(4)), job("axes", LossIncrease(0.01)), job("axes", Ratio(4))]
    rows = list(trial.rows(jobs))
    assert [row["finetuned"] for row in rows] == [True, False, False]
    assert list(trial.model.embeddings) == list(modules)
    assert all(trial.model.embeddings[name] is module for name, module in modules.items())
    after = trial.model.state_dict()
    assert set(after) == set(state)
    assert all(torch.equal(after[key], value) for key, value in state.items())
    assert all(parameter.requires_grad for parameter in trial.model.parameters())


def test_the_divergence_by_hand() -> None:
    before, after = np.array([0.5, 0.25], np.float32), np.array([0.25, 0.25], np.float32)
    # KL of the first, 1/2 ln(0.5 / 0.25) + 1/2 ln(0.5 / 0.75); none of the second.
    assert divergence(before, after) == pytest.approx(math.log(4 / 3) / 4)
    assert divergence(before, before) == 0


@pytest.mark.exhaustive
def test_the_seconds_of_shared_work_count_once_for_each_job(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = itertools.count()  # a second passes whenever the clock is read
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(ticks)))
    fresh = dataclasses.replace(trial, progress=False)
    first = fresh.compress(job("axes", Ratio(4)))[1]
    # Two seconds that stand between readings for metric and options; coding adds its own.
    assert fresh.compress(job("axes", Ratio(6)))[1] == first
    assert fresh.compress(job("saec-metric", Ratio(6)))[1] == first
    assert fresh.compress(job("saec", Ratio(6)))[1] == first - 1


def test_the_truth_of_a_simulated_log_is_the_best(trial: Trial) -> None:
    facts = trial.facts
    assert 0.5 < facts["base_auc"] < facts["best_auc"]
    assert facts["best_logloss"] < facts["base_logloss"]


def test_fine_tuning_does_not_look_at_training_labels(trial: Trial) -> None:
    log = trial.log
    # Validation labels that the teacher gets right, so that coming nearer to it counts as better.
    sides = predict(trial.model, log.ids, progress=False) > 0.2
    labels = np.where(log.split == VALIDATION, sides, log.labels)
    flipped = np.where(log.split == TRAIN, 1 - labels, labels)
    result, _ = trial.compress(job("saec", Ratio(8)))
    users = []
    for seen in (labels, flipped):
        other = dataclasses.replace(log, labels=seen.astype(np.float32))
        one = dataclasses.replace(trial, log=other)
        tuning = Tuning(one.model, one.log, one.seed, one.progress)
        with one.holding(result):
            users.append(tuning.run(result, "finetune")["embeddings.user"].decode())
    assert np.array_equal(users[0], users[1])
    assert not np.array_equal(users[0], result["embeddings.user"].decode())


def test_the_teacher_is_the_uncompressed_model(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(tuning_module, "finetune", lambda *_, **given: asked.append(given))
    # The model holds the first job's tables while its row waits to be taken.
    for _ in trial.rows([job("saec", Ratio(6)), job("saec+finetune", Ratio(6))]):
        assert any(isinstance(m, CompressedEmbedding) for m in trial.model.modules())
    (given,) = asked
    order = np.random.default_rng(trial.seed).permutation(trial.log.rows("train"))
    expected = predict(trial.model, trial.log.ids[order], progress=False)
    found = torch.sigmoid(torch.cat(given["teacher"])).numpy()
    assert np.allclose(found, expected, atol=1e-6)


def test_unseen_labels_are_those_of_one_half_of_the_validation_rows(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(
        tuning_module,
        "finetune_on_unseen_rows",
        lambda _, batches, **given: asked.append((batches, given["validation"])),
    )
    list(trial.rows([job("saec+unseen", Ratio(6))]))
    ((unseen, judged),) = asked
    ids = trial.log.ids[trial.log.rows("validation")]
    (learned, _), (judging, _) = (
        [torch.cat(parts).numpy() for parts in zip(*batches, strict=True)]
        for batches in (unseen, judged)
    )
    assert abs(len(learned) - len(judging)) <= 2
    assert np.array_equal(np.concatenate([learned, judging]), ids)


def test_a_ratio_out_of_reach_ends_before_anything_is_measured(trial: Trial) -> None:
    with pytest.raises(BudgetError, match=r"smallest possible is \d+ bytes"):
        next(trial.rows([job("saec", Ratio(4)), job("saec", Ratio(100_000))]))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_codec(method: str) -> None:
    rows = np.random.default_rng(0).standard_normal((200, 8), dtype=np.float32)
    field = saec.Field("f", rows, np.ones(200))
    made = METHODS[method]()
    assert offers(made.codec, field)
    assert made.tuning is None


GOOD: dict[str, Any] = {"methods": ["saec"], "ratios": [10.0], "seeds": [0]}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"task": "ml-2m"}, DataError, "no task 'ml-2m'; there are simulated, ml-1m"),
        ({"model": "fm"}, DataError, "no model is called 'fm'; there are dcnv2, deepfm"),
        ({"methods": ["lsh"]}, OptionError, "no method 'lsh'; there are saec, saec-metric, axes, "),
        ({"methods": ["axes+"]}, OptionError, r"no method 'axes\+'; .* \+finetune or \+unseen"),
        ({"methods": ["axes+lsh"]}, OptionError, r"no method 'axes\+lsh'"),
        ({"methods": ["axes+finetune+unseen"]}, OptionError, r"no method 'axes\+finetune\+uns"),
        ({"methods": ["+finetune"]}, OptionError, r"no method '\+finetune'"),
        ({"methods": []}, OptionError, "bench needs methods: none were given"),
        ({"ratios": []}, OptionError, "bench needs ratios: none were given"),
        (
            {"methods": ["axes", "saec"], "ratios": [], "loss_increases": [1e-3]},
            OptionError,
            "method 'saec' has no loss metric: give it ratios",
        ),
        (
            {"methods": ["axes-remapped"], "ratios": [], "loss_increases": [1e-3]},
            OptionError,
            "method 'axes-remapped' renumbers features: give it ratios",
        ),
        ({"loss_increases": [0.0]}, BudgetError, "loss increase must be"),
        ({"seeds": []}, OptionError, "bench needs seeds: none were given"),
        ({"seeds": [0, -1]}, OptionError, "seed -1: seeds must not be negative"),
        ({"ratios": [10, 0.5]}, BudgetError, "a ratio must be a number of at least 1, not 0.5"),
        ({"path": None}, DataError, "task 'ml-1m' needs the path of its data"),
        ({"path": "nowhere.parquet"}, DataError, "nowhere.parquet: no such file"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], error: type[SaecError], message: str) -> None:
    chosen = {"task": "ml-1m", "path": "nowhere.parquet", **GOOD, **arguments}
    with pytest.raises(error, match=message):
        bench(Benchmark(**chosen), progress=False)


def test_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The same on a smaller log.
    monkeypatch.setattr(experiment, "DEMO_ROWS", 2500)
    monkeypatch.setattr(experiment, "DEMO_RATIOS", (5.0, 10.0))
    told: list[dict[str, Any]] = []
    results = demo(tmp_path / "new" / "demo", seed=3, progress=False, on_row=told.append)
    target = tmp_path / "new" / "demo" / "results.json"
    assert list(target.parent.iterdir()) == [target]
    assert json.loads(target.read_text()) == results
    assert results["command"] == "saec demo --seed 3"
    assert told == results["rows"]
    found = [(row["method"], row["target_ratio"]) for row in told]
    assert found == [
        (method, ratio)
        for method in ("saec", "saec-metric", "axes", "axes+finetune", "axes-remapped")
        for ratio in (5.0, 10.0)
    ]
    assert all(row["best_auc"] > row["base_auc"] > 0.5 for row in told)
    pictured = [row for row in told if "pictures" in row]
    assert [(row["method"], row["target_ratio"]) for row in pictured] == [
        ("saec", 10),
        ("saec-metric", 10),
        ("axes", 10),
        ("axes-remapped", 10),
    ]
    assert all("names" in picture for row in pictured for picture in row["pictures"])


def test_demo_refuses_before_it_trains(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "results.json").mkdir()
    with pytest.raises(DataError, match=r"cannot make the directory .*file: File exists"):
        demo(tmp_path / "file")
    with pytest.raises(DataError, match=r"cannot write .*results\.json: it is a directory"):
        demo(tmp_path)
    with pytest.raises(OptionError, match="seed -1: a seed must not be negative"):
        demo(tmp_path / "new", seed=-1)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "r.json"
    write_json(target, {"rows": [1]})
    for bad in (float("nan"), object()):
        with pytest.raises((ValueError, TypeError)):
            write_json(target, {"rows": [bad]})
    assert json.loads(target.read_text()) == {"rows": [1]}
    write_json(target, {"rows": [2]})
    assert json.loads(target.read_text()) == {"rows": [2]}
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    for target, reason in (
        (tmp_path / "none" / "r.json", "No such file or directory"),
        (tmp_path / "directory", "it is a directory"),
    ):
        with pytest.raises(DataError, match=f"cannot write {target}: {reason}"):
            write_json(target, {})
    assert [path.name for path in tmp_path.iterdir()] == ["directory"]


def test_the_machine() -> None:
    facts = machine()
    assert facts["cores"] >= 1
    assert facts["memory"] > 1 << 28
    assert facts["packages"]["numpy"] == np.__version__
    assert facts["date"][:2] == "20"
    assert all(facts[name] for name in ("cpu", "system", "python"))
