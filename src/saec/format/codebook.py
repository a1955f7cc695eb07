"""Centroids in their stored form: float32, float16, or int8 with a scale and an offset per axis.

The axes are the table's own or, if centroids vary along few directions, the leading principal
axes of the centroids: a centroid is then mean + sum_a value_a * axis_a, with fewer values than dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from saec.errors import ArtifactError
from saec.tables.loss_metric import Metric

__all__ = ["Codebook", "CodebookDtype", "codebook_bytes"]

CodebookDtype = Literal["float32", "float16", "int8"]

_INT8_STEPS = 254  # -127 .. 127


def codebook_bytes(clusters: int, dim: int, dtype: CodebookDtype, rank: int | None = None) -> int:
    """Bytes that a codebook of ``clusters`` x ``dim`` takes in an artifact.

    ``rank`` is the number of principal axes kept; None, or ``dim``, keeps the table's own axes.
    """
    own = rank is None or rank == dim
    width = dim if rank is None else rank
    axes = 0 if own else (width + 1) * dim * np.dtype(np.float16).itemsize
    grid = 8 * width if dtype == "int8" else 0
    return clusters * width * np.dtype(dtype).itemsize + grid + axes


@dataclass(frozen=True, eq=False)
class Codebook:
    """``clusters`` centroids of width ``dim``.

    stored: (clusters, rank) coordinates in float32, float16 or int8; grid: for int8, (2, rank)
    float32 with the scale and the offset of each axis; axes: (rank + 1, dim) float16, the principal
    axes and the mean, or None for the table's own axes.
    """

    stored: NDArray[np.generic]
    grid: NDArray[np.float32] | None = None
    axes: NDArray[np.float16] | None = None

    def __post_init__(self) -> None:
        if self.stored.ndim != 2 or 0 in self.stored.shape:
            raise ArtifactError(f"a codebook has shape (clusters, rank), not {self.stored.shape}")
        if self.stored.dtype.name not in get_args(CodebookDtype):
            raise ArtifactError(
                f"a codebook is {' or '.join(get_args(CodebookDtype))}, not {self.stored.dtype}"
            )
        self._check_grid()
        self._check_axes()

    def _check_grid(self) -> None:
        wanted = (2, self.rank) if self.stored.dtype == np.int8 else None
        shape = None if self.grid is None else self.grid.shape
        if shape != wanted or (self.grid is not None and self.grid.dtype != np.float32):
            raise ArtifactError(
                f"the grid of a {self.stored.dtype} codebook is {wanted}, not {shape}"
            )
        if self.grid is not None and not np.isfinite(self.grid).all():
            raise ArtifactError("the grid of a codebook holds values that are not finite")

    def _check_axes(self) -> None:
        if self.axes is None:
            return
        rows, dim = self.axes.shape if self.axes.ndim == 2 else (0, 0)
        if rows != self.rank + 1 or not self.rank < dim or self.axes.dtype != np.float16:
            raise ArtifactError(
                f"axes for rank {self.rank} are ({self.rank + 1}, dim) float16 with dim above the "
                f"rank, not {self.axes.dtype} {self.axes.shape}"
            )
        if not np.isfinite(self.axes).all():
            raise ArtifactError("the axes of a codebook hold values that are not finite")

    @classmethod
    def round(
        cls,
        centroids: NDArray[np.float32],
        dtype: CodebookDtype,
        rank: int | None = None,
        weights: NDArray[np.float64] | None = None,
        metric: Metric | None = None,
    ) -> Codebook:
        """Round ``centroids`` (k, dim) float32 to ``dtype``.

        Values beyond float16's range are clipped to it. int8 divides the range of each axis into
        255
        steps: value = scale * step + offset. Values beyond half of float32's range are
        clipped to that, so that no rounding overflows.

        Args:
            centroids: (k, dim).
            dtype: of the stored coordinates.
            rank: number of principal axes to keep; None, or dim, keeps the table's own.
            weights: (k,) weight of each centroid when the axes are computed; None for equal
                weights.
            metric: metric in which axes are principal and the error is smallest; None for
                Euclidean distance.
        """
        width = centroids.shape[1] if rank is None else rank
        return cls.round_at(centroids, dtype, [width], weights, metric)[0]

    @classmethod
    def round_at(
        cls,
        centroids: NDArray[np.float32],
        dtype: CodebookDtype,
        ranks: Sequence[int],
        weights: NDArray[np.float64] | None = None,
        metric: Metric | None = None,
        exponent: int = 0,
    ) -> list[Codebook]:
        """:meth:`round` for each of ``ranks``, of the centroids times 2 ** ``exponent``.

        Computes the axes once. The centroids are rounded before they are scaled, so that neither
        squares nor steps leave the range of numbers.
        """
        dim = centroids.shape[1]
        metric = metric or Metric.euclidean(dim)
        most = max((rank for rank in ranks if rank < dim), default=0)
        axes = _principal_axes(centroids, most, weights, metric) if most else None
        return [
            cls(*_round_coordinates(centroids, dtype, exponent))
            if axes is None or rank == dim
            else cls._on_axes(
                centroids, dtype, np.vstack([axes[:rank], axes[-1:]]), metric, exponent
            )
            for rank in ranks
        ]

    @classmethod
    def _on_axes(
        cls,
        centroids: NDArray[np.float32],
        dtype: CodebookDtype,
        axes: NDArray[np.float64],
        metric: Metric,
        exponent: int,
    ) -> Codebook:
        """On ``axes`` (rank + 1, dim), to which 2 ** exponent is not yet applied."""
        scaled = np.vstack([axes[:-1], np.ldexp(axes[-1:], exponent)])
        limit = np.finfo(np.float16).max
        stored = np.clip(scaled, -limit, limit).astype(np.float16)
        axes = stored.astype(np.float64)
        axes[-1] = np.ldexp(axes[-1], -exponent)
        directions = metric.mapped(axes[:-1])
        centred = metric.mapped(centroids - axes[-1])
        # Least squares, since the axes as stored are not exactly orthogonal.
        coordinates = np.linalg.solve(directions @ directions.T, directions @ centred.T).T
        return cls(*_round_coordinates(coordinates.astype(np.float32), dtype, exponent), stored)

    def moved(self, centroids: NDArray[np.float32]) -> Codebook:
        """Round other ``centroids`` (k, dim) to the same dtype, on the same axes.

        Centroids outside of the axes' span are replaced by the nearest point by Euclidean distance.
        """
        if self.axes is None:
            return Codebook.round(centroids, self.dtype)
        axes = self.axes.astype(np.float64)
        return Codebook._on_axes(centroids, self.dtype, axes, Metric.euclidean(self.dim), 0)

    @property
    def clusters(self) -> int:
        """Number of centroids."""
        return int(self.stored.shape[0])

    @property
    def rank(self) -> int:
        """Number of coordinates stored for a centroid."""
        return int(self.stored.shape[1])

    @property
    def dim(self) -> int:
        """Width of a centroid."""
        return self.rank if self.axes is None else int(self.axes.shape[1])

    @property
    def dtype(self) -> CodebookDtype:
        """The stored dtype's name."""
        name: CodebookDtype = self.stored.dtype.name  # type: ignore[assignment]
        return name

    @property
    def nbytes(self) -> int:
        """Bytes in an artifact."""
        return codebook_bytes(self.clusters, self.dim, self.dtype, self.rank)

    @cached_property
    def values(self) -> NDArray[np.float32]:
        """The centroids that decoding uses, (k, dim) float32. Encoding must use the same ones."""
        coordinates = np.ascontiguousarray(self.stored, dtype=np.float32)
        if self.grid is not None:
            coordinates = coordinates * self.grid[0] + self.grid[1]
        if self.axes is None:
            return coordinates
        # In float64, so that the order of a machine's additions does not change the float32 result.
        axes = self.axes.astype(np.float64)
        values: NDArray[np.float32] = (coordinates @ axes[:-1] + axes[-1]).astype(np.float32)
        return values

    def keep(self, rows: NDArray[np.integer]) -> Codebook:
        """The codebook with only the centroids ``rows``, in that order."""
        return Codebook(self.stored[rows], self.grid, self.axes)


