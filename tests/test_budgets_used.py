"""Budgets are used up where more bytes can still lower the loss, and never exceeded."""

from __future__ import annotations

import logging
import re

import numpy as np
import pytest

import saec
from saec import Axes, BudgetError, Clusters, Field, MaxBytes, Ratio


def field(name: str, rows: int, dim: int, seed: int, decay: float) -> Field:
    rng = np.random.default_rng(seed)
    weights = (rng.standard_normal((rows, dim)) * decay ** np.arange(dim)).astype(np.float32)
    return Field(name, weights, rows / np.arange(1, rows + 1))


@pytest.mark.parametrize(
    ("codec", "rows", "dim", "decay", "ratio"),
    [
        (Axes(), 3625, 4, 0.5, 21.0),
        (Axes(), 2509, 8, 0.7, 21.0),
        (Axes(order="code"), 2509, 8, 0.7, 40.0),
    ],
)
def test_one_field_uses_its_budget(
    codec: Axes, rows: int, dim: int, decay: float, ratio: float
) -> None:
    result = saec.compress([field("a", rows, dim, 0, decay)], Ratio(ratio), codec, progress=False)
    allowed = int(rows * dim * 4 / ratio)
    assert 0.97 * allowed <= result.nbytes <= allowed


@pytest.mark.parametrize("codec", [Axes(), Clusters()], ids=["axes", "clusters"])
def test_a_small_field_is_not_kept_whole_for_want_of_other_uses(codec: Axes | Clusters) -> None:
    fields = [field("large", 6000, 8, 1, 0.8), field("small", 60, 8, 2, 0.8)]
    result = saec.compress(fields, Ratio(20), codec, progress=False)
    assert result["small"].codec != "raw"
    allowed = sum(one.nbytes for one in fields) // 20
    # One more bit for the code of each row of the large field is a step of a twentieth.
    least = 0.97 if isinstance(codec, Axes) else 0.94
    assert least * allowed <= result.nbytes <= allowed


@pytest.mark.parametrize("codec", [Axes(), Clusters()], ids=["axes", "clusters"])
@pytest.mark.parametrize(("rows", "dim"), [(300, 4), (300, 16), (2000, 4)])
def test_the_smallest_size_that_is_named_can_be_had(
    codec: Axes | Clusters, rows: int, dim: int
) -> None:
    measured = saec.measure([field("a", rows, dim, 3, 1.0)], codec, progress=False)
    with pytest.raises(BudgetError, match="the smallest possible is") as error:
        saec.compress(measured, Ratio(1e6))
    found = re.search(r"smallest possible is (\d+) bytes", str(error.value))
    assert found
    smallest = int(found[1])
    assert saec.compress(measured, MaxBytes(smallest)).nbytes <= smallest
    with pytest.raises(BudgetError, match=f"is {smallest} bytes"):
        saec.compress(measured, MaxBytes(smallest - 1))


def two_rows() -> Field:
    rows = np.array([[1, 2], [3, 4]], np.float32)[np.arange(500) % 2]
    return Field("user", np.tile(rows, (1, 4)), np.arange(500, 0, -1))


@pytest.mark.parametrize("codec", [Axes(), Clusters()], ids=["axes", "clusters"])
def test_no_warning_about_a_number_of_clusters_that_was_not_requested(
    codec: Axes | Clusters, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        saec.compress([two_rows()], Ratio(8), codec, progress=False)
    assert caplog.messages == []


def test_fewer_clusters_than_requested_are_reported_with_the_field(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        saec.compress([two_rows()], codec=Clusters(clusters=8), progress=False)
    assert caplog.messages == [
        "field 'user': 8 clusters were asked for, but only 2 different rows have weight; there are "
        "2 clusters"
    ]
