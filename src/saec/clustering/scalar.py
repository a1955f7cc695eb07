"""Weighted k-means of scalars: values are sorted once, and no later step scans all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import saec._native as _native
from saec.errors import FieldError, OptionError

__all__ = [
    "MeasuredColumn",
    "Scalars",
    "cluster_scalars",
    "measure_columns",
    "nearest_scalars",
    "scalar_codebooks",
]

# Dynamic programming takes time in proportion to clusters x runs (x log runs), and finds the exact
# optimum if every distinct value is a run. With eight runs per cluster of the largest size,
# iterations over the values come within a per cent of it.
_RUNS_PER_CLUSTER = 8
_LEAST_RUNS = 512
_BLOCK_VALUES = 1 << 22  # of columns that are sorted at once


@dataclass(frozen=True, eq=False)
class Scalars:
    """Values in ascending order with running sums of their weights; made by :meth:`of`.

    Attributes:
        values: (n,) float32, ascending; those of weight zero are left out.
        sums: (n + 1, 3) float64 running sums of weight, weight x value and weight x value squared,
            zero at the weighted median.
        centre: the weighted median, which is subtracted from values in ``sums``.
    """

    values: NDArray[np.float32]
    sums: NDArray[np.float64]
    centre: float

    @classmethod
    def of(cls, values: NDArray[np.float32], weights: NDArray[np.float64]) -> Scalars:
        """Sort ``values`` (n,) float32 with ``weights`` (n,) float64, finite and not negative.

        Raises:
            FieldError: lengths differ, a value is not finite or a weight negative or not finite.
        """
        if values.shape != weights.shape:
            raise FieldError(f"values have shape {values.shape}, weights {weights.shape}")
        if not (np.isfinite(weights.sum()) and weights.min(initial=0.0) >= 0):
            raise FieldError("weights of scalars must be finite and not negative")
        order = np.argsort(values)
        order = order[weights[order] > 0]
        values, weights = values[order], weights[order]
        if not np.isfinite(values[[0, -1] if len(values) else []]).all():  # NaN is sorted last
            raise FieldError("scalars must be finite")
        sums = np.zeros((len(values) + 1, 3))
        centre = _native.sum_scalars(values, weights, sums) if len(values) else 0.0
        return cls(values, sums, centre)

    @property
    def count(self) -> int:
        """Values whose weight is not zero."""
        return len(self.values)

    @property
    def total_weight(self) -> float:
        """Sum of all weights."""
        return float(self.sums[-1, 0] - self.sums[0, 0])

    @property
    def mean(self) -> float:
        """Weighted mean; NaN if there is no weight."""
        if not self.count:
            return np.nan
        weight, first, _ = self.sums[-1] - self.sums[0]
        return float(self.centre + first / weight)

    def distortion(self, centers: NDArray[np.floating]) -> float:
        """Weighted squared error with every value at its nearest center, ties to the lower.

        Args:
            centers: (k,) ascending, at least one. Takes O(k log n).
        """
        if not len(centers):
            raise OptionError("no centers")
        if not self.count:
            return 0.0
        ascending = np.ascontiguousarray(centers, dtype=np.float64)
        return _native.scalar_distortion(self.values, self.sums, self.centre, ascending)


def cluster_scalars(scalars: Scalars, clusters: int) -> NDArray[np.float64]:
    """Centers of least distortion, ascending and distinct: see :func:`scalar_codebooks`."""
    return scalar_codebooks(scalars, [clusters])[0]


def scalar_codebooks(scalars: Scalars, sizes: Sequence[int]) -> list[NDArray[np.float64]]:
    """Centers of least distortion for every number of clusters in ``sizes``.

    One dynamic program serves all sizes. With few distinct values it is exact. With many it
    partitions some thousand runs of neighbours instead of values, and Lloyd's iterations over the
    values move the borders inside the runs. Time is proportional to the largest size, and beyond
    512 to its square.

    Returns:
        For each size the centers (k,) float64, ascending and distinct: k is the size, or the number
        of distinct values of positive weight if that is less.

    Raises:
        OptionError: a size is below 1.
    """
    if min(sizes, default=1) < 1:
        raise OptionError(f"{min(sizes)} clusters are asked for; there must be at least one")
    if not scalars.count or not sizes:
        return [np.empty(0) for _ in sizes]
    borders = _split(scalars, max(sizes))
    found = np.minimum(np.asarray(sizes, np.int64), len(borders) - 1)
    partitions = np.empty(found.sum() + len(found), np.int64)
    _native.partition_scalars(*_parts(scalars), borders, found, partitions)
    ends = np.cumsum(found + 1)
    return [_refine(scalars, partition) for partition in np.split(partitions, ends[:-1])]


def nearest_scalars(
    values: NDArray[np.float32], centers: NDArray[np.float32]
) -> NDArray[np.uint32]:
    """The nearest of ``centers`` (k,) ascending to each of ``values`` (n,), ties to the lower."""
    nearest = np.empty(len(values), np.uint32)
    _native.nearest_scalars(values, centers, nearest)
    return nearest


def _split(scalars: Scalars, clusters: int) -> NDArray[np.int64]:
    """Borders (runs + 1,) of the runs that form clusters."""
    limit = max(_RUNS_PER_CLUSTER * clusters, _LEAST_RUNS)
    borders = np.empty(min(limit, scalars.count) + 1, np.int64)
    runs = _native.split_scalars(*_parts(scalars), borders)
    return borders[: runs + 1]


def _refine(scalars: Scalars, borders: NDArray[np.int64]) -> NDArray[np.float64]:
    """Centers after Lloyd's iterations from ``borders`` (k + 1,), which are changed."""
    centers = np.empty(len(borders) - 1)
    _native.refine_scalars(*_parts(scalars), borders, centers)
    return centers


