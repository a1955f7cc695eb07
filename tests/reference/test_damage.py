"""Damage by decile of frequency, by hand on a log of twenty rows."""

from __future__ import annotations

import math

import numpy as np
import pytest

from saec.reference.damage import damage_by_decile
from saec.reference.log import TEST, Log

# Of features 0 (not seen in training: an estimate), 1, 2 and 3.
USERS = np.array([7.0, 50.0, 20.0, 3.0])
ITEMS = np.array([9.0, 30.0, 10.0, 5.0])


def log_of(ids: list[list[int]], labels: list[int]) -> Log:
    return Log(
        name="by hand",
        field_names=("user", "item"),
        ids=np.array(ids, np.int32),
        labels=np.array(labels, np.float32),
        split=np.full(len(ids), TEST),
        frequencies={"user": USERS, "item": ITEMS},
    )


def test_a_row_counts_by_its_rarest_feature() -> None:
    log = log_of([[1, 1], [1, 3], [3, 1], [0, 1], [2, 0]], [1, 0, 1, 0, 1])
    same = np.full(5, 0.5, np.float32)
    deciles = damage_by_decile(log, np.arange(5), same, same)
    found = [(decile["least"], decile["most"], decile["rows"]) for decile in deciles]
    # A feature that was never seen is the rarest, whatever its estimate. Fewer rows than deciles.
    assert found == [(0, 0, 1), (0, 0, 1), (3, 3, 1), (5, 5, 1), (30, 30, 1)]
    assert [decile["logloss_change"] for decile in deciles] == [0] * 5
    assert [decile["auc_change"] for decile in deciles] == [None] * 5
    assert [decile["logloss_error"] for decile in deciles] == [None] * 5  # single rows


def test_changes_in_two_rows_each() -> None:
    # Rows 0 to 9 hold the frequent item, 10 to 19 the rare one; every decile holds a click.
    log = log_of([[1, 1]] * 10 + [[1, 3]] * 10, [1, 0] * 10)
    before = np.full(20, 0.5, np.float32)
    after = before.copy()
    after[:2] = 0.8, 0.25  # of the first frequent decile: right about both
    after[18:] = 0.25, 0.75  # of the last rare one: wrong about both
    deciles = damage_by_decile(log, np.arange(20), before, after)
    assert [decile["rows"] for decile in deciles] == [2] * 10
    assert [decile["most"] for decile in deciles] == [5] * 5 + [30] * 5
    changes = [decile["logloss_change"] for decile in deciles]
    assert changes[5] == pytest.approx(-(math.log(0.8 / 0.5) + math.log(0.75 / 0.5)) / 2, rel=1e-6)
    assert changes[4] == pytest.approx(math.log(2), rel=1e-6)
    assert [place for place, change in enumerate(changes) if change] == [4, 5]
    # Of two rows, whose changes differ by twice d, the standard error of the mean is d.
    errors = [decile["logloss_error"] for decile in deciles]
    assert errors[4] == pytest.approx(0, abs=1e-7)
    assert errors[5] == pytest.approx((math.log(0.8 / 0.5) - math.log(0.75 / 0.5)) / 2, rel=1e-5)
    assert [decile["auc_change"] for decile in deciles] == [0, 0, 0, 0, -0.5, 0.5, 0, 0, 0, 0]


def test_only_the_given_rows_count() -> None:
    log = log_of([[1, 1], [3, 1], [1, 1], [2, 1]], [1, 1, 0, 0])
    before = np.array([0.5, 0.5], np.float32)
    deciles = damage_by_decile(log, np.array([2, 3]), before, before / 2)
    assert [decile["most"] for decile in deciles] == [20, 30]
    for decile in deciles:
        assert decile["logloss_change"] == pytest.approx(math.log(0.5 / 0.75), rel=1e-6)


def test_the_log_loss_of_a_certain_prediction_is_finite() -> None:
    log = log_of([[1, 1], [1, 1]], [1, 0])
    before, after = np.array([0.5, 0.5], np.float32), np.array([0.0, 1.0], np.float32)
    least = float(np.finfo(np.float64).eps)
    for decile in damage_by_decile(log, np.arange(2), before, after):
        assert decile["logloss_change"] == pytest.approx(math.log(0.5) - math.log(least), rel=1e-6)
    assert log.frequencies["user"].tolist() == USERS.tolist()
