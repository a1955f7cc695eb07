"""Distortion of a field as a function of its number of clusters, measured at a few numbers.

Allocation needs to know what one more bit would buy in every field before anything is coded. A
short k-means on the head at a few numbers of clusters, judged on rows of the whole vocabulary,
gives points of the curve; between them it is a straight line in logarithms, since distortion falls
as a power of the number of clusters (Zador 1982: D ~ k^(-2/dim), with the rows' effective dim).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saec.clustering.headtail import ranked
from saec.clustering.kmeans import Clustering
from saec.clustering.points import ArrayPoints
from saec.clustering.rowmap import RowMap
from saec.codecs.moments_and_samples import Survey, median_norm, row_map_of, survey_of
from saec.format.codebook import Codebook, CodebookDtype, codebook_bytes
from saec.streaming.scratch import Workspace
from saec.streaming.strata import Placing
from saec.tables.field import Field

__all__ = [
    "MOST_JUDGED",
    "DistortionCurve",
    "JudgedRows",
    "field_map",
    "judged_rows",
    "measure_curves",
    "offered",
    "offered_ranks",
    "saving_ranks",
    "surveyed",
    "usual_norm",
]

_LARGEST = 4096  # clusters that are measured
_JUDGED = 1 << 15  # most frequent rows judged, and as many of the others
MOST_JUDGED = 2 * _JUDGED
_FINENESS = 8  # numbers of clusters on offer per doubling


@dataclass(frozen=True, eq=False)
class DistortionCurve:
    """Distortion as a function of the number of clusters.

    rows: of the field; clusters: ascending from 1; distortion: the weighted squared error with as
    many; far: what is lost of far rows besides, see :class:`JudgedRows`; kept: share of the axes
    that the codebook keeps; whole: the curve if it keeps all, None for that curve itself.
    """

    rows: int
    clusters: NDArray[np.int64]
    distortion: NDArray[np.float64]
    far: NDArray[np.float64]
    kept: float = 1.0
    whole: DistortionCurve | None = None

    def at(self, clusters: NDArray[np.int64]) -> NDArray[np.float64]:
        """Expected distortion with ``clusters`` (m,) clusters, without what far rows lose besides.

        Beyond the last known number the last slope goes on, times the share of rows that have no
        cluster of their own: with as many clusters as rows next to nothing is lost. Of that gain a
        codebook on some of the axes has its share only.
        """
        known = np.log(self.clusters.astype(np.float64))
        # Where the distortion is nothing at all, its logarithm must still be a number.
        height = np.log(np.maximum(self.distortion, np.finfo(np.float64).tiny))
        wanted = np.log(clusters.astype(np.float64))
        inside = np.exp(np.interp(wanted, known, height))
        last = min(int(self.clusters[-1]), self.rows)
        if self.whole is not None:
            gained = self.whole.at(np.array([last])) - self.whole.at(clusters)
            return np.maximum(inside - self.kept * np.maximum(gained, 0.0), 0.0)
        shared = (self.rows + 1 - np.clip(clusters, last, self.rows)) / (self.rows + 1 - last)
        if len(known) > 1:
            slope = min(0.0, (height[-1] - height[-2]) / (known[-1] - known[-2]))
            shared = shared * np.exp(slope * np.maximum(0.0, wanted - known[-1]))
        result: NDArray[np.float64] = inside * shared
        return result

    def far_at(self, clusters: NDArray[np.int64]) -> NDArray[np.float64]:
        """What is lost of far rows besides, with ``clusters`` (m,) clusters."""
        lost: NDArray[np.float64] = np.interp(np.log(clusters), np.log(self.clusters), self.far)
        return lost


@dataclass(frozen=True, eq=False)
class JudgedRows:
    """Rows that stand for all of a field.

    A row at f that counts as lying at c and is decoded to d loses |f - d|^2 = |c - d|^2 +
    |f - c|^2 + 2 (f - c)(c - d). The first term is the distortion of ``points``, the second the
    same for all codebooks; the third is :meth:`far`.

    points: where rows count as lying; near: (k, dim) float32, those of far rows; moved: (k, dim),
    from there to where these are, times their weights.
    """

    points: ArrayPoints
    near: NDArray[np.float32]
    moved: NDArray[np.float64]

    def far(self, centroids: NDArray[np.float32]) -> float:
        """The third term with ``centroids`` (clusters, dim)."""
        if not len(self.near):
            return 0.0
        nearest = centroids[ArrayPoints(self.near).assign(centroids)]
        return 2 * float((self.moved * (self.near - nearest)).sum())


def measure_curves(
    name: str,
    learn: Callable[[int], Clustering],
    store: Callable[[Clustering, Sequence[int]], Sequence[Codebook]],
    worth: Callable[[int], Sequence[int]],
    most: int,
    judged: JudgedRows,
    row_map: RowMap,
    space: Workspace,
) -> dict[int, DistortionCurve]:
    """Measure a curve of a field up to ``most`` clusters for each rank of the codebook that saves
    bytes at some number of clusters, from the numbers on that it is needed for.

    Args:
        name: the field's.
        learn: clusters -> clustering.
        store: (clustering, ranks) -> codebooks as they would be stored; these are judged.
        worth: clusters -> numbers of axes kept that are worth while there; with more clusters these
            are worth while, too.
        most: clusters at most.
        judged: rows that stand for all, see :func:`judged_rows`.
        row_map: takes centroids to where these are.
        space: remembers what was measured.
    """
    arrays = space.recalled("curves", name)
    if arrays is None:
        found = _measured(judged, row_map, learn, store, worth, most)
        arrays = space.remembered("curves", name, found)
    whole: DistortionCurve | None = None
    curves = {}
    for rank in sorted(worth(most), reverse=True):
        known = np.isfinite(arrays[f"{rank}"])
        curves[rank] = DistortionCurve(
            most,
            arrays["clusters"][known],
            arrays[f"{rank}"][known],
            arrays[f"far {rank}"][known],
            rank / judged.points.dim,
            whole,
        )
        whole = whole or curves[rank]
    return {rank: curves[rank] for rank in worth(most)}


def _measured(
    judged: JudgedRows,
    row_map: RowMap,
    learn: Callable[[int], Clustering],
    store: Callable[[Clustering, Sequence[int]], Sequence[Codebook]],
    worth: Callable[[int], Sequence[int]],
    most: int,
) -> dict[str, NDArray[Any]]:
    """Numbers of clusters, and under each rank the distortion with as many, infinite where it was
    not measured, and what is lost of far rows besides."""
    counts = _measured_sizes(min(most, _LARGEST))
    distortion = {rank: np.full(len(counts), np.inf) for rank in worth(most)}
    far = {rank: np.zeros(len(counts)) for rank in worth(most)}
    for place, clusters in enumerate(counts):
        clustering = learn(clusters)
        fewer = len(clustering.centroids) < clusters  # there are no more different rows
        last = fewer or place + 1 == len(counts)
        # The curve up to the next number hangs on this one.
        ranks = worth(most if last else counts[place + 1])
        for rank, codebook in zip(ranks, store(clustering, ranks), strict=True):
            centroids = row_map.full(codebook.values)
            distortion[rank][place] = float(judged.points.step(centroids).distortion.sum())
            far[rank][place] = judged.far(centroids)
        if fewer:
            break
    # Noise of short runs must not make more clusters look worse.
    return {
        "clusters": np.array(counts[: place + 1]),
        **{f"{rank}": np.minimum.accumulate(own[: place + 1]) for rank, own in distortion.items()},
        **{f"far {rank}": own[: place + 1] for rank, own in far.items()},
    }


def _measured_sizes(most: int) -> list[int]:
    """1, 2, 8, 32, ... up to ``most``."""
    sizes = [1, 2]
    while sizes[-1] <= most:
        sizes.append(4 * sizes[-1])
    return [size for size in sizes if size <= most]


def offered(
    curves: Mapping[int, DistortionCurve], worth: Callable[[int], Sequence[int]]
) -> Iterator[tuple[int, int, float, float]]:
    """Rank, clusters, distortion, and what far rows lose besides, of all that is on offer.

    Args:
        curves: by rank.
        worth: see :func:`measure_curves`.
    """
    for rank, curve in curves.items():
        sizes = _offered_sizes(curve.rows)
        for clusters, *lost in zip(sizes, curve.at(sizes), curve.far_at(sizes), strict=True):
            if rank in worth(int(clusters)):
                yield rank, int(clusters), float(lost[0]), float(lost[1])


def saving_ranks(ranks: Sequence[int], clusters: int, dim: int, dtype: CodebookDtype) -> list[int]:
    """Those of ``ranks`` with which a codebook takes fewer bytes than on the table's own axes, and
    ``dim``, which stands for these."""
    own = codebook_bytes(clusters, dim, dtype)
    return [
        rank for rank in ranks if rank == dim or codebook_bytes(clusters, dim, dtype, rank) < own
    ]


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
    samples = survey.samples
    rows = np.concatenate([sample.rows for sample in samples])
    weights = np.concatenate([sample.standing_for_all for sample in samples])
    frequencies = np.concatenate([sample.frequencies for sample in samples])
    far, _ = row_map.far(rows, frequencies)
    near = row_map(rows[far], frequencies[far])
    moved = (row_map.full(rows[far]) - near) * weights[far, None]
    return JudgedRows(ArrayPoints(row_map(rows, frequencies), weights), near, moved)


def _strata(field: Field) -> Placing:
    return ranked(field, _cut(field))


def _cut(field: Field) -> int:
    return _JUDGED if field.vocab_size > MOST_JUDGED else field.vocab_size


def _offered_sizes(most: int) -> NDArray[np.int64]:
    """Numbers of clusters from 1 to ``most``, :data:`_FINENESS` per doubling."""
    steps = np.arange(int(_FINENESS * np.log2(most)) + 1)
    return np.unique(np.append(np.rint(2.0 ** (steps / _FINENESS)), most).astype(np.int64))


def offered_ranks(dim: int) -> list[int]:
    """Numbers of axes on offer: the table's own, and down to an eighth of them."""
    return sorted({dim} | {max(1, dim * sixteenths // 16) for sixteenths in (2, 4, 5, 6, 8, 12)})
