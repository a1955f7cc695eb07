"""The paper's codec: clusters of similar features of a field, a centroid each, a code per feature.

Source: Wu, Xu, Zhang, Chen, Wang, "Saec: Similarity-Aware Embedding Compression in Recommendation
Systems", arXiv 1903.00103 (APSys 2020).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from saec.artifact import entry_bytes
from saec.bits.packing import PackedCodes, bits_for, packed_bytes
from saec.clustering.headtail import HeadPoints, head_size
from saec.clustering.kmeans import Clustering, Seeding, kmeans
from saec.codecs.axes.keyed import keyed_options
from saec.codecs.axes.keyed_choice import KeyedChoice, keyed_least
from saec.codecs.axes.keyed_encode import encode_keyed
from saec.codecs.clusters.choice import ClustersChoice, of_size_one
from saec.codecs.clusters.distortion_curve import (
    measure_curves,
    offered,
    offered_ranks,
    saving_ranks,
)
from saec.codecs.clusters.encode import CODES, EncodeClusters
from saec.codecs.clusters.judged_rows import MOST_JUDGED, field_map, judged_rows, surveyed
from saec.codecs.clusters.judged_slopes import JudgedSlopes
from saec.codecs.clusters.keyed import ClusterCoders
from saec.codecs.moments_and_samples import lost_by_far_rows
from saec.codecs.protocol import Coded, Option, split
from saec.errors import OptionError
from saec.format.clustered_field import ClusteredField
from saec.format.codebook import Codebook, CodebookDtype
from saec.format.compressed_field import CompressedField
from saec.streaming.chunks import check_float16
from saec.streaming.map_reduce import Advance, passes_over, silent
from saec.streaming.scratch import Workspace
from saec.tables.field import Field
from saec.tables.loss_metric import Metric

__all__ = ["Clusters"]

logger = logging.getLogger(__name__)

# Of k-means, for a point of the curve: it needs slopes, not the last per cent.
_CURVE_ITERATIONS = 3
_LEAST_OF_SHARE = 64  # clusters: a few dozen genres or hours are no heavy tail


@dataclass(frozen=True)
class Clusters:
    """Weighted k-means per field, learned from the head and assigned to all.

    Rows are near, and axes principal, in the loss metric if there is one. The rows of a field with
    keys have a codebook of float16 for each class of similar frequencies.

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
        groups: among 8,192 clusters or more a feature looks into at most this many groups of
            neighbouring centroids, those nearest to it; 0 for all.

    Defaults are measured in docs/results.md.

    Raises:
        OptionError: an option lies outside its range.
    """

    renumbers = False
    only_copies = False

    clusters: int | float | None = None
    head_share: float = 0.2
    rows_per_cluster: float = 8.0
    weighting: float = 1.0
    iterations: int = 10
    tolerance: float = 1e-3
    seeding: Seeding = "k-means++"
    codebook: CodebookDtype = "int8"
    radius_share: float = 1.0
    groups: int = 32

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
        _expect("groups", self.groups, self.groups >= 0)

    @property
    def has_one_size(self) -> bool:
        """Whether the number of clusters is fixed."""
        return self.clusters is not None

    def sampled_bytes(self, field: Field) -> int:
        """Rows that are judged, as they are and as points; see ``Codec``."""
        return 2 * 4 * field.dim * min(field.vocab_size, MOST_JUDGED)

    def options(
        self, field: Field, metric: Metric | None, rng: np.random.Generator, space: Workspace
    ) -> Sequence[Option]:
        """Numbers of clusters and axes on offer; see :class:`~saec.codecs.protocol.Codec`."""
        if field.keys is not None:
            fixed = None if self.clusters is None else self._fixed_clusters(field)
            coders = ClusterCoders(fixed, rng, self.iterations, self.tolerance, self.seeding)
            return keyed_options(field, metric, rng, space, coders)
        survey = surveyed(field, rng, space)
        self._check_range(field, survey.largest)
        given = metric
        metric, unit = of_size_one(field, given)
        row_map = field_map(field, survey, None if metric is None else metric.root)
        if self.codebook != "int8":  # which alone has one step for all centroids
            row_map = replace(row_map, reach=None)
        whole = ClustersChoice(
            field.vocab_size, field.dim, metric, unit * 4.0**row_map.exponent, row_map
        )
        if self.clusters is not None:
            choice = replace(whole, clusters=self._fixed_clusters(field))
            return [Option(self._bits(field, choice), 0.0, choice)]
        heads: dict[int, HeadPoints] = {}  # few clusters have the same one

        def learn(clusters: int) -> Clustering:
            choice = replace(whole, clusters=clusters)
            size = self._head_size(field, choice)
            if size not in heads:
                heads.clear()
                heads[size] = self._head(field, choice, space)
            return self._learn(heads[size], choice, _CURVE_ITERATIONS, rng, silent)

        def worth(clusters: int) -> list[int]:
            return saving_ranks(offered_ranks(field.dim), clusters, field.dim, self.codebook)

        slopes = JudgedSlopes.of(field, given, survey, row_map, space)
        judged = replace(judged_rows(survey, row_map), slopes=slopes, unit=whole.unit)
        store = partial(self._store, whole)
        curves = measure_curves(
            field.name, learn, store, worth, whole.clusters, judged, row_map, space
        )
        lost = lost_by_far_rows(survey, row_map)
        return [
            one.option(self._bits(field, choice), choice, lost, slopes)
            for one in offered(curves, worth)
            for choice in [one.chosen(whole)]
        ]

    def least(self, field: Field, space: Workspace) -> CompressedField:
        """The clusters asked for, or one; see :class:`~saec.codecs.protocol.Codec`."""
        if field.keys is not None:
            return keyed_least(field)
        if self.clusters is not None:
            return self._planned(field, self._fixed_clusters(field), field.dim)
        one = (self._planned(field, 1, rank) for rank in offered_ranks(field.dim))
        return min(one, key=lambda planned: entry_bytes(planned.entry))

    def _planned(self, field: Field, clusters: int, rank: int) -> ClusteredField:
        return ClusteredField.planned(field, clusters, self.codebook, rank)

    def encode(
        self,
        field: Field,
        choice: object,
        rng: np.random.Generator,
        advance: Advance,
        space: Workspace,
    ) -> Coded:
        """Learn the clusters of a :class:`ClustersChoice` and code every row with them."""
        if isinstance(choice, KeyedChoice):
            return encode_keyed(field, choice, advance, space)
        assert isinstance(choice, ClustersChoice)
        head = self._head(field, choice, space)
        clustering = self._learn(head, choice, self.iterations, rng, advance)
        self._tell(field, choice, len(clustering.centroids))
        (codebook,) = self._store(choice, clustering, [choice.rank])
        # Rounding may have taken all rows from a cluster.
        codebook = codebook.keep(head.used(choice.row_map.full(codebook.values)))
        bits = bits_for(codebook.clusters)
        lost, tensors = passes_over(field.parts, space).lay(
            EncodeClusters(codebook.values, bits, choice.row_map, self.radius_share, self.groups),
            sum,
            {CODES: packed_bytes(field.vocab_size, bits)},
            advance=lambda share: advance(share / 2),
            space=space,
        )
        arrays, sharded = split(tensors)
        packed = PackedCodes(arrays[CODES], field.vocab_size, bits)
        stored = ClusteredField(field.name, packed, codebook, field.dtype.name)
        # Without a metric, options have another unit than nats.
        nats = choice.unit / (2 * field.census.total) if choice.metric is None else choice.unit
        return Coded(stored, lost * nats, sharded)

    def _tell(self, field: Field, choice: ClustersChoice, found: int) -> None:
        """Log that there are fewer clusters than the user asked for."""
        if self.clusters is not None and found < choice.clusters:
            logger.warning(
                "field %r: %d clusters were asked for, but only %d different rows have weight; "
                "there are %d clusters",
                field.name,
                choice.clusters,
                found,
                found,
            )

    def _fixed_clusters(self, field: Field) -> int:
        clusters = self.clusters
        if isinstance(clusters, float):
            clusters = max(_LEAST_OF_SHARE, round(clusters * field.vocab_size))
        assert clusters is not None
        return min(clusters, field.vocab_size)

    def _check_range(self, field: Field, largest: float) -> None:
        """Whether the codebook's dtype holds values of up to ``largest``."""
        if self.codebook == "float16":
            least = float(np.finfo(np.float16).tiny)  # smaller values lose digits
            check_float16(field.name, largest, least, ": take codebook='float32' or 'int8'")

    def _bits(self, field: Field, choice: ClustersChoice) -> int:
        return 8 * entry_bytes(self._planned(field, choice.clusters, choice.rank).entry)

    def _store(
        self, choice: ClustersChoice, clustering: Clustering, ranks: Sequence[int]
    ) -> list[Codebook]:
        return Codebook.round_at(
            clustering.centroids,
            self.codebook,
            ranks,
            clustering.weights,
            choice.metric,
            choice.row_map.exponent,
        )

    def _learn(
        self,
        head: HeadPoints,
        choice: ClustersChoice,
        iterations: int,
        rng: np.random.Generator,
        advance: Advance,
    ) -> Clustering:
        """Clusters near in the metric of ``choice``, with centroids in the table's own space but
        for the scale of points."""
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

    def _head_size(self, field: Field, choice: ClustersChoice) -> int:
        at_least = int(np.ceil(self.rows_per_cluster * choice.clusters))
        return head_size(field.census, self.head_share, at_least)

    def _head(self, field: Field, choice: ClustersChoice, space: Workspace) -> HeadPoints:
        return HeadPoints(
            field,
            self._head_size(field, choice),
            weighting=self.weighting,
            row_map=choice.row_map,
            radius_share=self.radius_share,
            space=space,
            groups=self.groups,
        )


def _expect(option: str, value: object, holds: bool) -> None:
    if not holds:
        raise OptionError(f"{option} cannot be {value!r}")
