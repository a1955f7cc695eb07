"""What slopes on unseen rows say of single rows: the gradient of the loss as a function of where a
row lies.

Fields with keys decide row by row what is stored, and clusters move a row along all axes at once.
Both need what a change of one row costs in first order; docs/mathematics.md has the derivation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saec.codecs.axes.principal_axes import Frame
from saec.codecs.axes.slope_costs import MeasuredSlopes, counted
from saec.codecs.axes.tier_slopes import AxisFunctions, Estimate, plain_functions
from saec.codecs.moments_and_samples import Survey
from saec.tables.unseen_gradients import SlopeShare
from saec.util.row_blocks import row_blocks

__all__ = ["RowGradient", "RowLosses", "RowNats", "RowSlopes"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RowGradient:
    """The gradient of the mean loss on unseen rows at the rows of a tier, in nats per unit of a
    coordinate, for a row that has all occurrences.

    widths: (rank,) root mean squares of the coordinates; coefficients: (rank, 3), of the
    coordinate over its width, 1, and the first one clipped to -1 to 1, as they count when codes are
    chosen; measured: (rank, 3), the same as expected of unseen rows. factors: (rank,), by how
    much the linear part multiplies what squared errors about the mean of a code cost; errors:
    (rank,), standard errors of these.
    """

    widths: Floats
    coefficients: Floats
    measured: Floats
    factors: Floats
    errors: Floats

    @classmethod
    def none(cls, rank: int) -> RowGradient:
        """Where nothing is known of unseen rows."""
        zeros = np.zeros(rank)
        return cls(zeros, np.zeros((rank, 3)), np.zeros((rank, 3)), zeros + 1, zeros)

    @classmethod
    def of(
        cls, shapes: AxisFunctions, slopes: Estimate, share: SlopeShare, nats: Floats, part: float
    ) -> RowGradient:
        """From a tier's ``slopes`` (rank, 3), of which a ``share`` is taken.

        nats: (rank,) per squared error of each coordinate; part: of all occurrences, that the
        tier's rows have.
        """
        if not part:
            return cls.none(len(nats))
        whole = part * nats * np.square(shapes.widths)  # lost in second order if all rows go to 0
        per_nat = np.divide(1.0, whole, out=np.zeros_like(whole), where=whole > 0)
        believed = share.value * slopes.believed()
        first = -believed[:, 0] * shapes.widths
        taken = counted(first, whole)
        kept = np.divide(taken, first, out=np.ones_like(first), where=first != 0)
        measured = np.einsum("ajk,ak->aj", shapes.combined, believed) / part
        coefficients = measured * kept[:, None]
        deviations = np.sqrt(share.of_variance * slopes.variance[:, 0]) * shapes.widths
        factors, errors = 1 + taken * per_nat, deviations * per_nat
        return cls(shapes.widths, coefficients, measured, factors, errors)

    def of_axes(self, axes: slice) -> RowGradient:
        """On these axes alone."""
        return RowGradient(
            self.widths[axes],
            self.coefficients[axes],
            self.measured[axes],
            self.factors[axes],
            self.errors[axes],
        )

    def added(self, coordinates: NDArray[np.float32], moved: NDArray[np.floating[Any]]) -> Floats:
        """Nats (m,) by which codes are chosen, for each occurrence of rows at ``coordinates``
        (m, rank) that are ``moved`` (m, some leading axes)."""
        return self._along(self.coefficients, coordinates, moved)

    def expected(
        self, coordinates: NDArray[np.float32], moved: NDArray[np.floating[Any]]
    ) -> Floats:
        """Nats (m,) that are expected; arguments as of :meth:`added`."""
        return self._along(self.measured, coordinates, moved)

    def _along(
        self,
        coefficients: Floats,
        coordinates: NDArray[np.float32],
        moved: NDArray[np.floating[Any]],
    ) -> Floats:
        if not coefficients.any():
            return np.zeros(len(moved))
        axes = moved.shape[1]
        plain = plain_functions(coordinates[:, :axes], self.widths[:axes])
        result: Floats = np.einsum("maj,aj,ma->m", plain, coefficients[:axes], moved)
        return result


@dataclass(frozen=True, eq=False)
class RowLosses:
    """What rows lose, in nats, for each occurrence or, after :meth:`times`, for their shares of all
    occurrences; all arrays are (m,).

    second: in second order; lost: with what slopes add as codes are chosen; in_first_order: that
    is expected in first order; doubt: its standard error, at most, as if those of all axes had one
    sign.
    """

    second: Floats
    lost: Floats
    in_first_order: Floats
    doubt: Floats

    @classmethod
    def joined(cls, losses: Sequence[RowLosses]) -> RowLosses:
        """Of all these rows, in this order."""
        return cls(
            np.concatenate([each.second for each in losses]),
            np.concatenate([each.lost for each in losses]),
            np.concatenate([each.in_first_order for each in losses]),
            np.concatenate([each.doubt for each in losses]),
        )

    def __add__(self, others: RowLosses) -> RowLosses:
        return RowLosses(
            self.second + others.second,
            self.lost + others.lost,
            self.in_first_order + others.in_first_order,
            self.doubt + others.doubt,
        )

    def times(self, shares: Floats) -> RowLosses:
        """For their ``shares`` (m,) of all occurrences, not for each occurrence."""
        return RowLosses(
            shares * self.second,
            shares * self.lost,
            shares * self.in_first_order,
            shares * self.doubt,
        )


@dataclass(frozen=True, eq=False)
class RowNats:
    """What rows of a tier lose: nats (rank,) per squared error of each coordinate, and the gradient
    of the loss on unseen rows."""

    second: Floats
    gradient: RowGradient

    @property
    def of_codes(self) -> Floats:
        """(rank,) per squared error about the mean of a code."""
        return self.second * self.gradient.factors

    def of_axes(self, axes: slice) -> RowNats:
        """On these axes alone; losses on different axes add up."""
        return RowNats(self.second[axes], self.gradient.of_axes(axes))

    def losses(
        self, coordinates: NDArray[np.float32], decoded: NDArray[np.floating[Any]]
    ) -> RowLosses:
        """Of rows at ``coordinates`` that become ``decoded``, both (m, rank), m at least 1."""
        blocks = row_blocks(len(decoded))
        every = [self._of_block(coordinates[block], decoded[block]) for block in blocks]
        return RowLosses.joined(every)

    def _of_block(
        self, coordinates: NDArray[np.float32], decoded: NDArray[np.floating[Any]]
    ) -> RowLosses:
        moved = decoded - coordinates.astype(np.float64)
        squares = np.square(moved)
        second: Floats = squares @ self.second
        doubt: Floats = squares @ (self.second * self.gradient.errors)
        added = self.gradient.added(coordinates, moved)
        return RowLosses(second, second + added, self.gradient.expected(coordinates, moved), doubt)


@dataclass(frozen=True, eq=False)
class RowSlopes:
    """The gradients of a field's tiers, and the share of slopes that is in them."""

    tiers: tuple[RowGradient, ...]
    share: SlopeShare

    @classmethod
    def of(cls, measured: MeasuredSlopes, survey: Survey, frame: Frame, total: float) -> RowSlopes:
        """From ``measured`` slopes of the tiers that ``survey`` has samples of; total: occurrences
        of all rows."""
        parts = [sample.weight / total for sample in survey.samples]
        tiers = [
            RowGradient.of(shapes, own, measured.share, frame.nats, part)
            for shapes, own, part in zip(measured.shapes, measured.tiers, parts, strict=True)
        ]
        return cls(tuple(tiers), measured.share)