def _parts(scalars: Scalars) -> tuple[NDArray[np.float32], NDArray[np.float64], float]:
    return scalars.values, scalars.sums, scalars.centre


@dataclass(frozen=True, eq=False)
class MeasuredColumn:
    """Weighted squared errors of one column for each way to code it.

    nothing: with the value 0 for all rows; mean: the weighted mean, rounded to float16, and
    mean_left its error; tables: for each size the values (size,) float32, rounded to float16,
    ascending, the last one repeated if there are fewer; table_left: their errors; grids: offset and
    step of each (grids, 2) float32, rounded to float16; grid_left: their errors, infinite if
    float16 cannot represent the grid. If ``nothing`` is 0, all others are undefined.
    """

    nothing: float
    mean: float
    mean_left: float
    tables: tuple[NDArray[np.float32], ...]
    table_left: NDArray[np.float64]
    grids: NDArray[np.float32]
    grid_left: NDArray[np.float64]


def measure_columns(
    coordinates: NDArray[np.float32],
    weights: NDArray[np.float64],
    sizes: Sequence[int],
    grid_bits: Sequence[int],
) -> Iterator[MeasuredColumn]:
    """Measure codes of each column of ``coordinates`` (m, columns) with ``weights`` (m,).

    Tables are those of :func:`scalar_codebooks`, one for each of ``sizes``. A grid of
    2 ** bits even steps, one for each of ``grid_bits``, spans the range of the rows that have
    weight, or a part of it about the mean if its error is less, so that a few outliers do not
    determine the step.
    Raises:
        FieldError: a coordinate is not finite.
    """
    rows, axes = coordinates.shape
    block = max(1, _BLOCK_VALUES // max(rows, 1))
    for first in range(0, axes, block):
        columns = np.ascontiguousarray(coordinates[:, first : first + block].T)
        yield from _measured(columns, weights, sizes, grid_bits)


def _measured(
    columns: NDArray[np.float32],
    weights: NDArray[np.float64],
    sizes: Sequence[int],
    grid_bits: Sequence[int],
) -> Iterator[MeasuredColumn]:
    if not np.isfinite(columns).all():
        raise FieldError("scalars must be finite")
    axes, grids = len(columns), len(grid_bits)
    values = np.zeros((axes, 1 + sum(sizes)), np.float32)
    left = np.zeros((axes, 2 + len(sizes)))
    spaced, grid_left = np.zeros((axes, 2 * grids), np.float32), np.full((axes, grids), np.inf)
    _native.measure_columns(
        columns,
        weights,
        np.argsort(columns, axis=1),
        np.array(sizes, np.int64),
        np.array(grid_bits, np.int64),
        _RUNS_PER_CLUSTER,
        _LEAST_RUNS,
        values,
        left,
        spaced,
        grid_left,
    )
    ends = np.cumsum([1, *sizes])
    for own, own_left, own_grids, own_grid_left in zip(
        values, left, spaced, grid_left, strict=True
    ):
        yield MeasuredColumn(
            float(own_left[0]),
            float(own[0]),
            float(own_left[1]),
            tuple(np.split(own, ends)[1:-1]),
            own_left[2:],
            own_grids.reshape(grids, 2),
            own_grid_left,
        )
