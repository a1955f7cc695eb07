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
from saec.clustering.headtail import HeadPoints, head_size
from saec.clustering.lloyd import Clustering, kmeans
from saec.clustering.points import Search, mapped
from saec.clustering.seeding import Seeding
from saec.codebook import Codebook, CodebookDtype
from saec.codecs.codec import Coded
from saec.codecs.curve import measure_curves
from saec.codes import PackedCodes, bits_for, packed_bytes
from saec.errors import OptionError
from saec.metric import Metric
from saec.parts import Part
from saec.passes import Advance, silent
from saec.pieces import Piece, run_of_codes
from saec.stored.clustered import ClusteredField
from saec.stored.field import CompressedField
from saec.table import Field
from saec.workspace import Workspace

__all__ = ["Choice", "Clusters"]

_CURVE_ITERATIONS = (
    3  # of k-means, for a point of the curve: it needs slopes, not the last per cent
)
_LEAST_OF_SHARE = 64  # clusters: a few dozen genres or hours are no heavy tail
_FINENESS = 4  # numbers of clusters on offer per doubling

_CODES = "codes"  # role of the tensor


@dataclass(frozen=True)
class Choice:
    """What allocation chose for a field: its clusters, and the axes kept of their centroids.

    The metric is that in which rows are near, None for Euclidean distance; a unit of distortion in
    it, weighted by frequency, costs so many nats.
    """

    clusters: int
    rank: int
    metric: Metric | None
    nats: float = 1.0

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
        self, field: Field, metric: Metric | None, rng: np.random.Generator, space: Workspace
    ) -> Sequence[Option]:
        """Numbers of clusters and axes on offer; see :class:`~saec.codecs.codec.Codec`."""
        metric, nats = _of_size_one(field, metric)
        if self.clusters is not None:
            choice = Choice(self._fixed_clusters(field), field.dim, metric, nats)
            return [Option(self._bits(field, choice), 0.0, choice)]
        offers = _offers(field.vocab_size)
        whole = Choice(int(offers[-1]), field.dim, metric, nats)
        heads: dict[int, HeadPoints] = {}  # few clusters have the same one

        def learn(clusters: int) -> Clustering:
            choice = replace(whole, clusters=clusters)
            size = self._head_size(field, choice)
            if size not in heads:
                heads.clear()
                heads[size] = self._head(field, choice, space)
            return self._learn(heads[size], choice, _CURVE_ITERATIONS, rng, silent)

        store = partial(self._store, metric=metric)
        curves = measure_curves(
            field, learn, store, _ranks(field.dim), whole.clusters, rng, whole.root, space
        )
        return [
            Option(self._bits(field, choice), float(distortion) * nats, choice)
            for rank, curve in curves.items()
            for clusters, distortion in zip(offers, curve.at(offers), strict=True)
            for choice in [Choice(int(clusters), rank, metric, nats)]
        ]

    def least(self, field: Field) -> CompressedField:
        """The clusters asked for, or one; see :class:`~saec.codecs.codec.Codec`."""
        if self.clusters is not None:
            clusters, rank = self._fixed_clusters(field), field.dim
        else:
            clusters, rank = 1, _ranks(field.dim)[0]
        return ClusteredField.planned(field, clusters, self.codebook, rank)

    def plan(self, field: Field, choice: object) -> CompressedField:
        """A field of the size of a :class:`Choice`; see :class:`~saec.codecs.codec.Codec`."""
        assert isinstance(choice, Choice)
        return ClusteredField.planned(field, choice.clusters, self.codebook, choice.rank)

    def encode(
        self,
        field: Field,
        choice: object,
        rng: np.random.Generator,
        advance: Advance,
        space: Workspace,
    ) -> Coded:
        """Learn the clusters of a :class:`Choice` and code every row with them."""
        assert isinstance(choice, Choice)
        head = self._head(field, choice, space)
        clustering = self._learn(head, choice, self.iterations, rng, advance)
        (codebook,) = self._store(clustering, [choice.rank], choice.metric)
        # Rounding may have taken all rows from a cluster.
        codebook = codebook.keep(head.used(mapped(codebook.values, choice.root)))
        bits = bits_for(codebook.clusters)
        lost, tensors = field.passes.lay(
            _Coding(codebook.values, bits, choice.root, self.radius_share),
            sum,
            {_CODES: packed_bytes(field.vocab_size, bits)},
            advance=lambda share: advance(share / 2),
            space=space,
        )
        packed = PackedCodes(tensors[_CODES], field.vocab_size, bits)
        stored = ClusteredField(field.name, packed, codebook, field.dtype.name)
        # Without a metric, options have another unit.
        nats = 1 / (2 * field.census.total) if choice.metric is None else choice.nats
        return Coded(stored, lost * nats)

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
        head: HeadPoints,
        choice: Choice,
        iterations: int,
        rng: np.random.Generator,
        advance: Advance,
    ) -> Clustering:
        """Clusters near in the metric of ``choice``, with centroids in the table's own space."""
        learned = kmeans(
            head,
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

    def _head_size(self, field: Field, choice: Choice) -> int:
        at_least = int(np.ceil(self.rows_per_cluster * choice.clusters))
        return head_size(field.census, self.head_share, at_least)

    def _head(self, field: Field, choice: Choice, space: Workspace) -> HeadPoints:
        return HeadPoints(
            field,
            self._head_size(field, choice),
            weighting=self.weighting,
            transform=choice.root,
            radius_share=self.radius_share,
            space=space,
        )


class _Coding:
    """A task that codes a part with the nearest of the ``values`` (k, dim) of a codebook.

    Gives the part's distortion, weighted by frequency, in the metric of ``root``.
    """

    def __init__(
        self,
        values: NDArray[np.float32],
        bits: int,
        root: NDArray[np.float64] | None,
        radius_share: float,
    ) -> None:
        self._bits, self._root = bits, root
        self._search = Search(mapped(values, root), radius_share)

    def __call__(self, part: Part, before: NDArray[np.int64]) -> tuple[float, list[Piece]]:
        points = mapped(part.weights(), self._root)
        codes = self._search.nearest(points)
        error = self._search.centroids[codes] - points
        squared = np.einsum("nd,nd->n", error, error, dtype=np.float64)
        # No dot product: its last digits depend on the number of threads.
        lost = float((part.frequencies() * squared).sum())
        return lost, [run_of_codes(_CODES, part.start * self._bits, [codes], [self._bits])]


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
    return Metric(metric.matrix / scale), scale / (2 * field.census.total)


def _ranks(dim: int) -> list[int]:
    """Numbers of axes on offer: the table's own, and down to an eighth of them."""
    return sorted({dim} | {max(1, dim * sixteenths // 16) for sixteenths in (2, 4, 5, 6, 8, 12)})


def _offers(most: int) -> NDArray[np.int64]:
    """Numbers of clusters from 1 to ``most``, :data:`_FINENESS` per doubling."""
    steps = np.arange(int(_FINENESS * np.log2(most)) + 1)
    return np.unique(np.append(np.rint(2.0 ** (steps / _FINENESS)), most).astype(np.int64))
