"""Clusters for fields with keys: each class of rows of similar frequency has its own codebook.

The symbol of a row is the number of its cluster. The more rows a cluster has, the shorter is its
codeword. The rows that are stored and the lengths of codewords are chosen as for axes
(:mod:`saec.codecs.axes.keyed`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from saec.clustering.kmeans import Seeding, kmeans
from saec.clustering.points import ArrayPoints
from saec.codecs.axes.candidates import TierRows
from saec.codecs.axes.code_lengths import code_lengths
from saec.codecs.axes.keyed_class import ClassCoder
from saec.codecs.axes.symbols import SymbolCoder, table_coder

__all__ = ["ClusterCoders"]

Floats = NDArray[np.float64]

_MOST_CLUSTERS = 4096  # of a class
_NUMBERS = tuple(1 << bits for bits in range(1, 13))


@dataclass(eq=False)
class ClusterCoders:
    """Finds the clusters of a class for a given price of a bit.

    Args:
        clusters: number of clusters of each class; None chooses among powers of two.
        rng, iterations, tolerance, seeding: settings of k-means.
    """

    clusters: int | None
    rng: np.random.Generator
    iterations: int
    tolerance: float
    seeding: Seeding
    _known: dict[TierRows, list[NDArray[np.float32]]] = field(default_factory=dict)

    def __call__(
        self, rows: TierRows, nats: Floats, most_axes: int, price: float
    ) -> ClassCoder | None:
        """The clusters with the least nats + price x bits.

        Args:
            rows: the rows of the class.
            nats: (rank,) nats per squared error of each coordinate.
            most_axes: the number of leading axes that clusters may use.
            price: nats per bit.

        Returns:
            The coder, or None if coding no row at all costs less.
        """
        weight = float(rows.shares.sum()) / rows.count
        if weight == 0.0 or most_axes == 0:
            return None
        left = np.square(rows.coordinates, dtype=np.float64) @ nats
        best, least = None, float(rows.shares @ left)
        for centroids in self._centroids(rows, nats):
            table, cost = _priced(centroids[:, :most_axes], rows, nats, weight, price)
            if cost < least:
                best, least = table, cost
        return None if best is None else ClassCoder((best,), weight)

    def _centroids(self, rows: TierRows, nats: Floats) -> list[NDArray[np.float32]]:
        """The centroids (clusters, rank) for each number of clusters.

        They are learned once, in coordinates scaled so that squared distances are nats.
        """
        found = self._known.get(rows)
        if found is None:
            scale = np.sqrt(nats)
            points = ArrayPoints((rows.coordinates * scale).astype(np.float32), rows.shares)
            most = max(1, min(len(rows.shares), _MOST_CLUSTERS))
            wanted = _NUMBERS if self.clusters is None else (self.clusters,)
            learned = [
                self._learn(points, number) for number in sorted({min(own, most) for own in wanted})
            ]
            divided = np.where(scale > 0, scale, 1)
            found = [(own / divided).astype(np.float32) for own in learned]
            self._known[rows] = found
        return found

    def _learn(self, points: ArrayPoints, clusters: int) -> NDArray[np.float32]:
        return kmeans(
            points,
            clusters,
            rng=self.rng,
            iterations=self.iterations,
            tolerance=self.tolerance,
            seeding=self.seeding,
        ).centroids


def _priced(
    centroids: NDArray[np.float32], rows: TierRows, nats: Floats, weight: float, price: float
) -> tuple[SymbolCoder, float]:
    """A coder of ``centroids`` with codeword lengths that suit the rows, and its nats + price x
    bits."""
    axes = centroids.shape[1]
    each = rows.count / len(rows.shares)
    own = rows.coordinates[:, :axes]
    lengths = np.zeros(len(centroids), dtype=np.int64)
    for _ in range(2):  # lengths decide the symbols of rows, and these decide the lengths
        table = table_coder(centroids.astype(np.float64), lengths)
        symbols = table.assign(own, nats[:axes], weight, price)
        counts = each * np.bincount(symbols, minlength=len(lengths)).astype(np.float64)
        used = counts > 0
        lengths = lengths.copy()
        lengths[used] = code_lengths(counts[used], np.zeros(int(used.sum())), price)
        lengths[~used] = lengths.max()
    kept = np.cumsum(used) - 1
    table = table_coder(centroids[used].astype(np.float64), lengths[used])
    error = np.square(own - table.coordinates[kept[symbols]], dtype=np.float64) @ nats[:axes]
    rest = np.square(rows.coordinates[:, axes:], dtype=np.float64) @ nats[axes:]
    bits = table.bits + each * float(table.lengths[kept[symbols]].sum())
    return table, float(rows.shares @ (error + rest)) + price * bits
