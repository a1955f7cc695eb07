"""Places of rows by rank against a stable sort, and the rows that are sampled."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from placed_rows import befores, counted, in_parts, placed

from saec.streaming.strata import ByRank, InOrder, RowGroup, sampled
from saec.tables.field import Field


def by_rank(field: Field, bounds: list[int], order: str = "keep") -> ByRank:
    return ByRank.of(field.census, np.array(bounds), order)  # type: ignore[arg-type]


def sorted_ids(frequencies: NDArray[np.float64], bounds: list[int], order: str) -> list[list[int]]:
    """Ids in each stratum by numpy's stable sort."""
    ranked = np.argsort(-frequencies, kind="stable")
    strata = [ranked[low:high].tolist() for low, high in pairwise(bounds)]
    return strata if order == "frequency" else [sorted(ids) for ids in strata]


EIGHT = np.array([2.0, 9, 2, 0, 5, 2, 9, 2])  # by rank: 1, 6, 4, 0, 2, 5, 7, 3


@pytest.mark.parametrize("part_rows", [1, 2, 3, 5, 8])
def test_ranks_by_hand(part_rows: int) -> None:
    field = in_parts(counted(EIGHT), part_rows)
    assert placed(field, by_rank(field, [0, 8], "frequency")) == [[1, 6, 4, 0, 2, 5, 7, 3]]
    assert placed(field, by_rank(field, [0, 2, 5, 8], "frequency")) == [
        [1, 6],
        [4, 0, 2],
        [5, 7, 3],
    ]
    # The border at rank 5 lies among the four rows of frequency 2.
    assert placed(field, by_rank(field, [0, 2, 5, 8])) == [[1, 6], [0, 2, 4], [3, 5, 7]]
    assert placed(field, by_rank(field, [0, 1, 8])) == [[1], [0, 2, 3, 4, 5, 6, 7]]


def test_classes_by_hand() -> None:
    field = counted(EIGHT)
    # 9 and 5 in stratum 0 as wholes; 2 in both; 0 in stratum 1 alone.
    placing = by_rank(field, [0, 5, 8])
    assert placing.lows.tolist() == [5, 2, 0]
    assert placing.firsts.tolist() == [0, 3, 7, 8]
    assert placing.size == 3
    assert placing.passed(np.array([2, 3, 1])).tolist() == [4, 2]
    # Every frequency counts where places are by rank.
    assert by_rank(field, [0, 5, 8], "frequency").lows.tolist() == [9, 5, 2, 0]
    # One stratum needs no classes beyond one.
    assert by_rank(field, [0, 8]).lows.tolist() == [0]


def test_ids_as_ranks_by_hand() -> None:
    field = in_parts(counted(np.ones(8)), 3)
    assert placed(field, InOrder(np.array([0, 2, 7, 8]))) == [[0, 1], [2, 3, 4, 5, 6], [7]]
    groups = list(InOrder(np.array([0, 2, 7, 8])).groups(field.parts[0], np.zeros(0)))
    assert [(group.stratum, group.rows, group.places.tolist()) for group in groups] == [
        (0, slice(0, 2), [0, 1]),
        (1, slice(2, 3), [0]),
    ]


@st.composite
def cut_fields(draw: st.DrawFn) -> tuple[Field, list[int]]:
    """A field in parts, frequencies with many ties, and strata, some of them empty."""
    value = draw(
        st.sampled_from([st.integers(0, 3), st.integers(0, 1000), st.floats(0, 10, width=16)])
    )
    frequencies = draw(st.lists(value, min_size=1, max_size=50).filter(any))
    inner = draw(st.lists(st.integers(0, len(frequencies)), max_size=6))
    field = in_parts(counted(np.array(frequencies, np.float64)), draw(st.integers(1, 20)))
    return field, [0, *sorted(inner), len(frequencies)]


@given(cut=cut_fields(), order=st.sampled_from(["keep", "frequency"]))
def test_any_ranks_are_those_of_a_stable_sort(cut: tuple[Field, list[int]], order: str) -> None:
    field, bounds = cut
    found = placed(field, by_rank(field, bounds, order))
    assert found == sorted_ids(field.frequencies, bounds, order)


