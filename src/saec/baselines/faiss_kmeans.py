"""k-means of faiss (Johnson, Douze, Jégou, Billion-scale similarity search with GPUs, 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from saec.artifact import entry_bytes
from saec.bits.packing import PackedCodes, bits_for
from saec.codecs.protocol import Coded, Option
from saec.errors import OptionError, require
from saec.format.clustered_field import ClusteredField
from saec.format.codebook import Codebook
from saec.streaming.map_reduce import Advance
from saec.streaming.scratch import Workspace
from saec.tables.field import Field
from saec.tables.loss_metric import Metric

__all__ = ["FaissKMeans", "KmeansChoice"]

_SHARE = 0.01  # clusters per feature
_LEAST = 64  # clusters
_NO_LIMIT = 2**31 - 1


@dataclass(frozen=True)
class KmeansChoice:
    """The number of clusters, and the metric of the error."""

    clusters: int
    metric: Metric


@dataclass(frozen=True)
class FaissKMeans:
    """``faiss.Kmeans`` on all rows, unweighted, with float32 centroids.

    A field gets a cluster for every 100 features, at least 64, as ``Clusters(clusters=0.01)``: one
    size, whatever the budget.

    Args:
        iterations: of k-means, all of which faiss makes.

    Raises:
        OptionError: ``iterations`` is below 1.
        OptionalDependencyError: faiss is not installed.
    """

    renumbers = False
    has_one_size = True
    only_copies = False

    iterations: int = 20

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise OptionError(f"iterations cannot be {self.iterations!r}")
        require("faiss", "bench")  # now, not after an hour of training

    def sampled_bytes(self, field: Field) -> int:
        """faiss holds all rows as float32."""
        return 4 * field.vocab_size * field.dim

    def options(
        self, field: Field, metric: Metric | None, rng: np.random.Generator, space: Workspace
    ) -> Sequence[Option]:
        """The only size on offer, in Euclidean distance whatever the metric."""
        choice = KmeansChoice(_clusters(field), metric or Metric.euclidean(field.dim))
        return [Option(8 * entry_bytes(self.least(field, space).entry), 0.0, choice)]

    def least(self, field: Field, space: Workspace) -> ClusteredField:
        """The only size; see :class:`~saec.codecs.protocol.Codec`."""
        return ClusteredField.planned(field, _clusters(field), "float32", field.dim)

    def encode(
        self,
        field: Field,
        choice: object,
        rng: np.random.Generator,
        advance: Advance,
        space: Workspace,
    ) -> Coded:
        """Learn clusters and code every row; see :class:`~saec.codecs.protocol.Codec`."""
        assert isinstance(choice, KmeansChoice)
        rows = np.ascontiguousarray(field.rows.read(0, field.vocab_size), dtype=np.float32)
        kmeans = require("faiss", "bench").Kmeans(
            field.dim,
            choice.clusters,
            niter=self.iterations,
            seed=int(rng.integers(2**31)),
            # By default it learns from a sample of 256 rows per centroid, and prints if there are
            # fewer than 39.
            max_points_per_centroid=_NO_LIMIT,
            min_points_per_centroid=1,
        )
        kmeans.train(rows)
        _, nearest = kmeans.assign(rows)
        used, codes = np.unique(nearest, return_inverse=True)
        codebook = Codebook.round(kmeans.centroids[used], "float32")
        packed = PackedCodes.pack(codes, bits_for(len(used)))
        stored = ClusteredField(field.name, packed, codebook, field.dtype.name)
        error = (codebook.values[codes] - rows).astype(np.float64) @ choice.metric.root
        squared = np.einsum("nd,nd->n", error, error)
        advance(1.0)
        return Coded(stored, float((field.frequencies * squared).sum()) / (2 * field.census.total))


def _clusters(field: Field) -> int:
    return min(field.vocab_size, max(_LEAST, round(_SHARE * field.vocab_size)))
