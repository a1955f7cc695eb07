"""CCE: hashed rows that are clustered during training, after which each cluster has its own row.

Source: Tsang and Ahle, Clustering the Sketch: Dynamic Compression for Embedding Tables, NeurIPS
2023 (arXiv 2210.05974): clustered compositional embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from saec.baselines.rival import as_half
from saec.bits.packing import PackedCodes, bits_for, packed_bytes
from saec.clustering.kmeans import kmeans
from saec.clustering.points import ArrayPoints
from saec.reference.small.features import FieldFeatures
from saec.reference.small.tables import (
    HALF_BYTES,
    INITIAL_STD,
    FieldModule,
    IndexedRows,
    SeparateTables,
    SmallTables,
    largest,
    normal_rows,
)

__all__ = ["Cce"]

_ITERATIONS = 50  # of k-means, as in the paper's experiments


@dataclass(frozen=True)
class Cce:
    """A vector is cut into columns; a piece is the sum of the row of its cluster and a hashed row.

    See :class:`~saec.reference.small.tables.SmallMethod`. Ids are dense: the cluster of each
    feature and column is stored, with as many bits as distinguish the clusters.

    Args:
        columns: pieces of a vector.
        every: steps of training from one clustering to the next.
        times: clusterings; none follow, so that training ends with what is stored.
    """

    columns: int = 4
    every: int = 300
    times: int = 3

    space: ClassVar[Mapping[str, Sequence[Any]]] = {
        "columns": (1, 2, 4),
        "every": (150, 300, 600),
        "times": (1, 2, 3, 6),
    }
    has_one_size: ClassVar[bool] = False

    def build(self, fields: Sequence[FieldFeatures], dim: int, nbytes: int) -> SmallTables:
        """All fields have as many clusters, or a whole table where that is smaller."""
        columns = _divisor(dim, self.columns)

        def total(clusters: int) -> int:
            return sum(
                min(HALF_BYTES * dim * field.count, _bytes(field.count, dim, columns, clusters))
                for field in fields
            )

        most = max(field.count for field in fields)
        clusters = largest(total, most, nbytes, f"CCE with {columns} columns")
        return SketchTables(
            fields,
            [
                IndexedRows.whole(field, dim)
                if HALF_BYTES * dim * field.count <= _bytes(field.count, dim, columns, clusters)
                else ClusteredSketch(field, dim, columns, clusters, self)
                for field in fields
            ],
        )


class ClusteredSketch(FieldModule):
    """Rows of clusters, and rows found by hashing, for each column of a field.

    Buffers are part of the state, because clustering changes them: ``cluster`` (columns, count) of
    each row, ``hashed`` (columns, count + unseen) of each id.
    """

    rows_of: Tensor
    cluster: Tensor
    hashed: Tensor

    def __init__(
        self, field: FieldFeatures, dim: int, columns: int, clusters: int, method: Cce
    ) -> None:
        super().__init__()
        self._field, self._method = field, method
        self.columns, self.clusters = columns, clusters
        self._steps = self._done = 0
        self.register_buffer("rows_of", field.rows, persistent=False)
        self.register_buffer("cluster", self._hashes(0)[:, : field.count].contiguous())
        self.register_buffer("hashed", self._hashes(1))
        # One table for all columns: column j has the rows from j * clusters on.
        self.of_clusters = normal_rows(columns * clusters, dim // columns, INITIAL_STD)
        self.of_hashes = normal_rows(columns * clusters, dim // columns, INITIAL_STD)

    def forward(self, ids: Tensor) -> Tensor:
        """(B,) -> (B, dim)."""
        if self.training:
            self._steps += 1
            if self._steps % self._method.every == 0 and self._done < self._method.times:
                self._recluster()
        starts = (torch.arange(self.columns) * self.clusters).unsqueeze(1)
        clusters = self.of_clusters(self.cluster[:, self.rows_of[ids]] + starts)
        hashed = self.of_hashes(self.hashed[:, ids] + starts)
        pieces: Tensor = clusters + hashed
        return pieces.transpose(0, 1).flatten(1)

    @torch.no_grad()
    def _recluster(self) -> None:
        """Clusters of the vectors as they are; hashed rows start anew, from 0, under new hashes."""
        self._done += 1
        rng = np.random.default_rng([self._field.number, self._done])
        for column in range(self.columns):
            own = slice(column * self.clusters, (column + 1) * self.clusters)
            weight = self.of_clusters.weight[own]
            pieces = weight[self.cluster[column]]
            pieces += self.of_hashes.weight[own][self.hashed[column, : self._field.count]]
            points = ArrayPoints(pieces.numpy(), threads=1)
            found = kmeans(points, self.clusters, rng=rng, iterations=_ITERATIONS)
            self.cluster[column] = torch.from_numpy(points.assign(found.centroids)).long()
            weight[: len(found.centroids)] = torch.from_numpy(found.centroids)
        self.of_hashes.weight.zero_()
        self.hashed.copy_(self._hashes(1 + self._done))

    def _hashes(self, draw: int) -> Tensor:
        """(columns, count + unseen), other ones for each draw."""
        seeds = range(draw * self.columns, (draw + 1) * self.columns)
        return torch.stack([self._field.buckets(self.clusters, seed) for seed in seeds])


class SketchTables(SeparateTables):
    """Stored are float16 rows and packed clusters; the hashes follow from the keys."""

    @torch.no_grad()
    def stored(self) -> dict[str, NDArray[Any]]:
        """Rows of each table, and ``cluster`` of each column, packed."""
        tensors: dict[str, NDArray[Any]] = {}
        for name, value in self.state_dict().items():
            if value.is_floating_point():
                tensors[name] = as_half(value.numpy(), name)
            elif name.endswith(".cluster"):
                clusters = self._sketch(name).clusters
                for column, codes in enumerate(value.numpy().astype(np.uint32)):
                    packed = PackedCodes.pack(codes, bits_for(clusters))
                    tensors[f"{name}.{column}"] = packed.data
        return tensors

    @torch.no_grad()
    def restore(self, stored: Mapping[str, NDArray[Any]]) -> None:
        """Rows and clusters; the hashes must be those that the tables were stored with."""
        own = self.state_dict()
        for name, value in stored.items():
            if name in own:
                own[name].copy_(torch.from_numpy(value.astype(np.float32)))
            else:
                cluster, _, column = name.rpartition(".")
                bits = bits_for(self._sketch(cluster).clusters)
                codes = PackedCodes(value, own[cluster].shape[1], bits).unpack()
                own[cluster][int(column)] = torch.from_numpy(codes.astype(np.int64))

    def _sketch(self, name: str) -> ClusteredSketch:
        part: nn.Module = self.get_submodule(name.rpartition(".")[0])
        assert isinstance(part, ClusteredSketch)
        return part


def _bytes(count: int, dim: int, columns: int, clusters: int) -> int:
    """Of a field with clusters: two tables of rows, and the index."""
    rows = 2 * clusters * dim * HALF_BYTES
    return rows + columns * packed_bytes(count, bits_for(clusters))


def _divisor(dim: int, columns: int) -> int:
    """The largest number of equal columns, up to ``columns``."""
    return next(count for count in range(min(columns, dim), 0, -1) if dim % count == 0)
