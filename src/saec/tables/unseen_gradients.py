"""Gradients of the loss at a field's rows, summed over labelled rows that the tables have not seen.

At an optimum of the training loss these sums vanish on training rows. On rows that the tables have
not seen they do not, and a change of the table then changes the loss in first order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saec.errors import MetricError

__all__ = ["RowSums", "SlopeShare", "UnseenGradients"]


@dataclass(frozen=True, eq=False)
class RowSums:
    """Sums for some features of a field.

    Args:
        ids: (m,) int64, ascending.
        sums: (m, dim) float32, sums of an example's gradient with respect to the feature's row.
    """

    ids: NDArray[np.int64]
    sums: NDArray[np.float32]

    def between(self, start: int, stop: int) -> RowSums:
        """The sums of the features from ``start`` to ``stop`` - 1."""
        first, last = np.searchsorted(self.ids, [start, stop])
        return RowSums(self.ids[first:last], self.sums[first:last])


@dataclass(frozen=True, eq=False)
class UnseenGradients:
    """The sums of a field, over two random halves of the labelled rows.

    If row i changes by delta_i, the mean loss on unseen rows changes by ``sum_i s_i . delta_i /
    examples`` to first order, with s_i the sum of both halves. The difference of the halves
    measures the noise.

    Args:
        halves: each without the features that it did not look up.
        examples: labelled rows of both halves together.
    """

    halves: tuple[RowSums, RowSums]
    examples: int

    def check(self, name: str, vocab_size: int, dim: int) -> None:
        """Reject sums that do not fit field ``name``.

        Raises:
            MetricError: ids are outside the table or do not ascend, or sums are not finite
                or not one vector of the table's width for each id.
        """
        for half in self.halves:
            ids, sums = half.ids, half.sums
            if sums.shape != (len(ids), dim):
                shape = " x ".join(map(str, sums.shape))
                raise MetricError(
                    f"field {name!r}: gradients on unseen rows are {shape}; {len(ids)} features of "
                    f"dim {dim} need {len(ids)} x {dim}"
                )
            if len(ids) and (ids[0] < 0 or ids[-1] >= vocab_size or (np.diff(ids) <= 0).any()):
                raise MetricError(
                    f"field {name!r}: gradients on unseen rows are of ids {ids[0]} to {ids[-1]}; "
                    f"they must ascend and lie below {vocab_size}"
                )
            if not np.isfinite(sums).all():
                raise MetricError(f"field {name!r}: a gradient on unseen rows is not finite")


@dataclass(frozen=True)
class SlopeShare:
    """How much weight a field's slopes on unseen rows get.

    Args:
        value: the share that is used, from 0 to 1; 0 if ``measured`` is not above ``error``, or if
            options are chosen for all fields without slopes, because the choice by slopes is not
            expected to gain more than its noise.
        measured: the share of slopes measured on one half of the unseen rows that is confirmed by
            the other half.
        error: standard error of ``measured``.
    """

    value: float
    measured: float
    error: float

    @property
    def of_variance(self) -> float:
        """The expected squared error of slopes as used, in units of the variance of slopes as
        measured.

        The best linear estimate of a number from a measurement is its share k of it, and has k
        times the variance of the measurement as its expected squared error. A share of 0 may be as
        much as its standard error.
        """
        return min(max(self.value, self.error), 1.0)
