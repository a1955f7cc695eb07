"""What clusters do to the loss on unseen rows in first order, as told by the rows that are judged.

The gradient at a row is a function of where it lies, one for each tier of frequencies, as for axes
(:mod:`saec.codecs.axes.row_slopes`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from saec.clustering.headtail import ranked
from saec.clustering.rowmap import RowMap
from saec.codecs.axes.principal_axes import Frame
from saec.codecs.axes.row_slopes import RowNats, RowSlopes
from saec.codecs.axes.slope_costs import MeasuredSlopes
from saec.codecs.moments_and_samples import Sample, Survey, near_survey
from saec.format.tier_layout import tier_bounds
from saec.streaming.scratch import Workspace
from saec.tables.field import Field
from saec.tables.loss_metric import Metric
from saec.tables.unseen_gradients import SlopeShare

__all__ = ["JudgedSlopes"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Tier:
    """Judged rows of a tier: their places among all, their coordinates, shares of all occurrences,
    and what they lose."""

    places: NDArray[np.int64]
    coordinates: NDArray[np.float32]
    shares: Floats
    nats: RowNats


@dataclass(frozen=True, eq=False)
class JudgedSlopes:
    """Judged rows in tiers, and the share of slopes that is taken."""

    frame: Frame
    tiers: tuple[_Tier, ...]
    share: SlopeShare

    @classmethod
    def of(
        cls, field: Field, metric: Metric | None, survey: Survey, row_map: RowMap, space: Workspace
    ) -> JudgedSlopes | None:
        """Measure the slopes, in one pass over the field's rows; None if ``metric`` has no
        gradients on unseen rows.

        survey: of the field, whose samples are all of the most frequent rows and some others.
        """
        if metric is None or metric.unseen is None:
            return None
        survey = near_survey(field, survey, row_map, space)
        frame = Frame.of(survey.moments, metric, field.vocab_size)
        most = len(survey.samples[0].rows)  # of which all are known
        cuts = [int(cut) for cut in tier_bounds(field.vocab_size)[1:-1] if cut < most]
        placing = ranked(field, *cuts, most)
        places = list(_tiers(survey, cuts))
        all_rows = Sample.join(survey.samples)
        standing = np.concatenate([sample.standing_for_all for sample in survey.samples])
        every = [
            Sample(((all_rows.rows[own], all_rows.frequencies[own]),), float(standing[own].sum()))
            for own in places
        ]
        tiered = replace(survey, samples=tuple(every))
        measured = MeasuredSlopes.of(field, metric, tiered, frame, placing, row_map, space)
        assert measured is not None, "the metric has gradients"
        slopes = RowSlopes.of(measured, tiered, frame, field.census.total)
        tiers = [
            _Tier(
                own,
                frame.coordinates(sample.rows, frame.rank),
                sample.standing_for_all / field.census.total,
                RowNats(frame.nats, gradient),
            )
            for own, sample, gradient in zip(places, every, slopes.tiers, strict=True)
        ]
        return cls(frame, tuple(tiers), slopes.share)

    @property
    def errors(self) -> int:
        """The number of errors that :meth:`added` tells."""
        return len(self.tiers) * self.frame.rank

    def added(self, decoded: NDArray[np.float32]) -> tuple[float, float, Floats]:
        """What slopes add if judged rows (m, dim) become ``decoded`` (m, dim): nats by which
        codebooks are chosen, expected nats, and the standard errors of these by tier and axis,
        (tiers x rank,)."""
        total, first, errors = 0.0, 0.0, []
        for tier in self.tiers:
            now = self.frame.coordinates(decoded[tier.places], self.frame.rank)
            moved = now.astype(np.float64) - tier.coordinates
            gradient = tier.nats.gradient
            total += float(tier.shares @ gradient.added(tier.coordinates, moved))
            first += float(tier.shares @ gradient.expected(tier.coordinates, moved))
            errors.append(tier.shares @ np.square(moved) * tier.nats.second * gradient.errors)
        return total, first, np.concatenate(errors)


def _tiers(survey: Survey, cuts: list[int]) -> Iterator[NDArray[np.int64]]:
    """Places of the judged rows of each tier, the last of which has the rows that are sampled."""
    head = survey.samples[0].frequencies
    order = np.argsort(-head, kind="stable")
    for own in np.split(order, cuts):
        yield np.sort(own)
    others = sum(len(sample.rows) for sample in survey.samples[1:])
    if others:
        yield np.arange(len(head), len(head) + others)
