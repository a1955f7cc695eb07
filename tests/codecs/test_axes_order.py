"""The order of a field's rows: when ids need an index or a permutation, and their contents."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from coding_calls import encode, offers
from numpy.typing import NDArray
from placed_rows import counted, in_parts, placed

from saec.codecs.axes.codec import Axes
from saec.codecs.axes.layouts import placing_of
from saec.format.tier_index import Order, TierIndex
from saec.format.tier_layout import tier_bounds
from saec.format.tiered_field import TieredField
from saec.streaming.scratch import IN_MEMORY
from saec.streaming.strata import ByRank, InOrder
from saec.tables.field import Field

ORDERS: tuple[Order, ...] = ("keep", "frequency")

every_order = pytest.mark.parametrize("order", ORDERS)
every_part = pytest.mark.parametrize("part_rows", [7, 47, 64, 1300])


def tiers_of(frequencies: NDArray[np.float64], order: Order, part_rows: int) -> list[list[int]]:
    """Ids of the rows in each tier, by position."""
    field = in_parts(counted(frequencies), part_rows)
    return placed(field, placing_of(field, order, IN_MEMORY))


def coded(frequencies: NDArray[np.float64], order: Order, part_rows: int) -> TieredField:
    rows = np.random.default_rng(0).standard_normal((len(frequencies), 2)).astype(np.float32)
    field = in_parts(Field("f", rows, frequencies), part_rows)
    codec = Axes(order)
    # The largest of all options has all tiers.
    chosen = max(
        offers(codec, field), key=lambda option: (len(option.choice.layered.ways), option.bits)
    )
    result = encode(codec, field, chosen.choice)
    assert isinstance(result, TieredField)
    return result


def located(index: TierIndex, ids: list[int]) -> list[tuple[int, int]]:
    tiers, places = index.locate(np.array(ids, dtype=np.int64))
    return list(zip(tiers.tolist(), places.tolist(), strict=True))


IN_RANKS = [list(range(64)), list(range(64, 256)), list(range(256, 300))]


@every_part
@every_order
def test_ids_sorted_by_frequency_need_no_index(order: Order, part_rows: int) -> None:
    for frequencies in (1000.0 / np.arange(1, 301), np.ones(300)):
        assert tiers_of(frequencies, order, part_rows) == IN_RANKS
        found = coded(frequencies, order, part_rows)
        assert found.index is None
        assert found.permutation is None
        assert not found.renumbered


@every_part
def test_a_misplaced_rare_row_needs_no_index(part_rows: int) -> None:
    frequencies = 1000.0 / np.arange(1, 301)
    frequencies[299] = 20.0  # should stand in the first tier, but holds 0.3 % of all
    assert tiers_of(frequencies, "keep", part_rows) == IN_RANKS
    assert coded(frequencies, "keep", part_rows).index is None


@every_part
def test_a_misplaced_frequent_row_needs_an_index(part_rows: int) -> None:
    frequencies = 1000.0 / np.arange(1, 301)
    frequencies[299] = 900.0
    assert tiers_of(frequencies, "keep", part_rows) == [
        [*range(63), 299],
        list(range(63, 255)),
        list(range(255, 299)),
    ]
    found = coded(frequencies, "keep", part_rows)
    assert found.permutation is None
    assert found.index is not None
    assert located(found.index, [299, 62, 63, 298]) == [(0, 63), (0, 62), (1, 0), (2, 43)]


@every_part
@pytest.mark.parametrize(("frequency", "needed"), [(63.0, False), (66.0, True)])
def test_misplaced_rows_of_at_most_one_percent_need_no_index(
    frequency: float, needed: bool, part_rows: int
) -> None:
    # All other rows have about 6219 occurrences, so 1 % of all is between 62 and 66.
    frequencies = 1000.0 / np.arange(1, 301)
    frequencies[299] = frequency
    assert (frequency > 0.01 * frequencies.sum()) == needed
    found = placing_of(in_parts(counted(frequencies), part_rows), "keep", IN_MEMORY)
    assert isinstance(found, ByRank if needed else InOrder)


@every_part
def test_a_padding_row_at_the_front_needs_no_index(part_rows: int) -> None:
    frequencies = 1000.0 / np.arange(1, 301)
    frequencies[0] = 0.0  # a padding row: one row of every later tier is one place too late
    assert tiers_of(frequencies, "keep", part_rows) == IN_RANKS
    assert coded(frequencies, "keep", part_rows).index is None


@pytest.mark.parametrize("part_rows", [1, 2, 3, 5])
def test_frequency_order_gives_the_permutation(part_rows: int) -> None:
    frequencies = np.array([1.0, 5.0, 0.0, 5.0, 7.0])
    assert tiers_of(frequencies, "frequency", part_rows) == [[4, 1, 3, 0, 2]]
    found = coded(frequencies, "frequency", part_rows)
    assert found.index is None
    assert found.renumbered
    assert found.permutation is not None
    assert found.permutation.dtype == np.int64
    assert found.permutation.tolist() == [4, 1, 3, 0, 2]  # equal ones by their ids


@every_part
@every_order
def test_tiers_hold_the_most_frequent_rows(
    order: Order, part_rows: int, rng: np.random.Generator
) -> None:
    frequencies = rng.permutation(1e4 / np.arange(1, 1301))
    tiers = tiers_of(frequencies, order, part_rows)
    assert [len(rows) for rows in tiers] == np.diff(tier_bounds(1300)).tolist()
    assert sorted(row for rows in tiers for row in rows) == list(range(1300))
    for more, fewer in pairwise(tiers):
        assert frequencies[more].min() > frequencies[fewer].max()
    found = coded(frequencies, order, part_rows)
    if order == "keep":
        assert found.index is not None
        for tier, rows in enumerate(tiers):
            assert rows == sorted(rows)
            assert located(found.index, rows) == [(tier, place) for place in range(len(rows))]
    else:
        assert np.array_equal(np.concatenate(tiers), found.permutation)
