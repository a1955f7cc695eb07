"""Rows that stand for all of a field when codebooks are judged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saec.clustering.headtail import ranked
from saec.clustering.points import ArrayPoints
from saec.clustering.rowmap import RowMap
from saec.codecs.clusters.judged_slopes import JudgedSlopes
from saec.codecs.moments_and_samples import Sample, Survey, median_norm, row_map_of, survey_of
from saec.codecs.protocol import LEAST_COST
from saec.format.codebook import Codebook
from saec.streaming.scratch import Workspace
from saec.streaming.strata import Placing
from saec.tables.field import Field

__all__ = ["MOST_JUDGED", "JudgedRows", "field_map", "judged_rows", "surveyed", "usual_norm"]

_JUDGED = 1 << 15  # most frequent rows judged, and as many of the others
MOST_JUDGED = 2 * _JUDGED


@dataclass(frozen=True, eq=False)
class JudgedRows:
    """Rows that stand for all of a field.

    A row at f that counts as lying at c and is decoded to d loses |f - d|^2 = |c - d|^2 +
    |f - c|^2 + 2 (f - c)(c - d). The first term is the distortion of ``points``, the second the
    same for all codebooks; the third is :meth:`far`.

    points: where rows count as lying; near: (k, dim) float32, those of far rows; moved: (k, dim),
    from there to where these are, times their weights. slopes: of the rows, if unseen rows were
    measured; unit: nats of a unit of distortion.
    """

    points: ArrayPoints
    near: NDArray[np.float32]
    moved: NDArray[np.float64]
    slopes: JudgedSlopes | None = None
    unit: float = 1.0

    def by_slopes(
        self, codebook: Codebook, centroids: NDArray[np.float32], distortion: float
    ) -> NDArray[np.float64]:
        """Shares of the ``distortion`` with a codebook, (2 + errors,): what slopes add by which
        codebooks are chosen, what they are expected to add, and the standard errors of this by tier
        and axis.

        centroids: as points.
        """
        lost = distortion * self.unit
        if self.slopes is None:
            return np.zeros(2)
        if not lost:
            return np.zeros(2 + self.slopes.errors)
        nearest = self.points.assign(centroids)
        added, first, errors = self.slopes.added(codebook.values[nearest])
        return np.array([max(added / lost, LEAST_COST - 1), first / lost, *(errors / lost)])

    def far(self, centroids: NDArray[np.float32]) -> float:
        """The third term with ``centroids`` (clusters, dim)."""
        if not len(self.near):
            return 0.0
        nearest = centroids[ArrayPoints(self.near).assign(centroids)]
        return 2 * float((self.moved * (self.near - nearest)).sum())


def surveyed(field: Field, rng: np.random.Generator, space: Workspace) -> Survey:
    """Survey a field: all frequent rows and a sample of the others."""
    return survey_of(field, _strata(field), _cut(field), int(rng.integers(1 << 63)), space)


def field_map(field: Field, survey: Survey, root: NDArray[np.float64] | None) -> RowMap:
    """Takes rows to points, as a survey by :func:`surveyed` shows them."""
    return row_map_of(survey, _strata(field).bounds, root)


def usual_norm(field: Field, survey: Survey) -> float:
    """The median norm of the field's rows, as a survey by :func:`surveyed` shows them."""
    return median_norm(survey, _strata(field).bounds)


def judged_rows(survey: Survey, row_map: RowMap) -> JudgedRows:
    """Rows that stand for all of a field."""
    every = Sample.join(survey.samples)
    rows, frequencies = every.rows, every.frequencies
    weights = np.concatenate([sample.standing_for_all for sample in survey.samples])
    far, _ = row_map.far(rows, frequencies)
    near = row_map(rows[far], frequencies[far])
    moved = (row_map.full(rows[far]) - near) * weights[far, None]
    return JudgedRows(ArrayPoints(row_map(rows, frequencies), weights), near, moved)


def _strata(field: Field) -> Placing:
    return ranked(field, _cut(field))


def _cut(field: Field) -> int:
    return _JUDGED if field.vocab_size > MOST_JUDGED else field.vocab_size
