"""Experiments on logs of a few thousand rows: the figures, the file, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import saec
import saec.torch
from saec.errors import BudgetError, DataError, OptionError, SaecError
from saec.reference import experiment, load, simulate
from saec.reference.datasets.avazu import FIELDS
from saec.reference.evaluate import evaluate, predict
from saec.reference.experiment import METHODS, bench, demo, write_json
from saec.reference.log import TRAIN, VALIDATION
from saec.reference.machine import machine
from saec.reference.models import build
from saec.reference.train import train
from saec.reference.trial import Job, Trial, Tuning
from saec.report import read_results

ROWS = 4000

# Those of a method that has one size come first, so that a row's place tells nothing.
METHOD_NAMES = ("kmeans", "saec", "faiss-kmeans")

TIMES = ("compress_seconds", "finetune_seconds")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tables this small only wait for threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def clicks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A click log in Avazu's format: two fields with heavy tails tell the click."""
    rng = np.random.default_rng(0)
    columns = {name: np.zeros(ROWS, np.int64) for name in FIELDS}
    columns["site_id"] = (900 * rng.random(ROWS) ** 3).astype(np.int64)
    columns["device_ip"] = (2000 * rng.random(ROWS) ** 3).astype(np.int64)
    effects = rng.normal(size=2001)
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
    """What on_row got."""
    return []


@pytest.fixture(scope="module")
def results(clicks: Path, told: list[dict[str, Any]]) -> dict[str, Any]:
    """One bench with everything in it."""
    return bench(
        "avazu",
        str(clicks),
        dim=16,
        methods=METHOD_NAMES,
        ratios=[4, 6],
        seeds=[0, 1],
        progress=False,
        on_row=told.append,
    )


@pytest.fixture(scope="module")
def trial() -> Trial:
    """A model trained on a simulated log."""
    return Trial.start(simulate(3000, 3, seed=1), "deepfm", 8, 1, progress=False)


def quality(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in TIMES}


def test_the_order_of_the_rows(results: dict[str, Any], told: list[dict[str, Any]]) -> None:
    expected = [
        (seed, method, target, tuned)
        for seed in (0, 1)
        for method, target in (("kmeans", None), ("saec", 4), ("saec", 6), ("faiss-kmeans", None))
        for tuned in (False, True)
    ]
    found = [
        (row["seed"], row["method"], row["target_ratio"], row["finetuned"])
        for row in results["rows"]
    ]
    assert found == expected
    assert told == results["rows"]


def test_what_a_row_holds(results: dict[str, Any]) -> None:
    for row in results["rows"]:
        assert (row["task"], row["model"], row["dim"]) == ("avazu", "deepfm", 16)
        assert row["ratio"] == row["original_nbytes"] / row["nbytes"]
        assert row["original_nbytes"] == row["features"] * 16 * 4
        assert row["target_ratio"] is None or row["ratio"] >= row["target_ratio"]
        assert row["compress_seconds"] > 0
        assert ("finetune_seconds" in row) == row["finetuned"]
        assert set(row["clusters"]) == {"hour", "weekday", *FIELDS}
        assert row["clusters"]["device_ip"] > 1
        # Four features each, or one: no codebook would be smaller.
        assert row["clusters"]["weekday"] is None


def test_one_model_for_all_rows_of_a_seed(results: dict[str, Any]) -> None:
    for seed in (0, 1):
        rows = [row for row in results["rows"] if row["seed"] == seed]
        for name in ("base_auc", "base_logloss", "base_validation_auc", "original_nbytes"):
            assert len({row[name] for row in rows}) == 1
        assert rows[0]["base_auc"] > 0.6


def test_the_figures_are_those_of_the_decoded_model(
    clicks: Path, results: dict[str, Any], tmp_path: Path
) -> None:
    log = load("avazu", clicks, seed=1)
    model = build("deepfm", log.vocab_sizes, 16, seed=1)
    train(model, log, seed=1, progress=False)
    tables = saec.torch.fields(
        model, {f"embeddings.{name}": counts for name, counts in log.frequencies.items()}
    )
    result = saec.compress(tables, saec.Ratio(6), seed=1, progress=False)
    result.save(tmp_path / "a.saec")
    for name in log.field_names:
        with torch.no_grad():
            rows = torch.from_numpy(result[f"embeddings.{name}"].decode())
            model.embeddings[name].weight.copy_(rows)
    (row,) = (
        row
        for row in results["rows"]
        if (row["seed"], row["target_ratio"], row["finetuned"]) == (1, 6, False)
    )
    score = evaluate(model, log, "test", progress=False)
    assert (row["auc"], row["logloss"]) == (score.auc, score.logloss)
    assert row["nbytes"] == (tmp_path / "a.saec").stat().st_size


