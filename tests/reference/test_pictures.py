"""Pictures of clusterings: positions by hand, and clusters of features with equal decoded rows."""

from __future__ import annotations

import numpy as np
import pytest

from saec.format.raw_field import RawField
from saec.reference.pictures import FIELDS, View, views
from saec.tables.field import Field
from saec.tables.loss_metric import Metric

RNG = np.random.default_rng(0)

# About their mean (3, 1): (-2, 0), (2, 0), (0, -1), (0, 1).
SQUARE = np.array([[1, 1], [5, 1], [3, 0], [3, 2]], np.float32)


def view(rows: np.ndarray, frequencies: list[float], metric: Metric, **sizes: int) -> View:
    names = np.array([f"n{place}" for place in range(len(rows))], object)
    field = Field("f", rows, np.array(frequencies))
    return View.of(field, metric, names, np.random.default_rng(1), **sizes)


def test_places_by_hand() -> None:
    seen = view(SQUARE, [1, 1, 1, 1], Metric.euclidean(2))
    picture = seen.picture(RawField("f", SQUARE))
    assert (picture["field"], picture["features"]) == ("f", 4)
    assert picture["ids"] == [0, 1, 2, 3]
    assert picture["x"] == pytest.approx([-2, 2, 0, 0], abs=1e-9)
    assert picture["y"] == pytest.approx([0, 0, -1, 1], abs=1e-9)
    assert picture["shares"] == [0.8, 0.2]  # variances 2 and 1/2
    assert seen.nats == pytest.approx(1.25)
    assert picture["clusters"] == [0, 1, 2, 3]


def test_places_in_a_metric_by_hand() -> None:
    # Nine nats for a step along the second axis, which so becomes the leading one.
    picture = view(SQUARE, [1, 1, 1, 1], Metric(np.diag([1.0, 9.0]))).picture(RawField("f", SQUARE))
    assert picture["x"] == pytest.approx([0, 0, -3, 3], abs=1e-9)
    assert picture["y"] == pytest.approx([-2, 2, 0, 0], abs=1e-9)


def test_frequencies_weigh_and_order() -> None:
    seen = view(SQUARE, [1, 3, 0, 0], Metric.euclidean(2))
    assert seen.ids.tolist() == [1, 0, 2, 3]
    assert seen.names == ["n1", "n0", "n2", "n3"]
    picture = seen.picture(RawField("f", SQUARE))
    assert picture["frequencies"] == [3, 1, 0, 0]
    assert picture["x"] == pytest.approx([1, -3, -1, -1], abs=1e-9)  # about the mean (4, 1)
    assert picture["names"] == ["n1", "n0", "n2", "n3"]


def test_features_that_decode_alike_are_a_cluster() -> None:
    decoded = np.array([[1, 1], [4, 1], [1, 1], [4, 1]], np.float32)
    picture = view(SQUARE, [1, 9, 1, 1], Metric.euclidean(2)).picture(RawField("f", decoded))
    assert picture["ids"] == [1, 0, 2, 3]
    assert picture["clusters"] == [0, 1, 1, 0]  # the first is that of the most frequent feature
    assert len(picture["centers"]) == 2
    assert picture["centers"][0][0] - picture["centers"][1][0] == pytest.approx(3, abs=1e-3)


def test_one_column_has_one_axis() -> None:
    rows = np.array([[0.0], [2.0], [4.0]], np.float32)
    picture = view(rows, [1, 1, 1], Metric.euclidean(1)).picture(RawField("f", rows))
    assert picture["x"] == [-2, 0, 2]
    assert picture["y"] == [0, 0, 0]
    assert picture["shares"] == [1, 0]


def test_equal_rows_have_places() -> None:
    rows = np.ones((3, 2), np.float32)
    picture = view(rows, [1, 1, 1], Metric.euclidean(2)).picture(RawField("f", rows))
    assert picture["shares"] == [0, 0]
    assert picture["clusters"] == [0, 0, 0]


def test_the_head_and_some_of_the_rest() -> None:
    frequencies = [1.0, 5, 4, 3, 2, 1, 1, 1, 1, 1]
    rows = RNG.normal(size=(10, 2)).astype(np.float32)
    seen = view(rows, frequencies, Metric.euclidean(2), head=4, sampled=3)
    assert seen.ids.tolist()[:4] == [1, 2, 3, 4]
    rest = seen.ids.tolist()[4:]
    assert len(set(rest)) == 3
    assert set(rest) <= {0, 5, 6, 7, 8, 9}
    assert rest == sorted(rest)
    assert np.array_equal(seen.rows, rows[seen.ids])


def test_fields_that_matter_most() -> None:
    fields = [
        Field(f"t.{place}", RNG.normal(size=(60, 3)).astype(np.float32), np.ones(60))
        for place in range(FIELDS + 2)
    ]
    fields.append(Field("t.few", RNG.normal(size=(49, 3)).astype(np.float32), np.ones(49)))
    metrics = {field.name: np.eye(3) * (place + 1) for place, field in enumerate(fields)}
    metrics["t.4"] = np.zeros((3, 3))  # nobody looked it up
    names = {"5": np.array([f"n{place}" for place in range(60)], object)}
    found = views(fields, metrics, names, "t.", seed=0)
    assert list(found) == [f"t.{place}" for place in (7, 6, 5, 3, 2, 1)]
    assert found["t.5"].field == "5"
    assert found["t.5"].names is not None
    assert found["t.6"].names is None
    assert "names" not in found["t.6"].picture(RawField("t.6", fields[6].rows.read(0, 60)))
