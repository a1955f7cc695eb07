"""A field's frame: its mean and its principal axes in the loss metric, as they are stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saec.codecs.moments_and_samples import Moments
from saec.format.tier_layout import MOST_AXES
from saec.tables.loss_metric import Metric
from saec.util.row_blocks import row_blocks

__all__ = ["Frame"]

_LEAST_VARIANCE = 1e-9  # least variance of an axis, as a share of the first axis's
_MEAN_NOISE = 1e-24  # squared rounding error of a mean in float64, relative to its square
_LEAST_AXIS = 64 * float(np.finfo(np.float32).smallest_subnormal)  # smaller axes lose all digits
_MEAN_MOVED = 1e-4  # squared distance by which float16 may move the mean, relative to the variance
_WIDE, _MORE = 4, 8


@dataclass(frozen=True, eq=False)
class Frame:
    """Rows are mean + coordinates @ axes; axes are orthogonal in the metric, most variance first.

    Axes are scaled by the standard deviation along them, so that coordinates have a standard
    deviation of one and float16 can hold both.

    Args:
        stored: (rank + 1, dim) float16 or float32, the axes and, last, the mean.
        dual: (dim, rank) float64; (row - mean) @ dual are a row's coordinates, by least squares in
            the metric against the stored (rounded) axes.
        nats: (rank,) float64; ``nats[a]`` times the mean squared error of coordinate ``a`` is the
            loss in nats (1/2 delta' G delta, docs/design.md).
        rest: the loss in nats if every coordinate is exact: from axes that are left out, and from
            rounding of the mean and the axes.
        metric: half the squared length in this metric is the loss in nats.
    """

    stored: NDArray[np.floating[Any]]
    dual: NDArray[np.float64]
    nats: NDArray[np.float64]
    rest: float
    metric: Metric

    @classmethod
    def of(cls, moments: Moments, metric: Metric, rows: int | None = None) -> Frame:
        """The frame of a field with these ``moments``; ``rows``: its number of rows, if known."""
        mean, covariance = moments.mean, moments.covariance
        spread = metric.mapped(metric.mapped(covariance).T)
        variances, vectors = _eigen(spread, metric.dim if rows is None else rows - 1)
        # A variance of almost zero is rounding noise; dividing by it would amplify the noise.
        noise = _MEAN_NOISE * float(np.square(metric.mapped(mean)).sum())
        useful = np.count_nonzero(variances > max(_LEAST_VARIANCE * variances[0], noise))
        rank = min(int(useful), MOST_AXES)
        axes = metric.unmapped((vectors[:, :rank] * np.sqrt(variances[:rank])).T)
        digits = np.abs(axes).max(axis=1, initial=0.0) >= _LEAST_AXIS
        rank = rank if digits.all() else int(np.argmin(digits))
        axes = axes[:rank]
        moved = _MEAN_MOVED * float(variances[:rank].sum())
        stored = _rounded(axes, mean, metric, moved)
        kept, gram, dual = _dual(stored, metric)
        # The part of rows, relative to the stored mean, that no coordinates can represent.
        away = metric.mapped(mean - stored[-1])
        lost = np.eye(metric.dim) - dual @ kept
        about = spread + np.outer(away, away)
        rest = max(float(np.einsum("ij,ji->", lost, about)) / 2, 0.0)
        return cls(stored, _steady(dual, metric), gram.diagonal() / 2, rest, metric)

    @classmethod
    def of_stored(cls, stored: NDArray[np.floating[Any]], metric: Metric) -> Frame:
        """The frame of stored axes and a mean (rank + 1, dim) that were made for other rows or
        another metric.

        Axes need not be orthogonal in ``metric``. :attr:`rest` is unknown and set to 0.
        """
        stored = np.asarray(stored)  # a slice of a memmap takes longer than the work on a few rows
        _, gram, dual = _dual(stored, metric)
        return cls(stored, _steady(dual, metric), gram.diagonal() / 2, 0.0, metric)

    @property
    def least(self) -> tuple[Frame, float]:
        """The frame without axes and with the mean rounded to float16, and the loss in nats that
        this rounding adds."""
        limit = np.finfo(np.float16).max
        mean = self.stored[-1:].clip(-limit, limit).astype(np.float16)
        away = self.metric.mapped(self.stored[-1] - mean[0].astype(np.float64))
        frame = Frame(mean, self.dual[:, :0], self.nats[:0], self.rest, self.metric)
        return frame, float(np.square(away).sum()) / 2

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.stored) - 1

    def coordinates(self, rows: NDArray[Any], axes: int) -> NDArray[np.float32]:
        """Coordinates (m, axes) of ``rows`` (m, dim) on the first ``axes`` axes."""
        about = rows.astype(np.float64)
        about -= self.stored[-1].astype(np.float64)
        return (about @ self.dual[:, :axes]).astype(np.float32)

    def coordinates_in_blocks(self, rows: NDArray[Any], axes: int) -> NDArray[np.float32]:
        """The same as :meth:`coordinates`, a few hundred rows at a time, which takes less time and
        memory for many rows. Sums may differ in the last digit of float64, which hardly ever
        changes their rounding to float32."""
        coordinates = np.empty((len(rows), axes), np.float32)
        for block in row_blocks(len(rows)):
            coordinates[block] = self.coordinates(rows[block], axes)
        return coordinates

    def squared_errors(
        self, rows: NDArray[Any], coordinates: Sequence[NDArray[np.float32]]
    ) -> NDArray[np.float64]:
        """Squared errors (m,) in the metric of mean + coordinates @ axes against ``rows`` (m, dim).

        ``coordinates`` are arrays (m, some axes); together they cover the leading axes in order.
        """
        error = self.stored[-1].astype(np.float64) - rows.astype(np.float64)
        if coordinates:
            beside = np.concatenate(coordinates, axis=1).astype(np.float64)
            error += beside @ self.stored[: beside.shape[1]].astype(np.float64)
        error = self.metric.mapped(error)
        squared: NDArray[np.float64] = np.einsum("nd,nd->n", error, error)
        return squared


def _dual(
    stored: NDArray[np.floating[Any]], metric: Metric
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.floating[Any]]]:
    """The axes mapped to the metric (rank, dim), their Gram matrix (rank, rank), and the matrix
    (dim, rank) that maps rows in the metric to coordinates."""
    kept = metric.mapped(stored[:-1].astype(np.float64))
    gram = kept @ kept.T
    return kept, gram, np.linalg.solve(gram, kept).T


def _steady(dual: NDArray[np.floating[Any]], metric: Metric) -> NDArray[np.float64]:
    """``dual`` for rows in the table's own space, rounded to the digits of float32: the last digits
    of BLAS depend on the number of threads, and codes must not."""
    return _to_float32_digits(metric.mapped(dual.T).T)


def _eigen(
    spread: NDArray[np.float64], rank: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The eigenvalues of ``spread`` (dim, dim), the largest first, and its eigenvectors as columns.

    ``rank`` is an upper bound of the matrix's rank. If it is much smaller than ``dim``, only the
    eigenvalues that can differ from zero are found: products with a few more random vectors than
    ``rank`` span their eigenvectors (Halko, Martinsson and Tropp 2011).
    """
    dim = len(spread)
    if _WIDE * (rank + _MORE) >= dim:
        values, vectors = np.linalg.eigh(spread)
    else:
        random = np.random.default_rng(0).standard_normal((dim, rank + _MORE))
        basis, _ = np.linalg.qr(spread @ random)
        values, within = np.linalg.eigh(basis.T @ spread @ basis)
        vectors = basis @ within
    return values[::-1], vectors[:, ::-1]


def _to_float32_digits(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """``values`` rounded to the digits of float32, in each column relative to its largest value:
    tiny values themselves are below float32's range."""
    exponents = np.frexp(np.abs(values).max(axis=0, initial=0.0))[1]
    rounded = np.ldexp(values, -exponents).astype(np.float32).astype(np.float64)
    result: NDArray[np.float64] = np.ldexp(rounded, exponents)
    return result


def _rounded(
    axes: NDArray[np.float64], mean: NDArray[np.float64], metric: Metric, moved: float
) -> NDArray[np.floating[Any]]:
    """Axes and mean as float16 if that keeps enough digits, otherwise as float32.

    moved: the squared distance in the metric by which rounding may move the mean.
    """
    values = np.ascontiguousarray(np.vstack([axes, mean]))
    narrow = np.finfo(np.float16)
    if np.abs(values).max() <= narrow.max and np.all(np.abs(axes).max(axis=1) >= narrow.tiny):
        half = values.astype(np.float16)
        if np.square(metric.mapped(mean - half[-1])).sum() <= moved:
            return half
    limit = np.finfo(np.float32).max
    return values.clip(-limit, limit).astype(np.float32)
