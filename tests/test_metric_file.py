"""Loss metrics in a file: round trips, the format, and errors."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from saec import Field, LossMetrics, MetricError, load_metrics, measure, save_metrics
from saec.tables.unseen_gradients import RowSums, UnseenGradients


@pytest.fixture
def metrics() -> LossMetrics:
    matrices = {"user": np.array([[2.0, 0.1], [0.1, 1 / 3]]), "a.item": np.array([[0.0]])}
    return LossMetrics(matrices, 12_345, {"user": 0.02, "a.item": math.inf})


def test_saved_metrics_are_loaded(metrics: LossMetrics, tmp_path: Path) -> None:
    path = tmp_path / "metrics.safetensors"
    save_metrics(metrics, path)
    loaded = load_metrics(path)
    assert list(loaded) == ["user", "a.item"]
    for name, matrix in metrics.items():
        assert loaded[name].dtype == np.float64
        np.testing.assert_array_equal(loaded[name], matrix)
    assert loaded.examples == 12_345
    assert loaded.relative_errors == {"user": 0.02, "a.item": math.inf}
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.safetensors"]


def test_the_format(metrics: LossMetrics, tmp_path: Path) -> None:
    path = tmp_path / "metrics.safetensors"
    save_metrics(metrics, str(path))
    with safetensors.safe_open(path, framework="np") as file:
        assert sorted(file.keys()) == ["a.item", "user"]
        facts = json.loads(file.metadata()["saec_metrics"])
    errors = {"user": 0.02, "a.item": None}
    assert facts == {"format": 1, "examples": 12_345, "relative_errors": errors}


@pytest.fixture
def with_unseen(metrics: LossMetrics) -> LossMetrics:
    halves = (
        RowSums(np.array([3, 7]), np.array([[1, 2], [3, 4]], np.float32)),
        RowSums(np.zeros(0, np.int64), np.zeros((0, 2), np.float32)),
    )
    known = {"user": UnseenGradients(halves, 10)}
    return LossMetrics(dict(metrics), metrics.examples, metrics.relative_errors, known)


def test_gradients_on_unseen_rows_come_back(with_unseen: LossMetrics, tmp_path: Path) -> None:
    path = tmp_path / "metrics.safetensors"
    save_metrics(with_unseen, path)
    loaded = load_metrics(path)
    assert loaded.examples == 12_345
    np.testing.assert_array_equal(loaded["user"], with_unseen["user"])
    [(name, found)] = loaded.unseen.items()
    assert (name, found.examples) == ("user", 10)
    for half, saved in zip(found.halves, with_unseen.unseen["user"].halves, strict=True):
        np.testing.assert_array_equal(half.ids, saved.ids)
        np.testing.assert_array_equal(half.sums, saved.sums)


def test_the_format_with_unseen_rows(with_unseen: LossMetrics, tmp_path: Path) -> None:
    path = tmp_path / "metrics.safetensors"
    save_metrics(with_unseen, path)
    with safetensors.safe_open(path, framework="np") as file:
        assert sorted(file.keys()) == [
            *("metric a.item", "metric user"),
            *("unseen 0 ids user", "unseen 0 sums user"),
            *("unseen 1 ids user", "unseen 1 sums user"),
        ]
        facts = json.loads(file.metadata()["saec_metrics"])
    assert (facts["format"], facts["unseen_examples"]) == (2, {"user": 10})


def test_matrices_for_unknown_keys_come_back(with_unseen: LossMetrics, tmp_path: Path) -> None:
    path = tmp_path / "metrics.safetensors"
    matrix = np.array([[2.0, 1.0], [1.0, 3.0]])
    given = (dict(with_unseen), 5, with_unseen.relative_errors)
    for unseen in (with_unseen.unseen, {}):
        save_metrics(LossMetrics(*given, unseen, {"user": matrix}), path)
        loaded = load_metrics(path)
        assert list(loaded) == ["user", "a.item"]
        assert list(loaded.unknown) == ["user"]
        np.testing.assert_array_equal(loaded.unknown["user"], matrix)
        np.testing.assert_array_equal(loaded["a.item"], with_unseen["a.item"])
        assert list(loaded.unseen) == list(unseen)
        with safetensors.safe_open(path, framework="np") as file:
            assert "unknown user" in file.keys()  # noqa: SIM118
            assert json.loads(file.metadata()["saec_metrics"])["format"] == 3


@pytest.mark.parametrize(
    ("ids", "sums", "message"),
    [
        (np.array([1, 1]), np.ones((2, 2), np.float32), "must ascend and lie below 9"),
        (np.array([1, 9]), np.ones((2, 2), np.float32), "of ids 1 to 9"),
        (np.array([1, 2]), np.ones((2, 3), np.float32), "2 x 3; 2 features of dim 2"),
        (np.array([1, 2]), np.full((2, 2), np.nan, np.float32), "is not finite"),
    ],
)
def test_gradients_of_another_table(ids: np.ndarray, sums: np.ndarray, message: str) -> None:
    half = RowSums(ids, sums)
    known = {"user": UnseenGradients((half, half), 10)}
    metrics = LossMetrics({"user": np.eye(2)}, 1, {"user": 0.5}, known)
    field = Field("user", np.ones((9, 2), np.float32), np.ones(9))
    with pytest.raises(MetricError, match=f"field 'user': .*{message}"):
        measure([field], metrics=metrics, progress=False)


@pytest.mark.parametrize("name", ["x" * 3000, '\u4e2d\u6587\n"\\', "\U0001f600"])
def test_names_of_all_kinds(name: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.safetensors"
    save_metrics(LossMetrics({name: np.eye(2)}, 1, {name: 0.5}), path)
    assert load_metrics(path).relative_errors == {name: 0.5}


def test_a_name_that_the_format_keeps_for_itself(tmp_path: Path) -> None:
    metrics = LossMetrics({"__metadata__": np.eye(2)}, 1, {"__metadata__": 0.5})
    with pytest.raises(MetricError, match="a field cannot be named '__metadata__'"):
        save_metrics(metrics, tmp_path / "metrics.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written(metrics: LossMetrics, tmp_path: Path) -> None:
    with pytest.raises(MetricError, match=r"cannot write .*nowhere"):
        save_metrics(metrics, tmp_path / "nowhere" / "metrics.safetensors")


GOOD = {"format": 1, "examples": 5, "relative_errors": {"user": 0.1}}
EYE = {"user": np.eye(2)}


@pytest.mark.parametrize(
    ("tensors", "facts", "message"),
    [
        (EYE, None, "no loss metrics; it holds user"),
        (EYE, "{", "damaged metadata: JSONDecodeError"),
        (EYE, "[" * 100_000, "damaged metadata: RecursionError"),
        (EYE, "[]", "damaged metadata: TypeError"),
        (EYE, "{}", "damaged metadata: KeyError: 'format'"),
        (EYE, GOOD | {"format": 4}, "format 4 of metrics; this saec reads 1 to 3"),
        (EYE, GOOD | {"format": 2}, "damaged metadata: KeyError: 'unseen_examples'"),
        (EYE, GOOD | {"format": 2, "unseen_examples": {"user": 0}}, "whole numbers above 0"),
        (
            EYE,
            GOOD | {"format": 2, "unseen_examples": {"user": 1}},
            "on unseen rows are missing",
        ),
        (
            {"metric user": np.eye(2), "unknown item": np.eye(2)},
            GOOD | {"format": 3, "unseen_examples": {}},
            "damaged: it also holds item",
        ),
        (
            {"metric user": np.eye(2), "unknown user": np.ones((2, 3))},
            GOOD | {"format": 3, "unseen_examples": {}},
            "unknown user is F64 .2, 3., not a square",
        ),
        (EYE, GOOD | {"examples": -1}, "examples and relative errors are numbers of at least 0"),
        (EYE, GOOD | {"examples": True}, "examples and relative errors are numbers"),
        (EYE, GOOD | {"relative_errors": {"user": "x"}}, "examples and relative errors are"),
        (EYE, GOOD | {"relative_errors": {"user": -0.1}}, "examples and relative errors are"),
        (EYE, GOOD | {"relative_errors": {"user": math.nan}}, "examples and relative errors"),
        (EYE, GOOD | {"relative_errors": {"user": 10**400}}, "examples and relative errors"),
        (EYE, GOOD | {"relative_errors": 3}, "damaged metadata: TypeError"),
        (EYE, GOOD | {"relative_errors": {}}, "standard errors of nothing, but matrices of user"),
        ({}, GOOD, "standard errors of user, but matrices of nothing"),
        ({"user": np.eye(2, dtype=np.float32)}, GOOD, r"user is F32 \[2, 2\], not a square of F64"),
        ({"user": np.ones((2, 3))}, GOOD, r"user is F64 \[2, 3\], not a square"),
        ({"user": np.ones(4)}, GOOD, r"user is F64 \[4\], not a square"),
        ({"user": np.ones((0, 0))}, GOOD, r"user is F64 \[0, 0\], not a square"),
    ],
)
def test_files_that_are_no_metrics(
    tensors: dict[str, np.ndarray], facts: object, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "metrics.safetensors"
    text = facts if isinstance(facts, str) else json.dumps(facts)
    safetensors.numpy.save_file(tensors, path, None if facts is None else {"saec_metrics": text})
    with pytest.raises(MetricError, match=message):
        load_metrics(path)


def test_files_that_are_cut_or_missing(metrics: LossMetrics, tmp_path: Path) -> None:
    path = tmp_path / "metrics.safetensors"
    save_metrics(metrics, path)
    content = path.read_bytes()
    for size in (0, 7, 20, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(MetricError, match="not a safetensors file, or truncated"):
            load_metrics(path)
    with pytest.raises(MetricError, match=r"no\.safetensors: no such file"):
        load_metrics(tmp_path / "no.safetensors")
    with pytest.raises(MetricError, match="is a folder, not a regular file"):
        load_metrics(tmp_path)
