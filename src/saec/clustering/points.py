"""Interface of the points of k-means: they can be sampled and can compute one step.

The loop in :mod:`saec.clustering.kmeans` uses only this interface, so the same code clusters rows
in an array, a memory map, a file or on other machines.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

import saec._native as _native

__all__ = ["ArrayPoints", "Points", "Search", "StepSums", "mapped"]

_MANY = 8192  # centroids; with fewer, a search of all of them takes little time
_BLOCK_VALUES = 1 << 22  # float32 values passed to the native core at once: 16 MB


@dataclass(frozen=True, eq=False)
class StepSums:
    """Sums over the rows nearest to each of k centroids.

    sums: (k, dim) float64, weighted; weights: (k,) float64; distortion: (k,) float64, the weighted
    squared distances to the centroid.
    """

    sums: NDArray[np.float64]
    weights: NDArray[np.float64]
    distortion: NDArray[np.float64]

    @classmethod
    def zeros(cls, clusters: int, dim: int) -> StepSums:
        """The sums over no rows."""
        return cls(np.zeros((clusters, dim)), np.zeros(clusters), np.zeros(clusters))

    @classmethod
    def join(cls, parts: Sequence[StepSums]) -> StepSums:
        """The sums over all rows of ``parts``."""
        first = cls(parts[0].sums.copy(), parts[0].weights.copy(), parts[0].distortion.copy())
        for part in parts[1:]:
            first.sums[:] += part.sums
            first.weights[:] += part.weights
            first.distortion[:] += part.distortion
        return first


class Points(Protocol):
    """Weighted rows, in any place."""

    @property
    def count(self) -> int:
        """Number of rows."""

    @property
    def dim(self) -> int:
        """Width of a row."""

    def sample(
        self, size: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Up to ``size`` different rows (m, dim) float32, all equally likely, and their weights."""

    def step(self, centroids: NDArray[np.float32]) -> StepSums:
        """The sums of one k-means step for ``centroids`` (k, dim)."""


@dataclass(frozen=True, eq=False)
class Search:
    """Nearest-centroid search among ``centroids`` (k, dim) float32; prepared at the first use.

    ``radius_share``, ``threads`` and ``groups`` are as of :class:`ArrayPoints`.
    """

    centroids: NDArray[np.float32]
    radius_share: float = 1.0
    threads: int = 0
    groups: int = 0

    @cached_property
    def _ready(self) -> _native.NearestCentroid:
        groups = self.groups if len(self.centroids) >= _MANY else 0
        return _native.NearestCentroid(self.centroids, groups=groups)

    def __reduce__(self) -> tuple[type[Search], tuple[NDArray[np.float32], float, int, int]]:
        return Search, (self.centroids, self.radius_share, self.threads, self.groups)

    def nearest(self, rows: NDArray[np.float32]) -> NDArray[np.int32]:
        """Nearest centroid of every row (m, dim), (m,); the lowest index among equals."""
        nearest = np.empty(len(rows), dtype=np.int32)
        self._ready.search(rows, nearest, self.radius_share, self.threads)
        return nearest

    def step(self, rows: NDArray[np.float32], weights: NDArray[np.float64], into: StepSums) -> None:
        """Add the sums over ``rows`` (m, dim) with ``weights`` (m,) to ``into``."""
        _native.accumulate(
            rows,
            weights,
            self.nearest(rows),
            self.centroids,
            into.sums,
            into.weights,
            into.distortion,
            self.threads,
        )


def mapped(rows: NDArray[np.generic], transform: NDArray[np.float64] | None) -> NDArray[np.float32]:
    """``rows`` (m, dim) as points: rows @ transform as float32, or the rows themselves."""
    if transform is None:
        return np.ascontiguousarray(rows, dtype=np.float32)
    # In float64, so that the order of a machine's additions, which depends on the number of
    # rows, does not change the float32 result.
    result: NDArray[np.float32] = (rows.astype(np.float64) @ transform).astype(np.float32)
    return result


class ArrayPoints:
    """Rows of an array or memory map, read in blocks and never copied whole.

    Args:
        rows: (n, dim) float32, float16 or bfloat16, of any strides.
        weights: (n,) float64, not negative; None for 1 each.
        transform: (dim, dim) float64; the points are rows @ transform, as float32, and so are
            samples and centroids. None for the rows themselves.
        radius_share: 1 finds the nearest centroid. A smaller value searches fewer groups of
            centroids, as if their radii were that much smaller: this is faster, and sometimes the
            result is not quite the nearest.
        threads: of the native core; 0 for all. The result does not depend on it.
        groups: among 8,192 centroids or more, a row searches at most this many of the groups of
            neighbouring centroids, those nearest to it; 0 for all.
    """

    def __init__(
        self,
        rows: NDArray[np.generic],
        weights: NDArray[np.float64] | None = None,
        *,
        transform: NDArray[np.float64] | None = None,
        radius_share: float = 1.0,
        threads: int = 0,
        groups: int = 0,
    ) -> None:
        self._groups = groups
        self._rows = rows
        self._weights = weights
        self._transform = transform
        self._radius_share = radius_share
        self._threads = threads

    @property
    def count(self) -> int:
        """Number of rows."""
        return int(self._rows.shape[0])

    @property
    def dim(self) -> int:
        """Width of a row."""
        return int(self._rows.shape[1])

    def mapped(self, rows: NDArray[np.generic]) -> NDArray[np.float32]:
        """Convert other ``rows`` (m, dim) of the same table to points."""
        return mapped(rows, self._transform)

    def sample(
        self, size: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """See :class:`Points`."""
        if size >= self.count:
            chosen = np.arange(self.count)
        else:
            chosen = np.sort(rng.choice(self.count, size, replace=False, shuffle=False))
        weights = np.ones(len(chosen)) if self._weights is None else self._weights[chosen]
        return self.mapped(self._rows[chosen]), weights

    def step(self, centroids: NDArray[np.float32]) -> StepSums:
        """See :class:`Points`."""
        search, step = self._search(centroids), StepSums.zeros(*centroids.shape)
        for rows, weights in self._blocks():
            search.step(rows, weights, step)
        return step

    def assign(self, centroids: NDArray[np.float32]) -> NDArray[np.int32]:
        """Nearest centroid of every row, (count,) int32; the lowest index among equals."""
        search = self._search(centroids)
        return np.concatenate([search.nearest(rows) for rows, _ in self._blocks()])

    def _search(self, centroids: NDArray[np.float32]) -> Search:
        return Search(centroids, self._radius_share, self._threads, self._groups)

    def _blocks(self) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float64]]]:
        size = max(1, _BLOCK_VALUES // self.dim)
        for start in range(0, self.count, size):
            rows = self.mapped(self._rows[start : start + size])
            if self._weights is None:
                yield rows, np.ones(len(rows))
            else:
                yield rows, np.ascontiguousarray(self._weights[start : start + size])
