"""The loss metric: per field the matrix in which distances between rows are nats of log loss."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from saec.errors import MetricError, MetricWarning, array_of
from saec.tables.field import Field
from saec.tables.unseen_gradients import UnseenGradients

__all__ = ["LossMetrics", "Metric", "check_metrics"]

# Asymmetry and negative eigenvalues up to this share of the largest are rounding.
ROUNDING = 1e-6

# Products of larger entries, or of entries below the inverse, with frequencies and squares of a
# table's values could leave the range of float64.
LARGEST = 1e100

# The ridge, as a share of the mean eigenvalue: directions that the examples never used get a small
# cost, so that rows keep their differences in them and the metric can be inverted.
RIDGE = 1e-3


class LossMetrics(Mapping[str, NDArray[np.float64]]):
    """The Fisher information of each field's rows, by field name: ``(dim, dim)`` float64, in nats
    per example for a row that changes by one unit.

    Attributes:
        examples: number of examples that were measured.
        relative_errors: by field name, the standard error of the matrix's trace divided by the
            trace; infinite for a field that no example used.
        unseen: by field name, the gradients summed over labelled rows that the tables have not
            seen; empty if there were none.
        unknown: by field name, the same matrix as the field's for lookups of unknown keys alone,
            where it was measured; without those that are all zero.

    Raises:
        MetricError: ``unknown`` has a field without a metric, or what are not numbers.
    """

    def __init__(
        self,
        matrices: Mapping[str, NDArray[np.float64]],
        examples: int,
        relative_errors: Mapping[str, float],
        unseen: Mapping[str, UnseenGradients] | None = None,
        unknown: Mapping[str, ArrayLike] | None = None,
    ) -> None:
        self._matrices = dict(matrices)
        self.examples = examples
        self.relative_errors: Mapping[str, float] = dict(relative_errors)
        self.unseen: Mapping[str, UnseenGradients] = dict(unseen or {})
        if wrong := sorted(set(unknown or {}) - set(self._matrices)):
            raise MetricError(f"unknown keys of {wrong[0]!r}, which has no metric")
        given = {name: _numbers(own, name) for name, own in (unknown or {}).items()}
        self.unknown = {name: own for name, own in given.items() if own.any()}

    def __getitem__(self, name: str) -> NDArray[np.float64]:
        return self._matrices[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._matrices)

    def __len__(self) -> int:
        return len(self._matrices)

    def __repr__(self) -> str:
        lines = [f"LossMetrics({len(self)} fields, {self.examples} examples)"]
        for name, matrix in self.items():
            error = f"{100 * self.relative_errors[name]:.2g} %"
            lines.append(f"  {name}: dim {len(matrix)}, trace {np.trace(matrix):.4g} +- {error}")
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class Metric:
    """A field's metric, positive definite.

    If row i changes by delta_i, the expected log loss grows by ``sum_i (w_i / sum w) 1/2 delta_i'
    matrix delta_i``, with w the field's frequencies. For rows multiplied by :attr:`root`, this is
    half the mean squared Euclidean distance.

    Attributes:
        matrix: ``(dim, dim)`` float64.
        unseen: gradients on rows that the table has not seen, if known.
        unknown: ``(dim, dim)`` float64, the matrix for lookups of unknown keys, if known.
    """

    matrix: NDArray[np.float64]
    unseen: UnseenGradients | None = None
    unknown: NDArray[np.float64] | None = None

    @classmethod
    def of(cls, matrix: ArrayLike, name: str, dim: int) -> Self:
        """Check the Fisher information of field ``name`` and regularise it.

        ``matrix`` becomes ``G + 1e-3 tr(G) / dim I``. Asymmetry and negative eigenvalues are
        removed if they are within rounding errors.

        Raises:
            MetricError: it is not ``(dim, dim)``, not finite, not symmetric, not positive
                semi-definite, or all zero.
        """
        checked = _checked(matrix, name, dim)
        if not checked.any():
            raise MetricError(f"field {name!r}: the metric is all zero")
        values, vectors = np.linalg.eigh(checked)
        if values[0] < -ROUNDING * values[-1]:
            raise MetricError(
                f"field {name!r}: the metric is not positive semi-definite: its eigenvalues reach "
                f"from {values[0]:.4g} to {values[-1]:.4g}"
            )
        values = np.maximum(values, 0.0)
        return cls((vectors * (values + RIDGE * values.mean())) @ vectors.T)

    @classmethod
    def euclidean(cls, dim: int) -> Self:
        """The metric in which all directions are equal: the identity."""
        return cls(np.eye(dim))

    @property
    def dim(self) -> int:
        """Width of the rows."""
        return len(self.matrix)

    @cached_property
    def root(self) -> NDArray[np.float64]:
        """The symmetric square root of ``matrix``, ``(dim, dim)``."""
        return self._power(0.5)

    @cached_property
    def inverse_root(self) -> NDArray[np.float64]:
        """The inverse of :attr:`root`, ``(dim, dim)``."""
        return self._power(-0.5)

    @cached_property
    def is_diagonal(self) -> bool:
        """Whether the matrix is diagonal. For wide tables this avoids eigendecompositions and
        matrix products, which would take seconds."""
        return bool(np.count_nonzero(self.matrix) == np.count_nonzero(self.matrix.diagonal()))

    def mapped(self, rows: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """``rows`` (..., dim) @ :attr:`root`."""
        return self._times(rows, 0.5)

    def unmapped(self, rows: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """``rows`` (..., dim) @ :attr:`inverse_root`."""
        return self._times(rows, -0.5)

    def _times(self, rows: NDArray[np.floating[Any]], exponent: float) -> NDArray[np.float64]:
        if self.is_diagonal:
            scales = self._scales if exponent > 0 else self._inverse_scales
            scaled: NDArray[np.float64] = rows * scales
            return scaled
        product: NDArray[np.float64] = rows @ (self.root if exponent > 0 else self.inverse_root)
        return product

    @cached_property
    def _scales(self) -> NDArray[np.float64]:
        """The diagonal of :attr:`root`, if the matrix is diagonal."""
        scales: NDArray[np.float64] = self.matrix.diagonal() ** 0.5
        return scales

    @cached_property
    def _inverse_scales(self) -> NDArray[np.float64]:
        """The diagonal of :attr:`inverse_root`, if the matrix is diagonal."""
        scales: NDArray[np.float64] = self.matrix.diagonal() ** -0.5
        return scales

    @cached_property
    def _eigen(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        values, vectors = np.linalg.eigh(self.matrix)
        return values, vectors

    def _power(self, exponent: float) -> NDArray[np.float64]:
        if self.is_diagonal:
            return np.diag(self.matrix.diagonal() ** exponent)
        values, vectors = self._eigen
        powered: NDArray[np.float64] = (vectors * values**exponent) @ vectors.T
        return powered


def check_metrics(fields: Sequence[Field], metrics: Mapping[str, ArrayLike]) -> dict[str, Metric]:
    """The metrics of ``fields``, checked and regularised, in the order of ``fields``.

    A field whose matrix is all zero was used by none of the measured examples. Its metric becomes
    the identity times a constant, with the smallest trace of the other fields (1 if there is none),
    so that it counts as little as any of them; a :class:`MetricWarning` names the field.

    Args:
        fields: the fields to be compressed.
        metrics: ``(dim, dim)`` by field name, for exactly these fields.

    Raises:
        MetricError: a field has no metric, a metric has no field, or see :meth:`Metric.of`.
    """
    if not isinstance(metrics, Mapping):
        raise MetricError(
            f"metrics must be a mapping of field names to matrices, not {type(metrics).__name__}"
        )
    dims = {field.name: field.dim for field in fields}
    _check_names(set(dims), set(metrics))
    matrices = {name: _checked(metrics[name], name, dim) for name, dim in dims.items()}
    given = {name: Metric.of(m, name, dims[name]) for name, m in matrices.items() if m.any()}
    trace = min((float(np.trace(metric.matrix)) for metric in given.values()), default=1.0)
    for name in (name for name in dims if name not in given):
        warnings.warn(
            f"field {name!r}: the metric is all zero, no example looked the field up; its rows "
            "are compared by Euclidean distance",
            MetricWarning,
            stacklevel=2,
        )
    found = {
        name: given.get(name) or Metric(np.eye(dim) * (trace / dim)) for name, dim in dims.items()
    }
    if isinstance(metrics, LossMetrics):
        return {field.name: _with_unseen(found[field.name], field, metrics) for field in fields}
    return found


def _with_unseen(metric: Metric, field: Field, metrics: LossMetrics) -> Metric:
    """With what is known of ``field`` on rows that the tables have not seen."""
    name, dim = field.name, field.dim
    gradients, unknown = metrics.unseen.get(name), metrics.unknown.get(name)
    if gradients is not None:
        gradients.check(name, field.vocab_size, dim)
    if unknown is None:
        return replace(metric, unseen=gradients)
    try:
        return replace(metric, unseen=gradients, unknown=Metric.of(unknown, name, dim).matrix)
    except MetricError as error:
        raise MetricError(f"unknown keys: {error}") from error


def _check_names(fields: set[str], metrics: set[str]) -> None:
    for wrong, text in (
        (fields - metrics, "no metric for"),
        (metrics - fields, "metrics of what is not compressed:"),
    ):
        if wrong:
            raise MetricError(f"{text} {', '.join(repr(name) for name in sorted(wrong))}")


def _numbers(matrix: ArrayLike, name: str) -> NDArray[np.float64]:
    array = np.asarray(array_of(matrix, f"field {name!r}: the metric", MetricError))
    if array.dtype.kind not in "biuf":
        raise MetricError(f"field {name!r}: the metric is {array.dtype}, not real numbers")
    return array.astype(np.float64)


def _checked(matrix: ArrayLike, name: str, dim: int) -> NDArray[np.float64]:
    array = _numbers(matrix, name)
    if array.shape != (dim, dim):
        shape = " x ".join(str(size) for size in array.shape) or "a number"
        raise MetricError(
            f"field {name!r}: the metric is {shape}; the table of dim {dim} needs {dim} x {dim}"
        )
    if not np.isfinite(array).all():
        row, column = (int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise MetricError(
            f"field {name!r}: the metric holds {array[row, column]} at row {row}, column {column}"
        )
    largest = float(np.abs(array).max())
    if largest and not 1 / LARGEST <= largest <= LARGEST:
        raise MetricError(
            f"field {name!r}: the largest entry of the metric is {largest:.4g}; it must be "
            f"from {1 / LARGEST:.0e} to {LARGEST:.0e}; scale the loss"
        )
    asymmetry = float(np.abs(array - array.T).max())
    if asymmetry > ROUNDING * largest:
        raise MetricError(
            f"field {name!r}: the metric is not symmetric: entries of up to {largest:.4g} differ "
            f"from their mirror images by {asymmetry:.4g}"
        )
    symmetric: NDArray[np.float64] = (array + array.T) / 2
    return symmetric
