"""Distortion of a field as a function of its number of clusters, measured at a few numbers.

Allocation needs to know what one more bit would buy in every field before anything is coded. A
short k-means on the head at a few numbers of clusters, judged on rows of the whole vocabulary,
gives points of the curve; between them it is a straight line in logarithms, since distortion falls
as a power of the number of clusters (Zador 1982: D ~ k^(-2/dim), with the rows' effective dim).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saec.clustering.kmeans import Clustering
from saec.clustering.rowmap import RowMap
from saec.codecs.clusters.choice import ClustersChoice
from saec.codecs.clusters.judged_rows import JudgedRows
from saec.codecs.clusters.judged_slopes import JudgedSlopes
from saec.codecs.protocol import Option
from saec.codecs.slope_noise import SlopeNoise
from saec.format.codebook import Codebook, CodebookDtype, codebook_bytes
from saec.streaming.scratch import Workspace

__all__ = [
    "DistortionCurve",
    "Offered",
    "measure_curves",
    "offered",
    "offered_ranks",
    "saving_ranks",
]

_LARGEST = 4096  # clusters that are measured
_FINENESS = 8  # numbers of clusters on offer per doubling


@dataclass(frozen=True, eq=False)
class DistortionCurve:
    """Distortion as a function of the number of clusters.

    rows: of the field; clusters: ascending from 1; distortion: the weighted squared error with as
    many; far: what is lost of far rows besides, see :class:`JudgedRows`; kept: share of the axes
    that the codebook keeps; whole: the curve if it keeps all, None for that curve itself. slopes:
    (2 + errors, numbers), see :meth:`JudgedRows.by_slopes`; None without unseen rows.
    """

    rows: int
    clusters: NDArray[np.int64]
    distortion: NDArray[np.float64]
    far: NDArray[np.float64]
    kept: float = 1.0
    whole: DistortionCurve | None = None
    slopes: NDArray[np.float64] | None = None

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
        return self._between(clusters, self.far)

    def slopes_at(self, clusters: NDArray[np.int64]) -> NDArray[np.float64]:
        """See :meth:`JudgedRows.by_slopes`, (2 + errors, m)."""
        if self.slopes is None:
            return np.zeros((2, len(clusters)))
        return np.stack([self._between(clusters, own) for own in self.slopes])

    def _between(
        self, clusters: NDArray[np.int64], known: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        found: NDArray[np.float64] = np.interp(np.log(clusters), np.log(self.clusters), known)
        return found


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
            None if judged.slopes is None else arrays[f"slopes {rank}"][:, known],
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
    not measured, what is lost of far rows besides, and what slopes add, (2 + errors, numbers)."""
    counts = _measured_sizes(min(most, _LARGEST))
    distortion = {rank: np.full(len(counts), np.inf) for rank in worth(most)}
    far = {rank: np.zeros(len(counts)) for rank in worth(most)}
    errors = 0 if judged.slopes is None else judged.slopes.errors
    slopes = {rank: np.zeros((2 + errors, len(counts))) for rank in worth(most)}
    for place, clusters in enumerate(counts):
        clustering = learn(clusters)
        fewer = len(clustering.centroids) < clusters  # there are no more different rows
        last = fewer or place + 1 == len(counts)
        # The curve up to the next number hangs on this one.
        ranks = worth(most if last else counts[place + 1])
        for rank, codebook in zip(ranks, store(clustering, ranks), strict=True):
            centroids = row_map.full(codebook.values)
            found = float(judged.points.step(centroids).distortion.sum())
            distortion[rank][place] = found
            far[rank][place] = judged.far(centroids)
            slopes[rank][:, place] = judged.by_slopes(codebook, centroids, found)
        if fewer:
            break
    # Noise of short runs must not make more clusters look worse.
    return {
        "clusters": np.array(counts[: place + 1]),
        **{f"{rank}": np.minimum.accumulate(own[: place + 1]) for rank, own in distortion.items()},
        **{f"far {rank}": own[: place + 1] for rank, own in far.items()},
        **{f"slopes {rank}": own[:, : place + 1] for rank, own in slopes.items()},
    }


def _measured_sizes(most: int) -> list[int]:
    """1, 2, 8, 32, ... up to ``most``."""
    sizes = [1, 2]
    while sizes[-1] <= most:
        sizes.append(4 * sizes[-1])
    return [size for size in sizes if size <= most]


@dataclass(frozen=True, eq=False)
class Offered:
    """A codebook on offer: the distortion with it, what far rows lose besides, and the shares of
    the distortion by :meth:`JudgedRows.by_slopes`, ``errors`` (k,)."""

    rank: int
    clusters: int
    near: float
    far: float
    added: float
    first: float
    errors: NDArray[np.float64]

    def chosen(self, whole: ClustersChoice) -> ClustersChoice:
        """The choice of it, from that of as many clusters as rows."""
        return replace(whole, clusters=self.clusters, rank=self.rank)

    def option(
        self, bits: int, choice: ClustersChoice, lost: float, slopes: JudgedSlopes | None
    ) -> Option:
        """The option of a ``choice`` that takes so many bits; ``lost``: distortion of far rows with
        any codebook; ``slopes``: those that were measured."""
        near = self.near * choice.unit
        return Option(
            bits,
            near + lost * choice.unit + near * self.added,
            choice,
            None if slopes is None else SlopeNoise.of(slopes, near * self.errors),
            None if slopes is None else slopes.share,
            self.far * choice.unit,
            near * self.added,
            near * self.first,
        )


def offered(
    curves: Mapping[int, DistortionCurve], worth: Callable[[int], Sequence[int]]
) -> Iterator[Offered]:
    """All codebooks on offer.

    Args:
        curves: by rank.
        worth: see :func:`measure_curves`.
    """
    for rank, curve in curves.items():
        sizes = _offered_sizes(curve.rows)
        near, far, slopes = curve.at(sizes), curve.far_at(sizes), curve.slopes_at(sizes)
        for place, clusters in enumerate(sizes.tolist()):
            if rank in worth(clusters):
                yield Offered(
                    rank,
                    clusters,
                    near=float(near[place]),
                    far=float(far[place]),
                    added=float(slopes[0, place]),
                    first=float(slopes[1, place]),
                    errors=slopes[2:, place],
                )


def saving_ranks(ranks: Sequence[int], clusters: int, dim: int, dtype: CodebookDtype) -> list[int]:
    """Those of ``ranks`` with which a codebook takes fewer bytes than on the table's own axes, and
    ``dim``, which stands for these."""
    own = codebook_bytes(clusters, dim, dtype)
    return [
        rank for rank in ranks if rank == dim or codebook_bytes(clusters, dim, dtype, rank) < own
    ]


def _offered_sizes(most: int) -> NDArray[np.int64]:
    """Numbers of clusters from 1 to ``most``, :data:`_FINENESS` per doubling."""
    steps = np.arange(int(_FINENESS * np.log2(most)) + 1)
    return np.unique(np.append(np.rint(2.0 ** (steps / _FINENESS)), most).astype(np.int64))


def offered_ranks(dim: int) -> list[int]:
    """Numbers of axes on offer: the table's own, and down to an eighth of them."""
    return sorted({dim} | {max(1, dim * sixteenths // 16) for sixteenths in (2, 4, 5, 6, 8, 12)})
