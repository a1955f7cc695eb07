"""The head of a vocabulary, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saec.clustering.headtail import head_rows


def head(frequencies: list[float], share: float, at_least: int = 1) -> list[int]:
    return head_rows(np.array(frequencies, dtype=np.float64), share, at_least).tolist()


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (0.0, [3]),
        (0.4, [3]),  # 8 of 20 reach it exactly
        (0.41, [1, 3]),
        (0.7, [1, 3]),
        (0.71, [1, 3, 4]),
        (0.95, [0, 1, 3, 4]),
        (0.96, [0, 1, 2, 3, 4]),
        (1.0, [0, 1, 2, 3, 4]),
    ],
)
def test_smallest_head_by_hand(share: float, expected: list[int]) -> None:
    assert head([2, 6, 1, 8, 3], share) == expected


def test_equal_frequencies_by_id() -> None:
    assert head([1, 1, 1, 1], 0.5) == [0, 1]
    assert head([1, 2, 1, 2], 0.8) == [0, 1, 3]
    assert head([1] * 10, 0.3) == [0, 1, 2]  # 0.3 * 10 is a bit more than 3 in binary


def test_features_never_seen_are_not_in_the_head() -> None:
    assert head([0, 5, 0, 1], 1.0) == [1, 3]
    assert head([0, 5, 0, 1], 0.5, at_least=4) == [1, 3]
    assert head([0, 0, 9], 0.0, at_least=3) == [2]


def test_at_least() -> None:
    assert head([2, 6, 1, 8, 3], 0.0, at_least=3) == [1, 3, 4]
    assert head([2, 6, 1, 8, 3], 0.7, at_least=1) == [1, 3]
    assert head([2, 6, 1, 8, 3], 0.0, at_least=99) == [0, 1, 2, 3, 4]


def test_share_1_means_all_seen_features_however_rare() -> None:
    assert head([1e15, 1, 0, 1e-3], 1.0) == [0, 1, 3]


def test_one_feature() -> None:
    assert head([3], 0.5) == [0]


@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=40).filter(any),
    st.integers(0, 100),
    st.integers(1, 50),
)
def test_covers_the_share_and_no_more(frequencies: list[int], per_cent: int, at_least: int) -> None:
    counts = np.array(frequencies)
    rows = head_rows(counts.astype(np.float64), per_cent / 100, at_least)
    seen = np.count_nonzero(counts)
    assert np.array_equal(rows, np.unique(rows))
    assert counts[rows].min() > 0
    assert 100 * counts[rows].sum() >= per_cent * counts.sum()
    rest = np.delete(counts, rows)
    assert rest.max(initial=0) <= counts[rows].min()
    if len(rows) > min(at_least, seen):
        smaller = np.sort(counts[rows])[1:].sum()
        assert 100 * smaller < per_cent * counts.sum()
