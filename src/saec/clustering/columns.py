"""Codes of single coordinates, measured for many columns at once: tables of values and grids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import saec._native as _native
from saec.clustering.scalar import LEAST_RUNS, RUNS_PER_CLUSTER
from saec.errors import FieldError

__all__ = ["MeasuredColumn", "measure_columns"]

_BLOCK_VALUES = 1 << 22  # of columns that are sorted at once


@dataclass(frozen=True, eq=False)
class MeasuredColumn:
    """What codes of one column leave of its weighted squares.

    nothing: with the value 0 for all rows; mean: the weighted mean as float16 holds it, and
    mean_left with it; tables: of each size the values (size,) float32 that float16 holds,
    ascending, the last one repeated if there are fewer; table_left: with each; grids: offset and
    step of each (grids, 2) float32 that float16 holds; grid_left: with each, infinite if float16
    cannot space it. All but ``nothing`` mean nothing where that is 0.
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

    Tables are those of :func:`.scalar.scalar_codebooks`, one for each of ``sizes``. A grid of
    2 ** bits even steps, one for each of ``grid_bits``, spans the range of the rows that have
    weight, or a part of it about the mean if that leaves less: a few rows far out must not space
    all others.

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
        RUNS_PER_CLUSTER,
        LEAST_RUNS,
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
