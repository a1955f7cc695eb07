"""The order of features by frequency, in one process."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from saec import FieldError
from saec.streaming import chunks
from saec.streaming.chunks import chunks_of
from saec.streaming.frequency_order import frequency_order
from saec.streaming.map_reduce import LocalPasses
from saec.streaming.rows import ArrayRows


def order_of(frequencies: list[float] | NDArray[np.float64]) -> NDArray[np.int64]:
    counts = ArrayRows(np.asarray(frequencies, dtype=np.float64))
    made: NDArray[np.uint8] = frequency_order(LocalPasses(chunks_of("user", counts, counts)))
    return made.view("<i8")


def test_the_most_frequent_comes_first_and_of_equals_the_lower_id() -> None:
    assert order_of([5, 0, 9, 5, 0, 1]).tolist() == [2, 0, 3, 5, 1, 4]


def test_one_feature() -> None:
    assert order_of([0]).tolist() == [0]


@given(
    st.lists(st.one_of(st.integers(0, 3), st.floats(0, 1e150)), min_size=1, max_size=60),
    st.integers(1, 7),
)
def test_it_is_a_stable_sort(frequencies: list[float], rows: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "_PART_VALUES", rows)
        found = order_of(frequencies)
    np.testing.assert_array_equal(found, np.argsort(-np.asarray(frequencies), kind="stable"))


def test_a_negative_frequency_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "_PART_VALUES", 2)
    with pytest.raises(FieldError, match="'user': the frequency of id 4 is -1"):
        order_of([1, 1, 1, 1, -1])


def test_shares_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "_PART_VALUES", 2)
    shares: list[float] = []
    counts = ArrayRows(np.arange(5.0))
    frequency_order(LocalPasses(chunks_of("user", counts, counts)), shares.append)
    assert sum(shares) == pytest.approx(1)
