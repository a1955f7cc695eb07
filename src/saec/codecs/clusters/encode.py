"""Codes the rows of a chunk by their nearest centroids."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from saec.bits.packing import PackedRows
from saec.clustering.points import Search
from saec.clustering.rowmap import RowMap
from saec.streaming.bit_writes import Piece, run_of_codes
from saec.streaming.chunks import Chunk

__all__ = ["CODES", "EncodeClusters"]


CODES = "codes"  # role of the tensor


class EncodeClusters:
    """A task that codes each row of a part by the nearest of the ``values`` (k, dim) of a codebook.

    Returns the part's squared error in the space of points, weighted by frequency. Far rows are
    clipped before the search for the nearest centroid, but their error counts from where they are.
    """

    def __init__(
        self,
        values: NDArray[np.float32],
        bits: int,
        row_map: RowMap,
        radius_share: float,
        groups: int = 0,
    ) -> None:
        self._bits, self._row_map = bits, row_map
        self._search = Search(row_map.full(values), radius_share, groups=groups)

    def __call__(self, part: Chunk, before: NDArray[np.int64]) -> tuple[float, list[Piece]]:
        frequencies = part.frequencies()
        rows = part.weights()
        codes = self._search.nearest(self._row_map(rows, frequencies))
        error = self._search.centroids[codes] - self._row_map.full(rows)
        squared = np.einsum("nd,nd->n", error, error, dtype=np.float64)
        # No dot product: the last digits of one depend on the number of threads.
        lost = float((frequencies * squared).sum())
        packed = PackedRows.pack([codes], [self._bits])
        return lost, [run_of_codes(CODES, part.start * self._bits, packed)]
