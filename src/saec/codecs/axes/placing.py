"""Which rows of a field stand in which tier, and whether ids are ranks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saec.format.tier_index import Order
from saec.format.tier_layout import tier_bounds
from saec.streaming.chunks import Chunk
from saec.streaming.map_reduce import passes_over
from saec.streaming.scratch import Workspace
from saec.streaming.strata import ByRank, InOrder, Placing
from saec.tables.field import Field

__all__ = ["placing_of", "with_tiers"]

# Ids count as sorted if rows that stand too late hold less than this share of all occurrences.
_MISPLACED = 0.01


def placing_of(field: Field, order: Order, space: Workspace) -> Placing:
    """Rows by frequency in tiers; ids are ranks where rows stand in order of frequency."""
    bounds = tier_bounds(field.vocab_size)
    if field.census.descending:
        return InOrder(bounds)
    placing = ByRank.of(field.census, bounds, "keep" if order == "keep" else "frequency")
    if order == "keep":
        misplaced = passes_over(field.parts, space).run(_Misplaced(placing), sum, counter=placing)
        if misplaced <= _MISPLACED * field.census.total:
            return InOrder(bounds)
    return placing


@dataclass(frozen=True, eq=False)
class _Misplaced:
    """A task: occurrences of a part's rows that would be in a later tier if ids were ranks."""

    placing: ByRank

    def __call__(self, part: Chunk, before: NDArray[np.int64]) -> float:
        frequencies = part.frequencies()
        own = np.searchsorted(
            self.placing.bounds[1:-1], np.arange(part.start, part.stop), side="right"
        )
        late = 0.0
        for group in self.placing.groups(part, before):
            late += float(frequencies[group.rows][own[group.rows] > group.stratum].sum())
        return late


def with_tiers(field: Field, placing: Placing, number: int) -> Placing:
    """The same with so many tiers, the last of which takes all further rows."""
    if number == len(placing.bounds) - 1:
        return placing
    return ByRank.of(field.census, tier_bounds(field.vocab_size, number), "keep")
