"""Frequencies that the next day is expected to have."""

from __future__ import annotations

import numpy as np
import pytest

import saec
from saec.errors import FieldError


def expected_again(told: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The weights of forecasts after a further round, if all that was asked for is one feature, of
    which each forecast ``told`` its share. Each has 0.02 beside what it explains."""
    return (weights * told / (weights @ told) + 0.02) / (1 + 0.02 * len(told))


def test_one_feature_is_expected_as_often_as_its_group_was_asked_for() -> None:
    # 100 occurrences before today, 50 today: the rate is 50 / 100, and so is that of all groups.
    found = saec.expected_frequencies([100], [0], [50])
    assert found.frequencies == pytest.approx([75.0])  # (100 + 50) x 0.5; all recent ones are its
    assert found.unseen_share == 0.0


def test_groups_have_rates_of_their_own_and_unseen_features_their_share() -> None:
    # Yesterday feature 0 was new, feature 1 was not seen; both had 100 occurrences. Feature 2 is
    # first seen today.
    found = saec.expected_frequencies([0, 100, 0], [100, 0, 0], [100, 0, 20])
    # All: 100 / 200 = 1/2. With 50 occurrences of that rate beside its own, that of new features is
    # (100 + 25) / 150 = 5/6, of those not seen (0 + 25) / 150 = 1/6, and of those seen again 1/2.
    # The band of 64 to 127 occurrences has 20 features of 96 with the rate of its state beside its
    # own: of those not seen (0 + 1920/6) / 2020 = 16/101. Today feature 0 is seen again, with 200.
    by_groups = np.array([200 / 2, 100 * 16 / 101, 20 * 5 / 6])
    recent = np.array([100 + 100 / 16, 100 / 256, 20])
    # Today asked for feature 0 alone. Yesterday's forecasts of it: by groups 17/20.2 of all,
    # (100 + 1920 x 5/6) / 2020; by recency 16/17; 1/2, if all features are alike.
    told, weights = np.array([17 / 20.2, 16 / 17, 1 / 2]), np.array([0.1492, 0.8116, 0.0392])
    assert weights == pytest.approx(expected_again(told, weights), abs=1e-3)
    every = np.stack([by_groups, recent, np.ones(3)])
    wanted = weights @ (every / every.sum(axis=1, keepdims=True)) * by_groups.sum()
    assert found.frequencies == pytest.approx(wanted, rel=2e-3)
    assert found.unseen_share == pytest.approx(20 / 120)


def test_a_group_of_one_feature_that_nobody_asked_for_keeps_most_of_the_rate_of_its_state() -> None:
    # Yesterday both were seen again: feature 0, of 1,000 occurrences, is not asked for today, and
    # feature 1, of 2,000, is asked for 2,900 times. Tomorrow feature 2 stands where 0 stood.
    found = saec.expected_frequencies([500, 1000, 400], [500, 1000, 0], [0, 2900, 500])
    assert found.frequencies[2] > 0.5 * 900 * (2900 + 500) / 3400


def test_pairs_that_never_come_back_are_expected_less_than_articles_that_do() -> None:
    rng = np.random.default_rng(0)
    day = np.repeat(np.arange(4), 500)  # of 2,000 features the day on which they are born
    again = rng.random(2000) < 0.9  # 0.9 of them are asked for on the next day, too
    counts = [
        np.where(day == now, 2, 0) + np.where(again & (day == now - 1), 2, 0) for now in (1, 2)
    ]
    found = saec.expected_frequencies(np.where(day == 0, 2, 0), counts[0], counts[1])
    born = [float(found.frequencies[day == number].mean()) for number in range(3)]
    assert born[2] > 1.5  # 2 x 0.9, but for the rate of all features
    assert born[0] < 0.5  # the rate of the others; nobody asks for them again
    assert found.unseen_share == pytest.approx(1000 / counts[1].sum())


def test_what_was_late_counts_most_where_it_told_what_today_asks_for() -> None:
    # Of yesterday's features only the second was late, and today asks for nothing else that was
    # known; today only the last one is late.
    counts = [0, 0, 0], [50, 50, 0], [0, 100, 100]
    found = saec.expected_frequencies(*counts, late=([0, 40, 0], [0, 0, 80]))
    # Of the second one yesterday's forecast by "late" had all, the other three a half.
    told, weights = np.array([1 / 2, 1 / 2, 1 / 2, 1]), np.array([0.0363, 0.0363, 0.0363, 0.8912])
    assert weights == pytest.approx(expected_again(told, weights), abs=1e-3)
    # By groups: 100 asked for of 100, so each feature keeps its count.
    every = np.array([[50, 150, 100], [3.125, 103.125, 100], [1, 1, 1], [0, 0, 80]])
    wanted = weights @ (every / every.sum(axis=1, keepdims=True)) * 300
    assert found.frequencies == pytest.approx(wanted, rel=2e-3)
    assert found.unseen_share == 0.5


def test_late_occurrences_that_told_nothing_have_little_weight() -> None:
    # Late features of yesterday are not those of today.
    counts = [0, 0, 0], [50, 50, 0], [100, 0, 0]
    plain = saec.expected_frequencies(*counts)
    found = saec.expected_frequencies(*counts, late=([0, 40, 0], [1, 0, 0]))
    assert found.frequencies == pytest.approx(plain.frequencies, rel=0.05)
    # A day with features, but none of them late: that forecast had nothing to say.
    silent = saec.expected_frequencies(*counts, late=([0, 0, 0], [1, 0, 0]))
    assert silent.frequencies == pytest.approx(plain.frequencies, rel=0.05)


def test_only_proportions_of_late_occurrences_count() -> None:
    counts = [0, 0, 0], [50, 50, 0], [0, 100, 100]
    found = saec.expected_frequencies(*counts, late=([0, 40, 0], [0, 0, 80]))
    tiny = saec.expected_frequencies(*counts, late=([0, 5e-324, 0], [0, 0, 5e-324]))
    assert tiny.frequencies == pytest.approx(found.frequencies)


def test_how_much_is_expected_of_all_features_comes_from_the_groups() -> None:
    rng = np.random.default_rng(0)
    earlier, yesterday, today = rng.poisson([[3.0], [2.0], [4.0]], (3, 400))
    late = yesterday * rng.random(400), today * rng.random(400)
    found = saec.expected_frequencies(earlier, yesterday, today, late=late)
    assert found.frequencies.sum() == pytest.approx(
        saec.expected_frequencies(earlier, yesterday, today).frequencies.sum()
    )
    assert (found.frequencies[earlier + yesterday + today > 0] > 0).all()


def test_wrong_late_counts_are_refused() -> None:
    counts = [5, 5], [2, 0], [1, 1]
    with pytest.raises(FieldError, match="late of yesterday has occurrences of feature 1"):
        saec.expected_frequencies(*counts, late=([1, 1], [1, 1]))
    with pytest.raises(FieldError, match="late of today has no occurrences"):
        saec.expected_frequencies(*counts, late=([1, 0], [0, 0]))
    with pytest.raises(FieldError, match="late of yesterday has 3 features, and that day 2"):
        saec.expected_frequencies(*counts, late=([1, 0, 0], [1, 1, 0]))
    with pytest.raises(FieldError, match="late of today has -1 occurrences of feature 0"):
        saec.expected_frequencies(*counts, late=([1, 0], [-1, 1]))
    for wrong in (5, ([1, 0],), ([1, 0], [1, 1], [1, 1]), (), False):
        with pytest.raises(FieldError, match="late is a pair, of yesterday and of today, not"):
            saec.expected_frequencies(*counts, late=wrong)  # type: ignore[arg-type]


def test_wrong_counts_are_refused() -> None:
    for wrong in (-1, float("nan"), float("inf"), 1e101):
        with pytest.raises(FieldError, match=r"yesterday has .* occurrences of feature 1"):
            saec.expected_frequencies([1, 2], [0, wrong], [1, 1])
    with pytest.raises(FieldError, match="earlier, yesterday, today have 2, 1, 2 features"):
        saec.expected_frequencies([1, 2], [0], [1, 1])
    with pytest.raises(FieldError, match="today has no occurrences"):
        saec.expected_frequencies([1, 2], [0, 1], [0, 0])
    for earlier in ([0, 0], [5, 0]):  # the first day, and a day of new features only
        with pytest.raises(FieldError, match="today has no occurrences of features that earlier"):
            saec.expected_frequencies(earlier, [0, 0], [0, 3])
    with pytest.raises(FieldError, match=r"today is <U1 of shape \(2,\)"):
        saec.expected_frequencies([1, 2], [0, 1], ["a", "b"])
