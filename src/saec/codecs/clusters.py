"""The paper's codec: clusters of similar features of a field, a centroid each, a code per feature.

Source: Wu, Xu, Zhang, Chen, Wang, "Saec: Similarity-Aware Embedding Compression in Recommendation
Systems", arXiv 1903.00103 (APSys 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from saec.allocation import Option
from saec.artifact import entry_bytes
from saec.clustering.headtail import head_rows
from saec.clustering.lloyd import Clustering, kmeans
from saec.clustering.points import ArrayPoints
from saec.clustering.seeding import Seeding
from saec.codebook import Codebook, CodebookDtype
from saec.codecs.codec import Advance
from saec.codecs.curve import measure_curves
from saec.codes import PackedCodes, bits_for
from saec.errors import OptionError
from saec.metric import Metric
from saec.stored.clustered import ClusteredField
from saec.stored.field import CompressedField
from saec.table import Field

__all__ = ["Choice", "Clusters"]

_CURVE_ITERATIONS = (
    3  # of k-means, for a point of the curve: it needs slopes, not the last per cent
)
_LEAST_OF_SHARE = 64  # clusters: a few dozen genres or hours are no heavy tail
_FINENESS = 4  # numbers of clusters on offer per doubling


@dataclass(frozen=True)
class Choice:
    """What allocation chose for a field: its clusters, and the axes kept of their centroids.

    The metric is that in which rows are near, None for Euclidean distance.
    """

    clusters: int
    rank: int
    metric: Metric | None

    @property
    def root(self) -> NDArray[np.float64] | None:
        """(dim, dim), takes rows to where their Euclidean distance is that of the metric."""
        return None if self.metric is None else self.metric.root


@dataclass(frozen=True)
class Clusters:
    """Weighted k-means per field, learned from the head and assigned to all.

    Rows are near, and axes principal, in the loss metric if there is one.

    Args:
        clusters: per field, a number (int), or a share of its features but at least 64 (float below
            1); None lets the budget decide.
        head_share: clusters are learned from the fewest features that cover this share of all
            occurrences; 1 learns from every feature seen in training.
        rows_per_cluster: the head holds at least this many features per cluster.
        weighting: features count as frequency ** weighting while learning; 0 counts them alike.
        iterations: of k-means at most.
        tolerance: stop once an iteration lowers the distortion by less than this share.
        seeding: "k-means++" or "random".
        codebook: dtype of stored centroids, "float32", "float16" or "int8" (a scale per axis). The
            budget also decides how many principal axes of the centroids are kept.
        radius_share: 1 finds the nearest centroid of every feature; less looks into fewer groups of
            centroids and is faster (see :class:`~saec.clustering.points.ArrayPoints`).

    Defaults are measured in docs/results.md.

    Raises:
        OptionError: an option lies outside its range.
    """

    clusters: int | float | None = None
    head_share: float = 0.2
    rows_per_cluster: float = 8.0
    weighting: float = 1.0
    iterations: int = 10
    tolerance: float = 1e-3
    seeding: Seeding = "k-means++"
    codebook: CodebookDtype = "int8"
    radius_share: float = 1.0

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

    def options(
        self, field: Field, metric: Metric | None, rng: np.random.Generator
    ) -> Sequence[Option]:
        """Numbers of clusters and axes on offer; see :class:`~saec.codecs.codec.Codec`."""
        metric, nats = _of_size_one(field, metric)
        if self.clusters is not None:
            choice = Choice(self._fixed_clusters(field), field.dim, metric)
            return [Option(self._bits(field, choice), 0.0, choice)]
        offers = _offers(field.vocab_size)
        whole = Choice(int(offers[-1]), field.dim, metric)

        def learn(clusters: int) -> Clustering:
            choice = replace(whole, clusters=clusters)
            return self._learn(field, choice, _CURVE_ITERATIONS, rng, lambda _: None)

        store = partial(self._store, metric=metric)
        curves = measure_curves(
            field, learn, store, _ranks(field.dim), whole.clusters, rng, whole.root
        )
        return [
            Option(self._bits(field, choice), float(distortion) * nats, choice)
            for rank, curve in curves.items()
            for clusters, distortion in zip(offers, curve.at(offers), strict=True)
            for choice in [Choice(int(clusters), rank, metric)]
        ]

    def plan(self, field: Field, choice: object) -> CompressedField:
        """A field of the size of a :class:`Choice`; see :class:`~saec.codecs.codec.Codec`."""
        assert isinstance(choice, Choice)
        return ClusteredField.planned(field, choice.clusters, self.codebook, choice.rank)

    def encode(
        self, field: Field, choice: object, rng: np.random.Generator, advance: Advance
    ) -> CompressedField:
        """Learn the clusters of a :class:`Choice` and code every row with them."""
        assert isinstance(choice, Choice)
        clustering = self._learn(field, choice, self.iterations, rng, advance)
        (codebook,) = self._store(clustering, [choice.rank], choice.metric)
        points = ArrayPoints(field.weights, transform=choice.root, radius_share=self.radius_share)
        codes = points.assign(points.mapped(codebook.values))  # nearest as stored, not as learned
        used, codes = _drop_unused(codes, codebook.clusters)
        packed = PackedCodes.pack(codes, bits_for(len(used)))
        advance(0.5)
        return ClusteredField(field.name, packed, codebook.keep(used), field.weights.dtype.name)

    def _fixed_clusters(self, field: Field) -> int:
        clusters = self.clusters
        if isinstance(clusters, float):
            clusters = max(_LEAST_OF_SHARE, round(clusters * field.vocab_size))
        assert clusters is not None
        return min(clusters, field.vocab_size)

    def _bits(self, field: Field, choice: Choice) -> int:
        return 8 * entry_bytes(self.plan(field, choice).entry)

    def _store(
        self, clustering: Clustering, ranks: Sequence[int], metric: Metric | None
    ) -> list[Codebook]:
        return Codebook.round_at(
            clustering.centroids, self.codebook, ranks, clustering.weights, metric
        )

    def _learn(
        self,
        field: Field,
        choice: Choice,
        iterations: int,
        rng: np.random.Generator,
        advance: Advance,
    ) -> Clustering:
        """Clusters near in the metric of ``choice``, with centroids in the table's own space."""
        learned = kmeans(
            self._head(field, choice),
            choice.clusters,
            rng=rng,
            iterations=iterations,
            tolerance=self.tolerance,
            seeding=self.seeding,
            advance=lambda: advance(0.5 / iterations),
        )
        if choice.metric is None:
            return learned
        centroids = (learned.centroids @ choice.metric.inverse_root).astype(np.float32)
        return replace(learned, centroids=centroids)

    def _head(self, field: Field, choice: Choice) -> ArrayPoints:
        at_least = int(np.ceil(self.rows_per_cluster * choice.clusters))
        head = head_rows(field.frequencies, self.head_share, at_least)
        # As shares of the largest, or a power of them might leave the range of numbers.
        weights = (field.frequencies / field.frequencies.max()) ** self.weighting
        points = ArrayPoints(
            field.weights, weights, transform=choice.root, radius_share=self.radius_share
        )
        return points if len(head) == field.vocab_size else points.take(head)


def _expect(option: str, value: object, holds: bool) -> None:
    if not holds:
        raise OptionError(f"{option} cannot be {value!r}")


def _of_size_one(field: Field, metric: Metric | None) -> tuple[Metric | None, float]:
    """The metric without its scale, which could take float32 squares out of range, and the nats
    of one unit of the field's distortion in it; no metric, and 1.
    """
    if metric is None:
        return None, 1.0
    scale = float(np.trace(metric.matrix)) / metric.dim
    return Metric(metric.matrix / scale), scale / (2 * float(field.frequencies.sum()))


def _ranks(dim: int) -> list[int]:
    """Numbers of axes on offer: the table's own, and down to an eighth of them."""
    return sorted({dim} | {max(1, dim * sixteenths // 16) for sixteenths in (2, 4, 5, 6, 8, 12)})


def _offers(most: int) -> NDArray[np.int64]:
    """Numbers of clusters from 1 to ``most``, :data:`_FINENESS` per doubling."""
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