def test_fine_tuning_never_hurts_on_validation_rows(results: dict[str, Any]) -> None:
    pairs = list(zip(results["rows"][::2], results["rows"][1::2], strict=True))
    for plain, tuned in pairs:
        assert tuned["validation_logloss"] <= plain["validation_logloss"]
        assert tuned["ratio"] == pytest.approx(plain["ratio"], rel=0.01)
    assert any(tuned["validation_logloss"] < plain["validation_logloss"] for plain, tuned in pairs)


def test_without_fine_tuning_and_again(clicks: Path, results: dict[str, Any]) -> None:
    again = bench(
        "avazu",
        str(clicks),
        dim=16,
        methods=["kmeans"],
        ratios=[2],
        seeds=[1],
        finetune=False,
        progress=False,
    )
    (row,) = again["rows"]
    (before,) = (
        row
        for row in results["rows"]
        if (row["seed"], row["method"], row["finetuned"]) == (1, "kmeans", False)
    )
    assert quality(row) == quality(before)


def test_the_command_that_does_the_same(clicks: Path, results: dict[str, Any]) -> None:
    assert results["command"] == (
        f"saec bench avazu --path {clicks} --model deepfm --dim 16 "
        "--methods kmeans,saec,faiss-kmeans --ratios 4,6 --seeds 0,1"
    )


def test_the_file_is_one_that_the_report_reads(results: dict[str, Any], tmp_path: Path) -> None:
    write_json(tmp_path / "r.json", results)
    assert read_results(tmp_path / "r.json") == results


def test_compressed_tables_leave_the_model_as_it_was(trial: Trial) -> None:
    modules = dict(trial.model.embeddings.items())
    state = {key: value.clone() for key, value in trial.model.state_dict().items()}
    rows = list(trial.rows([Job("saec", saec.Clusters(), 4.0)], tune=True))
    assert [row["finetuned"] for row in rows] == [False, True]
    assert list(trial.model.embeddings) == list(modules)
    assert all(trial.model.embeddings[name] is module for name, module in modules.items())
    after = trial.model.state_dict()
    assert set(after) == set(state)
    assert all(torch.equal(after[key], value) for key, value in state.items())
    assert all(parameter.requires_grad for parameter in trial.model.parameters())


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
    result, _ = trial.compress(Job("saec", saec.Clusters(), 6.0), trial.tables())
    users = []
    for seen in (labels, flipped):
        other = dataclasses.replace(log, labels=seen.astype(np.float32))
        one = dataclasses.replace(trial, log=other)
        tuning = Tuning(one)
        with one.holding(result):
            users.append(tuning.run(result)["embeddings.user"].decode())
    assert np.array_equal(users[0], users[1])
    assert not np.array_equal(users[0], result["embeddings.user"].decode())


def test_a_ratio_out_of_reach_ends_before_anything_is_measured(trial: Trial) -> None:
    jobs = [Job("saec", saec.Clusters(), 4.0), Job("saec", saec.Clusters(), 100_000.0)]
    with pytest.raises(BudgetError, match=r"smallest possible is \d+ bytes"):
        next(trial.rows(jobs, tune=False))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_codec(method: str) -> None:
    field = saec.Field("f", np.eye(200, dtype=np.float32), np.ones(200))
    assert METHODS[method]().options(field, np.random.default_rng(0))


GOOD: dict[str, Any] = {"methods": ["saec"], "ratios": [10.0], "seeds": [0], "progress": False}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"task": "ml-2m"}, DataError, "no task 'ml-2m'; there are simulated, ml-1m"),
        ({"model": "fm"}, DataError, "no model is called 'fm'; there are dcnv2, deepfm"),
        ({"methods": ["pq"]}, OptionError, "no method 'pq'; there are saec, kmeans, kmeans-w"),
        ({"methods": []}, OptionError, "bench needs methods: none were given"),
        ({"ratios": []}, OptionError, "bench needs ratios: none were given"),
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
        bench(chosen.pop("task"), chosen.pop("path"), **chosen)


def test_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The same on a smaller log.
    monkeypatch.setattr(experiment, "DEMO_ROWS", 6000)
    monkeypatch.setattr(experiment, "DEMO_RATIOS", (5.0, 10.0))
    told: list[dict[str, Any]] = []
    results = demo(tmp_path / "new" / "demo", seed=3, progress=False, on_row=told.append)
    target = tmp_path / "new" / "demo" / "results.json"
    assert list(target.parent.iterdir()) == [target]
    assert json.loads(target.read_text()) == results
    assert results["command"] == "saec demo --seed 3"
    assert told == results["rows"]
    found = [(row["target_ratio"], row["finetuned"]) for row in told]
    assert found == [(5.0, False), (5.0, True), (10.0, False), (10.0, True)]
    assert all(row["best_auc"] > row["base_auc"] > 0.5 for row in told)


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
        (tmp_path / "directory", "Is a directory"),
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
