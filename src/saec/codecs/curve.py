"""Distortion of a field as a function of its number of clusters, measured at a few numbers.

Allocation needs to know what one more bit would buy in every field before anything is coded. A
short k-means on the head at a few numbers of clusters, judged on rows of the whole vocabulary,
gives points of the curve; between them it is a straight line in logarithms, since distortion falls
as a power of the number of clusters (Zador 1982: D ~ k^(-2/dim), with the rows' effective dim).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saec.clustering.headtail import ranked
from saec.clustering.lloyd import Clustering
from saec.clustering.points import ArrayPoints
from saec.codebook import Codebook
from saec.codecs.survey import survey_of
from saec.table import Field
from saec.workspace import Workspace

__all__ = ["DistortionCurve", "measure_curves"]

_LARGEST = 4096  # clusters; beyond, the last slope goes on
_JUDGED = 1 << 15  # most frequent rows judged, and as many of the others


@dataclass(frozen=True, eq=False)
class DistortionCurve:
    """``clusters`` ascending from 1, ``distortion`` the weighted squared error with as many."""

    clusters: NDArray[np.int64]
    distortion: NDArray[np.float64]

    def at(self, clusters: NDArray[np.int64]) -> NDArray[np.float64]:
        """Expected distortion with ``clusters`` (m,) clusters."""
        known = np.log(self.clusters.astype(np.float64))
        # Where the distortion is nothing at all, its logarithm must still be a number.
        least = np.finfo(np.float64).tiny
        height = np.log(np.maximum(self.distortion, least))
        wanted = np.log(clusters.astype(np.float64))
        inside = np.interp(wanted, known, height)
        if len(known) > 1:
            slope = min(0.0, (height[-1] - height[-2]) / (known[-1] - known[-2]))
            inside = inside + slope * np.maximum(0.0, wanted - known[-1])
        return np.exp(inside)


def measure_curves(
    field: Field,
    learn: Callable[[int], Clustering],
    store: Callable[[Clustering, Sequence[int]], Sequence[Codebook]],
    ranks: Sequence[int],
    most: int,
    rng: np.random.Generator,
    root: NDArray[np.float64] | None,
    space: Workspace,
) -> dict[int, DistortionCurve]:
    """Measure a curve of ``field`` up to ``most`` clusters for each rank of the codebook.

    Args:
        field: the table.
        learn: clusters -> clustering.
        store: (clustering, ranks) -> codebooks as they would be stored; these are judged.
        ranks: numbers of axes kept.
        most: clusters at most.
        rng: draws the rows judged.
        root: (dim, dim) of the metric in which they are judged; None for Euclidean distance.
        space: remembers what was measured.
    """

    def measured() -> dict[str, NDArray[Any]]:
        points = ArrayPoints(*_judged_rows(field, rng, space), transform=root)
        return _measured(points, learn, store, ranks, most)

    arrays = space.recalled("curves", field.name, measured)
    return {rank: DistortionCurve(arrays["clusters"], arrays[f"{rank}"]) for rank in ranks}


def _measured(
    points: ArrayPoints,
    learn: Callable[[int], Clustering],
    store: Callable[[Clustering, Sequence[int]], Sequence[Codebook]],
    ranks: Sequence[int],
    most: int,
) -> dict[str, NDArray[Any]]:
    """Numbers of clusters, and under each rank the distortion with as many."""
    counts: list[int] = []
    distortion: dict[int, list[float]] = {rank: [] for rank in ranks}
    clusters = 1
    while clusters <= min(most, _LARGEST):
        clustering = learn(clusters)
        counts.append(clusters)
        for rank, codebook in zip(ranks, store(clustering, ranks), strict=True):
            step = points.step(points.mapped(codebook.values))
            distortion[rank].append(float(step.distortion.sum()))
        if len(clustering.centroids) < clusters:
            break  # no more different rows
        clusters *= 4 if clusters > 1 else 2
    # Noise of short runs must not make more clusters look worse.
    return {
        "clusters": np.array(counts),
        **{f"{rank}": np.minimum.accumulate(distortion[rank]) for rank in ranks},
    }


def _judged_rows(
    field: Field, rng: np.random.Generator, space: Workspace
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """All frequent rows and a sample of the others, which stands for all of them."""
    cut = _JUDGED if field.vocab_size > 2 * _JUDGED else field.vocab_size
    survey = survey_of(field, ranked(field, cut), cut, int(rng.integers(1 << 63)), space)
    rows = np.concatenate([sample.rows for sample in survey.samples])
    weights = np.concatenate([sample.standing_for_all for sample in survey.samples])
    return np.ascontiguousarray(rows, dtype=np.float32), weights
