"""The head of a vocabulary: the frequent features from which clusters are learned.

"Fast clustering" of the paper: interactions have heavy tails, so a few frequent features account
for most of the training log, and the many rare ones are only assigned to the clusters found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saec.clustering.points import Search, StepSums
from saec.clustering.rowmap import RowMap
from saec.streaming.chunks import Chunk
from saec.streaming.frequency_histogram import Census
from saec.streaming.map_reduce import Arrays, Held, passes_over
from saec.streaming.scratch import Workspace
from saec.streaming.strata import ByRank, InOrder, Placing
from saec.tables.field import Field

__all__ = ["HeadPoints", "head_size", "ranked"]


def head_size(census: Census, share: float, at_least: int) -> int:
    """Number of rows of the smallest head.

    Args:
        census: of the field.
        share: of all occurrences that the head must cover, 0..1.
        at_least: rows that the head must hold, if that many have any occurrences.
    """
    if share >= 1:
        return census.seen
    covered = np.cumsum(census.values * census.counts)
    # The first prefix that reaches the share; rounding of the sums must not push it past all rows.
    goal = share * covered[-1] * (1 - 1e-12)
    place = int(np.searchsorted(covered, goal))
    before = float(covered[place - 1]) if place else 0.0
    value = float(census.values[place])
    missing = max(1, int(np.ceil((goal - before) / value))) if value else 1
    wanted = int(census.counts[:place].sum()) + missing
    return min(max(wanted, at_least), census.seen)


def ranked(field: Field, *cuts: int) -> Placing:
    """Rows by frequency, cut at these ranks; of equally frequent rows the lower id comes first."""
    inner = sorted({cut for cut in cuts if 0 < cut < field.vocab_size})
    bounds = np.array([0, *inner, field.vocab_size], dtype=np.int64)
    if field.census.descending:
        return InOrder(bounds)
    return ByRank.of(field.census, bounds, "keep")


class HeadPoints:
    """The head of a field as points, which stay where the parts of the field are.

    Args:
        field: the field whose most frequent rows these are.
        size: rows of the head.
        weighting: rows count as frequency ** weighting.
        row_map: maps rows to points.
        radius_share: see :class:`~saec.clustering.points.ArrayPoints`.
        groups: likewise; a step searches only a quarter of them, because the next step searches
            again.
        space: limits the memory for rows of the head.
    """

    def __init__(
        self,
        field: Field,
        size: int,
        *,
        weighting: float,
        row_map: RowMap,
        radius_share: float,
        space: Workspace,
        groups: int = 0,
    ) -> None:
        self.count, self.dim = size, field.dim
        self._radius_share, self._groups = radius_share, groups
        placing = ranked(field, size)
        most = float(field.census.values[0])
        task = _TakeHead(placing, weighting, most, row_map)
        self._held: Held = passes_over(field.parts, space).hold(task, placing, space)

    def sample(
        self, size: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """See :class:`~saec.clustering.points.Points`."""
        if size >= self.count:
            chosen = np.arange(self.count)
        else:
            chosen = np.sort(rng.choice(self.count, size, replace=False, shuffle=False))
        return self._held.run(_Pick(chosen), _beside)

    def step(self, centroids: NDArray[np.float32]) -> StepSums:
        """See :class:`~saec.clustering.points.Points`."""
        step = self._held.run(_StepOf(self._search(centroids, -(-self._groups // 4))), _joined)
        assert step is not None, "a head has rows"
        return step

    def used(self, centroids: NDArray[np.float32]) -> NDArray[np.int64]:
        """Those of ``centroids`` that are the nearest of at least one row, ascending."""
        used = self._held.run(_UsedOf(self._search(centroids, self._groups)), _either)
        return np.flatnonzero(used)

    def _search(self, centroids: NDArray[np.float32], groups: int) -> Search:
        return Search(centroids, self._radius_share, groups=groups)


@dataclass(frozen=True, eq=False)
class _TakeHead:
    """A task: the part's rows of the head as points, their weights, and the position of the
    first."""

    placing: Placing
    weighting: float
    most: float
    row_map: RowMap

    def __call__(self, part: Chunk, before: NDArray[np.int64]) -> Arrays:
        for group in self.placing.groups(part, before):
            if group.stratum == 0:
                rows = part.weights()[group.rows]
                frequencies = part.frequencies()[group.rows]
                # As shares of the largest, because a power of them might leave the range of
                # numbers.
                shares = frequencies / self.most
                weights = np.ascontiguousarray(shares**self.weighting)
                points = self.row_map(rows, frequencies)
                return points, weights, group.places[:1].copy()
        dim = part.rows.shape[1]
        return np.empty((0, dim), np.float32), np.empty(0), np.zeros(1, np.int64)


@dataclass(frozen=True, eq=False)
class _Pick:
    """A task on held rows: those at positions ``chosen`` (m,) of the head, ascending."""

    chosen: NDArray[np.int64]

    def __call__(self, arrays: Arrays) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        rows, weights, first = arrays
        low, high = np.searchsorted(self.chosen, [first[0], first[0] + len(rows)])
        own = self.chosen[low:high] - first[0]
        return rows[own], weights[own]


@dataclass(frozen=True, eq=False)
class _StepOf:
    """A task on held rows: a step of k-means; None without rows."""

    search: Search

    def __call__(self, arrays: Arrays) -> StepSums | None:
        rows, weights, _ = arrays
        if not len(rows):
            return None
        step = StepSums.zeros(*self.search.centroids.shape)
        self.search.step(rows, weights, step)
        return step


@dataclass(frozen=True, eq=False)
class _UsedOf:
    """A task on held rows: the centroids that are the nearest of at least one row."""

    search: Search

    def __call__(self, arrays: Arrays) -> NDArray[np.bool_]:
        used = np.zeros(len(self.search.centroids), dtype=bool)
        if len(arrays[0]):
            used[self.search.nearest(arrays[0])] = True
        return used


def _beside(
    parts: Sequence[tuple[NDArray[np.float32], NDArray[np.float64]]],
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    rows, weights = zip(*parts, strict=True)
    return np.concatenate(rows), np.concatenate(weights)


def _joined(parts: Sequence[StepSums | None]) -> StepSums | None:
    some = [part for part in parts if part is not None]
    return StepSums.join(some) if some else None


def _either(parts: Sequence[NDArray[np.bool_]]) -> NDArray[np.bool_]:
    either: NDArray[np.bool_] = np.logical_or.reduce(parts)
    return either
