"""The census of frequencies: by hand, and independent of how a field is cut and joined."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from placed_rows import counted, in_parts

from saec.errors import FieldError
from saec.streaming.chunks import Chunk
from saec.streaming.frequency_histogram import Census, coarse, join_censuses, take_census
from saec.streaming.rows import ArrayRows

NOTHING = np.zeros(0, dtype=np.int64)


def census_of(frequencies: list[float] | np.ndarray) -> Census:
    """Of one part."""
    counts = np.asarray(frequencies, dtype=np.float64)
    rows = ArrayRows(np.zeros((len(counts), 1), np.float32))
    return take_census(Chunk("f", 0, 0, len(counts), rows, ArrayRows(counts)), NOTHING)


def check_same(a: Census, b: Census) -> None:
    assert a.values.tolist() == b.values.tolist()
    assert a.counts.tolist() == b.counts.tolist()
    assert (a.dropped, a.descending, a.first, a.last) == (b.dropped, b.descending, b.first, b.last)
    assert math.isclose(a.total, b.total, rel_tol=1e-12)


def test_by_hand() -> None:
    census = census_of([3, 0, 7, 3, 1, 0, 0.5])
    assert census.values.tolist() == [7, 3, 1, 0.5, 0]
    assert census.counts.tolist() == [1, 2, 1, 1, 2]
    assert census.counts.dtype == np.int64
    assert (census.rows, census.seen, census.total) == (7, 5, 14.5)
    assert (census.first, census.last, census.descending) == (3, 0.5, False)
    assert census.dropped == 0
    assert [census.counted(x) for x in (3, 1, 0, 2)] == [2, 1, 2, 0]


def test_a_run_that_descends_by_hand() -> None:
    census = census_of([9, 9, 4, 4, 4, 0])
    assert census.values.tolist() == [9, 4, 0]
    assert census.counts.tolist() == [2, 3, 1]
    assert census.descending
    assert census_of([5]).values.tolist() == [5]
    assert census_of([5]).descending
    assert census_of([0, 0]).seen == 0


def test_joined_by_hand() -> None:
    joined = join_censuses([census_of([5, 5, 3]), census_of([3, 1]), census_of([1, 0])])
    assert joined.values.tolist() == [5, 3, 1, 0]
    assert joined.counts.tolist() == [2, 2, 2, 1]
    assert (joined.first, joined.last, joined.total, joined.descending) == (5, 0, 18, True)
    # Each descends, but not both together.
    assert not join_censuses([census_of([5, 1]), census_of([2, 0])]).descending
    assert not join_censuses([census_of([5, 1]), census_of([0, 1])]).descending
    assert join_censuses([census_of([5, 1]), census_of([1, 1])]).descending


def test_the_lowest_bits_by_hand() -> None:
    # 1.5 is 0x3FF8 and twelve zeros; one is a last bit above it.
    above = np.nextafter(1.5, 2)
    assert coarse(np.array([1.5, above, 3]), 0).tolist() == [1.5, above, 3]
    assert coarse(np.array([1.5, above, 3]), 1).tolist() == [1.5, 1.5, 3]
    assert coarse(np.array([1.5, 1.25, 1.0]), 52).tolist() == [1, 1, 1]
    assert coarse(np.array([0.0, -0.0]), 5).tolist() == [0, 0]
    assert not np.signbit(coarse(np.array([-0.0]), 5)).any()
    spaced = np.array([above, 9, above, 9])[::2]
    assert coarse(spaced, 1).tolist() == [1.5, 1.5]
    # Counts below 2^20 have no bits among the lowest 32.
    counts = np.arange(1 << 20, dtype=np.float64)
    assert np.array_equal(coarse(counts, 32), counts)


def test_no_more_bits_are_dropped_than_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    # Four neighbours of 1: two of each pair differ in the last bit only.
    ulp = np.spacing(1.0)
    values = [1.0, 1 + ulp, 1 + 2 * ulp, 1 + 3 * ulp]
    for most, dropped, left in ((4, 0, values), (3, 1, [1, 1 + 2 * ulp]), (1, 2, [1])):
        monkeypatch.setattr("saec.streaming.frequency_histogram._MOST_VALUES", most)
        census = census_of(values)
        assert census.dropped == dropped
        assert census.values.tolist() == left[::-1]
        assert census.rows == 4
        assert census.total == pytest.approx(4)
        assert (census.first, census.last) == (1, values[-1])


def test_a_part_that_drops_bits_makes_the_whole_drop_them(monkeypatch: pytest.MonkeyPatch) -> None:
    # The second part keeps two values, of which the first has one: few enough, but not exact.
    monkeypatch.setattr("saec.streaming.frequency_histogram._MOST_VALUES", 2)
    above = np.nextafter(1, 2)
    parts = [census_of([0]), census_of([0, 1, above])]
    assert [part.dropped for part in parts] == [0, 1]
    for joined in (join_censuses(parts), join_censuses(parts[::-1])):
        assert joined.dropped == 1
        assert joined.values.tolist() == [1, 0]
        assert joined.counts.tolist() == [2, 2]


fractions = st.lists(
    st.one_of(st.floats(0, 1e6), st.sampled_from([0.0, -0.0, 1.0, 2.0, 0.1])),
    min_size=1,
    max_size=60,
)
counts = st.lists(st.integers(0, 12), min_size=1, max_size=60)


@given(
    frequencies=st.one_of(fractions, counts),
    downwards=st.booleans(),
    cuts=st.lists(st.integers(0, 60), max_size=10),
    most=st.sampled_from([2, 5, 1 << 20]),
    data=st.data(),
)
def test_joined_in_any_tree_it_is_that_of_the_whole(
    frequencies: list[float], downwards: bool, cuts: list[int], most: int, data: st.DataObject
) -> None:
    if downwards:
        frequencies = sorted(frequencies, reverse=True)
    bounds = sorted({0, len(frequencies), *(cut for cut in cuts if cut < len(frequencies))})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("saec.streaming.frequency_histogram._MOST_VALUES", most)
        whole = census_of(frequencies)
        parts = [census_of(frequencies[a:b]) for a, b in pairwise(bounds)]
        while len(parts) > 1:
            first = data.draw(st.integers(0, len(parts) - 2))
            last = data.draw(st.integers(first + 2, len(parts)))
            parts[first:last] = [join_censuses(parts[first:last])]
        check_same(parts[0], whole)
    assert len(whole.values) <= most
    assert whole.rows == len(frequencies)
    assert whole.descending == (frequencies == sorted(frequencies, reverse=True))
    assert np.all(np.diff(whole.values) < 0)
    different, times = np.unique(
        coarse(np.array(frequencies, dtype=np.float64), whole.dropped), return_counts=True
    )
    assert whole.values.tolist() == different[::-1].tolist()
    assert whole.counts.tolist() == times[::-1].tolist()
    if whole.dropped:
        finer = coarse(np.array(frequencies, dtype=np.float64), whole.dropped - 1)
        assert len(np.unique(finer)) > most


@pytest.mark.parametrize("part_rows", [1, 13, 100, 1000])
def test_of_a_field(part_rows: int, rng: np.random.Generator) -> None:
    frequencies = rng.zipf(1.5, 1000).astype(np.float64)
    check_same(in_parts(counted(frequencies), part_rows).census, census_of(frequencies))


def test_more_fractions_than_are_told_apart(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saec.streaming.frequency_histogram._MOST_VALUES", 50)
    frequencies = rng.pareto(1.0, 3000)
    whole = census_of(frequencies)
    assert 25 < len(whole.values) <= 50
    for part_rows in (7, 60, 999):
        check_same(in_parts(counted(frequencies), part_rows).census, whole)


def test_frequencies_that_are_all_zero_in_a_file(tmp_path: Path) -> None:
    field = counted(np.memmap(tmp_path / "counts", np.float32, "w+", shape=(9,)))
    with pytest.raises(FieldError, match="field 'f': all 9 frequencies are zero"):
        _ = field.census
