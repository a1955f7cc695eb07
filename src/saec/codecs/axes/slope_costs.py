"""Costs of codes by slopes on unseen rows, and the share of these slopes that is used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from saec.clustering.rowmap import RowMap
from saec.codecs.axes.lagrangian import Layered
from saec.codecs.axes.principal_axes import Frame
from saec.codecs.axes.quantizer import Offer, TierOffers
from saec.codecs.axes.tier_slopes import AxisFunctions, Estimate, JoinedMoves, Moves, slopes_of
from saec.codecs.moments_and_samples import Survey
from saec.codecs.protocol import LEAST_COST, Option
from saec.codecs.slope_noise import SlopeNoise
from saec.streaming.scratch import Workspace
from saec.streaming.strata import Placing
from saec.tables.field import Field
from saec.tables.loss_metric import Metric
from saec.tables.unseen_gradients import SlopeShare

__all__ = ["FieldSlopes", "MeasuredSlopes", "counted", "share_of"]

_MOST_ROWS = 1 << 13  # of a tier, that tell what codes do
# Where rows are overfit, the slopes of each field say that its rows should shrink. If those of all
# fields do, that is too much: half of what shrinking gains is taken.
_GAIN_TAKEN = 0.5

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class MeasuredSlopes:
    """Slopes of a field's tiers, and the share that is taken.

    told: of each tier coordinates (m, rank) of some rows, and weights (m,) whose sum is 1; shapes:
    the functions that these rows make.
    """

    told: tuple[tuple[NDArray[np.float32], Floats], ...]
    shapes: tuple[AxisFunctions, ...]
    tiers: tuple[Estimate, ...]
    share: SlopeShare

    @classmethod
    def of(
        cls,
        field: Field,
        metric: Metric | None,
        survey: Survey,
        frame: Frame,
        placing: Placing,
        row_map: RowMap,
        space: Workspace,
    ) -> MeasuredSlopes | None:
        """Measure them, in one pass over the field's rows; None if the metric has no gradients on
        unseen rows."""
        if metric is None or metric.unseen is None:
            return None
        told = tuple(_told_by(survey, frame))
        shapes = tuple(AxisFunctions.of(*own) for own in told)
        tiers = slopes_of(field, metric.unseen, frame, placing, row_map, shapes, space)
        share = share_of(tiers, [each.widths for each in shapes])
        return cls(told, shapes, tuple(tiers), share)


@dataclass(frozen=True, eq=False)
class FieldSlopes:
    """Slopes of a field's tiers, what measures codes against them, and the share that is taken."""

    tiers: tuple[Estimate, ...]
    moves: tuple[Moves, ...]
    share: SlopeShare

    @classmethod
    def of(cls, measured: MeasuredSlopes) -> FieldSlopes:
        """What codes do along ``measured`` slopes."""
        moves = [
            Moves.of(shapes, *told)
            for shapes, told in zip(measured.shapes, measured.told, strict=True)
        ]
        return cls(measured.tiers, tuple(moves), measured.share)

    def priced(self, tiers: Sequence[TierOffers]) -> list[TierOffers]:
        """``tiers``, the last of which may be a joined tail, with what slopes add to the nats of
        each offer."""
        return [
            _priced(tier, self.share.value * own.believed())
            for tier, own in zip(tiers, self._of(len(tiers)), strict=True)
        ]

    def of_tail(self, first: int) -> tuple[Estimate, JoinedMoves]:
        """Slopes of the tiers from ``first`` on as one tier, and what measures its codes."""
        return Estimate.side_by_side(self.tiers[first:]), JoinedMoves(self.moves[first:])

    def _of(self, number: int) -> list[Estimate]:
        """Slopes if there are so many tiers, the last of which takes all further rows."""
        return [*self.tiers[: number - 1], self.of_tail(number - 1)[0]]

    def on(self, option: Option, layered: Layered) -> Option:
        """An option that is coded by ``layered``, with what slopes add to its loss in nats."""
        return replace(
            option,
            noise=SlopeNoise(self, partial(self._errors, layered)),
            share=self.share,
            by_slopes=layered.by_slopes,
            first_order=layered.first_order,
        )

    def _errors(self, layered: Layered) -> Floats:
        """Of a layout (3 x rank x tiers,): the standard errors of slopes times its moves."""
        errors = [
            way.moves * np.sqrt(self.share.of_variance * own.variance)
            for way, own in zip(layered.ways, self._of(len(layered.ways)), strict=True)
        ]
        # (rank, 3 x tiers): a joined tail has the tiers that it takes next to each other.
        return np.concatenate(errors, axis=-1).ravel()


def _told_by(survey: Survey, frame: Frame) -> Iterator[tuple[NDArray[np.float32], Floats]]:
    """Coordinates (m, rank) of some rows of each sample, and weights (m,) whose sum is 1."""
    for sample in survey.samples:
        step = -(-len(sample.rows) // _MOST_ROWS)
        counts = sample.frequencies[::step]
        weights = counts if counts.any() else np.ones(len(counts))
        yield frame.coordinates(sample.rows[::step], frame.rank), weights / weights.sum()


def _priced(tier: TierOffers, slopes: Floats) -> TierOffers:
    def costs(offers: Iterable[Offer], first: int) -> tuple[Offer, ...]:
        return tuple(_with_slopes(offer, slopes[first:]) for offer in offers)

    scalar = tuple(costs(offers, axis) for axis, offers in enumerate(tier.scalar))
    return TierOffers(scalar, {axes: costs(offers, 0) for axes, offers in tier.joint.items()})


def _with_slopes(offer: Offer, slopes: Floats) -> Offer:
    first = (offer.moves * slopes[: len(offer.moves)]).sum()
    added = float(counted(first, offer.nats))
    return replace(offer, nats=offer.nats + added, by_slopes=added, first_order=float(first))


def counted(added: Floats, nats: Floats | float) -> Floats:
    """What first-order changes ``added`` count for beside second-order ones, ``nats``."""
    gains = np.maximum(_GAIN_TAKEN * added, (LEAST_COST - 1) * nats)
    return np.where(added < 0, gains, added)


def share_of(tiers: Sequence[Estimate], widths: Sequence[Floats]) -> SlopeShare:
    """The share of slopes measured on one half of the unseen rows that comes true on the other.

    It is that of least squares, both ways round, where each slope counts by what it makes of a
    change as large as the coordinates are.
    """
    common = square = variance = 0.0
    for tier, width in zip(tiers, widths, strict=True):
        weights = np.square(width)[:, None]
        for half in range(2):
            believed = tier.believed(half)
            common += float((weights * believed * tier.halves[1 - half]).sum())
            square += float((weights * np.square(believed)).sum())
            noise = np.square(weights * believed) * 2 * tier.variance
            variance += float(noise.sum())
    if not square:
        return SlopeShare(0.0, 0.0, np.inf)
    measured, error = common / square, float(np.sqrt(variance)) / square
    taken = min(measured, 1.0) if measured > error else 0.0
    return SlopeShare(taken, measured, error)