@given(cut=cut_fields())
def test_ids_as_ranks_are_runs(cut: tuple[Field, list[int]]) -> None:
    field, bounds = cut
    expected = [list(range(low, high)) for low, high in pairwise(bounds)]
    assert placed(field, InOrder(np.array(bounds))) == expected


@given(cut=cut_fields())
def test_rows_passed_are_those_of_the_parts_before(cut: tuple[Field, list[int]]) -> None:
    field, bounds = cut
    placing = by_rank(field, bounds)
    strata = placed(field, placing)
    parts = field.parts
    for part, before in zip(parts, befores(parts, placing), strict=True):
        expected = [sum(row < part.start for row in ids) for ids in strata]
        assert placing.passed(before).tolist() == expected


@pytest.mark.parametrize("order", ["keep", "frequency"])
def test_coarse_frequencies_rank_by_their_leading_bits(
    order: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saec.streaming.frequency_histogram._MOST_VALUES", 20)
    frequencies = rng.pareto(1.0, 400)
    bounds = [0, 10, 150, 400]
    for part_rows in (7, 90, 400):
        field = in_parts(counted(frequencies), part_rows)
        dropped = np.uint64(field.census.dropped)
        assert dropped > 0
        known = (frequencies.view(np.uint64) >> dropped << dropped).view(np.float64)
        assert placed(field, by_rank(field, bounds, order)) == sorted_ids(known, bounds, order)


def group_of(places: NDArray[np.int64]) -> RowGroup:
    return RowGroup(0, slice(0, len(places)), places)


@given(
    count=st.integers(1, 400),
    size=st.integers(1, 90),
    seed=st.integers(0, (1 << 63) - 1),
    cuts=st.lists(st.integers(0, 400), max_size=8),
    scatter=st.integers(0, 2**32 - 1),
)
def test_each_run_of_places_has_one_row_whatever_the_parts(
    count: int, size: int, seed: int, cuts: list[int], scatter: int
) -> None:
    places = np.arange(count)
    whole = places[sampled(group_of(places), count, size, seed)]
    if count <= size:
        assert np.array_equal(whole, places)
    else:
        assert len(whole) == size
        for run, place in enumerate(whole.tolist()):
            assert run * count // size <= place < (run + 1) * count // size
    bounds = sorted({0, count, *(cut for cut in cuts if cut < count)})
    runs = [group_of(places[low:high]) for low, high in pairwise(bounds)]
    assert all(group.contiguous for group in runs)
    found = [group.places[sampled(group, count, size, seed)] for group in runs]
    assert np.array_equal(np.concatenate(found), whole)
    # Parts whose rows lie between each other.
    owner = np.random.default_rng(scatter).integers(3, size=count)
    scattered = [group_of(places[owner == part]) for part in range(3) if np.any(owner == part)]
    found = [group.places[sampled(group, count, size, seed)] for group in scattered]
    assert np.array_equal(np.sort(np.concatenate(found)), whole)


def test_places_of_a_billion_rows() -> None:
    count, size = 3_000_000_000, 1 << 17
    start = 2_999_000_000
    chosen = start + sampled(group_of(np.arange(start, start + 100_000)), count, size, 7)
    assert len(chosen) in (100_000 * size // count, 100_000 * size // count + 1)
    assert np.all(np.diff(chosen * size // count) >= 0)


def test_all_rows_of_a_run_are_drawn_alike() -> None:
    times = np.zeros(100)
    for seed in range(2000):
        times[sampled(group_of(np.arange(100)), 100, 10, seed)] += 1
    # 200 expected each, with a standard deviation of 13.4.
    assert np.abs(times - 200).max() < 5 * 13.4
    assert np.square(times - 200).sum() / 200 < 90 + 5 * np.sqrt(2 * 90)


def test_runs_are_drawn_independently() -> None:
    # Of runs of two rows each, the second is drawn half of the time, whatever the run before.
    drawn = sampled(group_of(np.arange(40_000)), 40_000, 20_000, 3) % 2
    assert abs(drawn.mean() - 0.5) < 5 * 0.5 / np.sqrt(20_000)
    assert abs(np.corrcoef(drawn[1:], drawn[:-1])[0, 1]) < 5 / np.sqrt(20_000)
    other = sampled(group_of(np.arange(40_000)), 40_000, 20_000, 4) % 2
    assert abs(np.corrcoef(drawn, other)[0, 1]) < 5 / np.sqrt(20_000)
