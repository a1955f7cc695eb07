"""The paper's codec: clusters of similar features within a field, a centroid each, a code per feature.

Source: Wu, Xu, Zhang, Chen, Wang, "Saec: Similarity-Aware Embedding Compression in Recommendation
Systems", arXiv 1903.00103 (APSys 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saec.allocation import Option
from saec.clustering.headtail import head_rows
from saec.clustering.lloyd import kmeans
from saec.clustering.points import ArrayPoints
from saec.clustering.seeding import Seeding
from saec.codebook import Codebook, CodebookDtype, codebook_bytes
from saec.codecs.codec import Advance
from saec.codecs.curve import measure_curve
from saec.codes import PackedCodes, bits_for, packed_bytes
from saec.compressed import ClusteredField, CompressedField
from saec.errors import OptionError
from saec.table import Field

__all__ = ["Clusters"]

_CURVE_ITERATIONS = 3  # of k-means, for a point of the curve: it needs slopes, not the last per cent
_FINENESS = 4  # numbers of clusters on offer per doubling


@dataclass(frozen=True)
class Clusters:
    """Weighted k-means per field, learned from the head and assigned to all.

    Args:
        clusters: per field, a number (int) or a share of its features (float below 1); None lets the
            budget decide.
        head_share: clusters are learned from the fewest features that cover this share of all
            occurrences; 1 learns from every feature seen in training.
        rows_per_cluster: the head holds at least this many features per cluster.
        weighting: features count as frequency ** weighting while learning; 0 counts them alike.
        iterations: of k-means at most.
        tolerance: stop once an iteration lowers the distortion by less than this share.
        seeding: "k-means++" or "random".
        codebook: dtype of stored centroids, "float32", "float16" or "int8" (a scale per axis).
        radius_share: 1 finds the nearest centroid of every feature; less looks into fewer groups of
            centroids and is faster (see :class:`~saec.clustering.points.ArrayPoints`).

    Defaults are measured in docs/results.md.

    Raises:
        OptionError: an option lies outside its range.
    """

    clusters: int | float | None = None
    head_share: float = 0.5
    rows_per_cluster: float = 8.0
    weighting: float = 0.5
    iterations: int = 10
    tolerance: float = 1e-3
    seeding: Seeding = "k-means++"
    codebook: CodebookDtype = "int8"
    radius_share: float = 0.5

    def __post_init__(self) -> None:
        if self.clusters is not None:
            share = isinstance(self.clusters, float)
            _expect("clusters", self.clusters, 0 < self.clusters < (1 if share else 2**31))
        _expect("head_share", self.head_share, 0 <= self.head_share <= 1)
        _expect("rows_per_cluster", self.rows_per_cluster, self.rows_per_cluster >= 1)
        _expect("weighting", self.weighting, 0 <= self.weighting <= 2)
        _expect("iterations", self.iterations, self.iterations >= 1)
        _expect("tolerance", self.tolerance, self.tolerance >= 0)
        _expect("seeding", self.seeding, self.seeding in ("k-means++", "random"))
        _expect("codebook", self.codebook, self.codebook in ("float32", "float16", "int8"))
        _expect("radius_share", self.radius_share, 0 <= self.radius_share <= 1)

    def options(self, field: Field, rng: np.random.Generator) -> Sequence[Option]:
        """Numbers of clusters on offer for ``field``; see :class:`~saec.codecs.codec.Codec`."""
        if self.clusters is not None:
            clusters = self._fixed_clusters(field)
            return [Option(self._bits(field, clusters), 0.0, clusters)]
        # More clusters than this and the table itself is smaller.
        most = max(1, field.nbytes // codebook_bytes(1, field.dim, self.codebook))
        offers = _offers(min(most, field.vocab_size))

        def learn(clusters: int) -> NDArray[np.float32]:
            return self._learn(field, clusters, _CURVE_ITERATIONS, rng, lambda _: None)

        curve = measure_curve(field, learn, int(offers[-1]), rng)
        return [
            Option(self._bits(field, int(clusters)), float(distortion), int(clusters))
            for clusters, distortion in zip(offers, curve.at(offers), strict=True)
        ]

    def encode(
        self, field: Field, choice: object, rng: np.random.Generator, advance: Advance
    ) -> CompressedField:
        """Learn ``choice`` clusters and code every row; see :class:`~saec.codecs.codec.Codec`."""
        assert isinstance(choice, int)
        centroids = self._learn(field, choice, self.iterations, rng, advance)
        codebook = Codebook.round(centroids, self.codebook)
        points = ArrayPoints(field.weights, radius_share=self.radius_share)
        codes = points.assign(codebook.values)  # nearest as stored, not as learned
        used, codes = _drop_unused(codes, codebook.clusters)
        packed = PackedCodes.pack(codes, bits_for(len(used)))
        advance(0.5)
        return ClusteredField(field.name, packed, codebook.keep(used), field.weights.dtype.name)

    def _fixed_clusters(self, field: Field) -> int:
        if isinstance(self.clusters, float):
            return max(1, round(self.clusters * field.vocab_size))
        assert self.clusters is not None
        return min(self.clusters, field.vocab_size)

    def _bits(self, field: Field, clusters: int) -> int:
        codes = packed_bytes(field.vocab_size, bits_for(clusters))
        return 8 * (codes + codebook_bytes(clusters, field.dim, self.codebook))

    def _learn(
        self,
        field: Field,
        clusters: int,
        iterations: int,
        rng: np.random.Generator,
        advance: Advance,
    ) -> NDArray[np.float32]:
        points = self._head(field, clusters)
        return kmeans(
            points,
            clusters,
            rng=rng,
            iterations=iterations,
            tolerance=self.tolerance,
            seeding=self.seeding,
            advance=lambda: advance(0.5 / iterations),
        ).centroids

    def _head(self, field: Field, clusters: int) -> ArrayPoints:
        at_least = int(np.ceil(self.rows_per_cluster * clusters))
        head = head_rows(field.frequencies, self.head_share, at_least)
        weights = field.frequencies**self.weighting
        points = ArrayPoints(field.weights, weights, radius_share=self.radius_share)
        return points if len(head) == field.vocab_size else points.take(head)


def _expect(option: str, value: object, holds: bool) -> None:
    if not holds:
        raise OptionError(f"{option} cannot be {value!r}")


def _offers(most: int) -> NDArray[np.int64]:
    """Numbers of clusters 1 .. most, about :data:`_FINENESS` per doubling, and each power of two."""
    steps = np.arange(int(_FINENESS * np.log2(most)) + 1)
    return np.unique(np.append(np.rint(2.0 ** (steps / _FINENESS)), most).astype(np.int64))


def _drop_unused(
    codes: NDArray[np.int32], clusters: int
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Numbers of the clusters in use, and the codes among those."""
    used = np.flatnonzero(np.bincount(codes, minlength=clusters))
    place = np.zeros(clusters, dtype=np.int32)
    place[used] = np.arange(len(used))
    return used, place[codes]