def _round_coordinates(
    values: NDArray[np.float32], dtype: CodebookDtype, exponent: int
) -> tuple[NDArray[np.generic], NDArray[np.float32] | None]:
    """Coordinates of ``values`` times 2 ** exponent, and the grid of int8."""
    if dtype != "int8":
        limit = float(np.finfo(dtype).max)
        scaled = np.ldexp(values.astype(np.float64), exponent)
        return np.clip(scaled, -limit, limit).astype(dtype), None
    limit = np.ldexp(float(np.finfo(np.float32).max) / 2, -exponent)
    values = np.clip(values.astype(np.float64), -limit, limit).astype(np.float32)
    low, high = values.min(axis=0), values.max(axis=0)
    offset = (low.astype(np.float64) + high) / 2
    scale = (high.astype(np.float64) - low) / _INT8_STEPS
    grid = np.ldexp(np.stack([scale, offset]), exponent).astype(np.float32)
    # A constant axis, or one whose step underflows float32, has only an offset.
    grid[0] = np.where(grid[0] == 0, 1, grid[0])
    step, middle = np.ldexp(grid.astype(np.float64), -exponent)
    steps = np.rint((values - middle) / step)
    return np.clip(steps, -127, 127).astype(np.int8), grid


def _principal_axes(
    centroids: NDArray[np.float32],
    rank: int,
    weights: NDArray[np.float64] | None,
    metric: Metric,
) -> NDArray[np.float64]:
    """The ``rank`` leading axes of the weighted centroids and, last, their mean.

    Axes are orthogonal in the metric, and of Euclidean length one so that float16 holds them.
    """
    if weights is None or not weights.any():
        weights = np.ones(len(centroids))
    mean = np.average(centroids, axis=0, weights=weights)
    centred = metric.mapped(centroids - mean)
    covariance = (centred * (weights / weights.sum())[:, None]).T @ centred
    _, vectors = np.linalg.eigh(covariance)  # ascending
    directions = metric.unmapped(vectors[:, ::-1][:, :rank].T)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return np.vstack([directions, mean])
