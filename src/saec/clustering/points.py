"""What k-means runs over: something that can be sampled and can take one step.

The loop in :mod:`saec.clustering.lloyd` sees this interface only, so rows in an array, a memory
map, a file or on other machines are clustered by the same code.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from saec import _native

__all__ = ["ArrayPoints", "Points", "Step"]

_BLOCK_VALUES = 1 << 22  # float32 values handed to the native core at once: 16 MB


@dataclass(frozen=True, eq=False)
class Step:
    """Sums over the rows nearest to each of k centroids.

    sums: (k, dim) float64, weighted; weights: (k,) float64; distortion: (k,) float64, the weighted
    squared distances to the centroid.
    """

    sums: NDArray[np.float64]
    weights: NDArray[np.float64]
    distortion: NDArray[np.float64]


class Points(Protocol):
    """Weighted rows, wherever they are."""

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

    def step(self, centroids: NDArray[np.float32]) -> Step:
        """The sums of one k-means step for ``centroids`` (k, dim)."""

    def assign(self, centroids: NDArray[np.float32]) -> NDArray[np.int32]:
        """Nearest centroid of every row, (count,) int32; the lowest index among equals."""


class ArrayPoints:
    """Rows of an array or memory map, read in blocks and never copied whole.

    Args:
        rows: (n, dim) float32, float16 or bfloat16, of any strides.
        weights: (n,) float64, not negative; None for 1 each.
        transform: (dim, dim) float64; the points are rows @ transform, as float32, and so are
            samples and centroids. None for the rows themselves.
        radius_share: 1 finds the nearest centroid. Less looks into fewer groups of centroids, as if
            their radii were that much smaller: faster, and now and then only nearly nearest.
        threads: of the native core; 0 for all. The result does not depend on it.
    """

    def __init__(
        self,
        rows: NDArray[np.generic],
        weights: NDArray[np.float64] | None = None,
        *,
        transform: NDArray[np.float64] | None = None,
        radius_share: float = 1.0,
        threads: int = 0,
    ) -> None:
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

    def take(self, chosen: NDArray[np.int64]) -> ArrayPoints:
        """The ``chosen`` rows (m,), copied, as points of their own."""
        weights = None if self._weights is None else self._weights[chosen]
        return ArrayPoints(
            self._rows[chosen],
            weights,
            transform=self._transform,
            radius_share=self._radius_share,
            threads=self._threads,
        )

    def mapped(self, rows: NDArray[np.generic]) -> NDArray[np.float32]:
        """Other ``rows`` (m, dim) of the same table where the points are."""
        if self._transform is None:
            return np.ascontiguousarray(rows, dtype=np.float32)
        # In float64, so that the order in which a machine adds, which changes with the number of
        # rows, does not show in the float32 result.
        mapped: NDArray[np.float32] = (rows.astype(np.float64) @ self._transform).astype(np.float32)
        return mapped

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

    def step(self, centroids: NDArray[np.float32]) -> Step:
        """See :class:`Points`."""
        clusters, dim = centroids.shape
        step = Step(np.zeros((clusters, dim)), np.zeros(clusters), np.zeros(clusters))
        for rows, weights, nearest in self._searched(centroids):
            _native.accumulate(
                rows,
                weights,
                nearest,
                centroids,
                step.sums,
                step.weights,
                step.distortion,
                self._threads,
            )
        return step

    def assign(self, centroids: NDArray[np.float32]) -> NDArray[np.int32]:
        """See :class:`Points`."""
        return np.concatenate([nearest for _, _, nearest in self._searched(centroids)])

    def _searched(
        self, centroids: NDArray[np.float32]
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.int32]]]:
        search = _native.NearestCentroid(centroids)
        size = max(1, _BLOCK_VALUES // self.dim)
        for start in range(0, self.count, size):
            rows = self.mapped(self._rows[start : start + size])
            nearest = np.empty(len(rows), dtype=np.int32)
            search.search(rows, nearest, self._radius_share, self._threads)
            if self._weights is None:
                yield rows, np.ones(len(rows)), nearest
            else:
                yield rows, np.ascontiguousarray(self._weights[start : start + size]), nearest
