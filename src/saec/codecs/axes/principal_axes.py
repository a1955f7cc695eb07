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

__all__ = ["Frame"]

_LEAST_VARIANCE = 1e-9  # of the first axis's, that another axis has
# Squared error of a mean in float64, and how far float16 may move it, as a share of the variance.
_MEAN_NOISE = 1e-24
_LEAST_AXIS = 64 * float(np.finfo(np.float32).smallest_subnormal)  # what has some digits
_MEAN_MOVED = 1e-4
_WIDE, _MORE = 4, 8


@dataclass(frozen=True, eq=False)
class Frame:
    """Rows are mean + coordinates @ axes; axes are orthogonal in the metric, most variance first.

    Axes are scaled by the standard deviation along them, so that coordinates are of size one and
    float16 serves both.

    Args:
        stored: (rank + 1, dim) float16 or float32, the axes and, last, the mean.
        dual: (dim, rank) float64; (row - mean) @ dual are a row's coordinates, by least squares in
            the metric against the axes as stored.
        nats: (rank,) float64; ``nats[a]`` times the mean squared error of coordinate ``a`` is what
            that error costs, in nats (1/2 delta' G delta, docs/design.md).
        rest: nats that remain if every coordinate is exact: those of the axes that are left out,
            and of what rounding of the mean and the axes takes out of their reach.
        metric: half a squared length in it is nats.
    """

    stored: NDArray[np.floating[Any]]
    dual: NDArray[np.float64]
    nats: NDArray[np.float64]
    rest: float
    metric: Metric

    @classmethod
    def of(cls, moments: Moments, metric: Metric, rows: int | None = None) -> Frame:
        """The frame of a field with these ``moments``, of ``rows`` rows if that is known."""
        mean, covariance = moments.mean, moments.covariance
        spread = metric.mapped(metric.mapped(covariance).T)
        variances, vectors = _eigen(spread, metric.dim if rows is None else rows - 1)
        # Next to no variance is noise of rounding; dividing by it would amplify that.
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
        # What no coordinates can give back, of the rows as they lie about the stored mean.
        away = metric.mapped(mean - stored[-1])
        lost = np.eye(metric.dim) - dual @ kept
        about = spread + np.outer(away, away)
        rest = max(float(np.einsum("ij,ji->", lost, about)) / 2, 0.0)
        return cls(stored, _steady(dual, metric), gram.diagonal() / 2, rest, metric)

    @classmethod
    def of_stored(cls, stored: NDArray[np.floating[Any]], metric: Metric) -> Frame:
        """The frame of axes and a mean (rank + 1, dim) that were made for other rows or another
        metric: axes need not be orthogonal in ``metric``, and :attr:`rest` is not known."""
        _, gram, dual = _dual(stored, metric)
        return cls(stored, _steady(dual, metric), gram.diagonal() / 2, 0.0, metric)

    @property
    def least(self) -> tuple[Frame, float]:
        """The frame without axes, with the mean in float16 as near as that can be, and by how many
        nats that raises what the mean alone loses."""
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
        """Coordinates of ``rows`` (m, dim) on the first ``axes``, (m, axes)."""
        about = rows.astype(np.float64)
        about -= self.stored[-1].astype(np.float64)
        return (about @ self.dual[:, :axes]).astype(np.float32)

    def squared_errors(
        self, rows: NDArray[Any], coordinates: Sequence[NDArray[np.float32]]
    ) -> NDArray[np.float64]:
        """Squared errors (m,) in the metric if ``rows`` become mean + coordinates @ axes.

        ``coordinates`` are (m, some axes) each and lie side by side, from the first axis on.
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
    """The axes in the metric (rank, dim), their products (rank, rank), and what gives coordinates
    of rows in the metric, (dim, rank)."""
    kept = metric.mapped(stored[:-1].astype(np.float64))
    gram = kept @ kept.T
    return kept, gram, np.linalg.solve(gram, kept).T


def _steady(dual: NDArray[np.floating[Any]], metric: Metric) -> NDArray[np.float64]:
    """``dual`` of rows as they are, without the last digits of what BLAS computes, which depend on
    the number of threads; codes may not."""
    return _to_float32_digits(metric.mapped(dual.T).T)


def _eigen(
    spread: NDArray[np.float64], rank: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The eigenvalues of ``spread`` (dim, dim), the largest first, and its eigenvectors as columns,
    if it is of ``rank`` at most.

    Of a table much wider than it has rows only as many are found as can differ from zero: products
    with a few more random vectors span them all (Halko, Martinsson and Tropp 2011).
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
    """``values`` with the digits of float32, in each column relative to the largest: those of a
    table of tiny values are beyond float32's range."""
    exponents = np.frexp(np.abs(values).max(axis=0, initial=0.0))[1]
    rounded = np.ldexp(values, -exponents).astype(np.float32).astype(np.float64)
    result: NDArray[np.float64] = np.ldexp(rounded, exponents)
    return result


def _rounded(
    axes: NDArray[np.float64], mean: NDArray[np.float64], metric: Metric, moved: float
) -> NDArray[np.floating[Any]]:
    """Axes and mean as float16 where that keeps their digits, else as float32.

    moved: squared distance in the metric by which the mean may move.
    """
    values = np.ascontiguousarray(np.vstack([axes, mean]))
    narrow = np.finfo(np.float16)
    if np.abs(values).max() <= narrow.max and np.all(np.abs(axes).max(axis=1) >= narrow.tiny):
        half = values.astype(np.float16)
        if np.square(metric.mapped(mean - half[-1])).sum() <= moved:
            return half
    limit = np.finfo(np.float32).max
    return values.clip(-limit, limit).astype(np.float32)
