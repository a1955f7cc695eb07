"""Coding of a chunk with the nearest centroids."""

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
    """A task that codes a part with the nearest of the ``values`` (k, dim) of a codebook.

    Gives the part's distortion among points, weighted by frequency; far rows lose their distance.
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
        # No dot product: its last digits depend on the number of threads.
        lost = float((frequencies * squared).sum())
        packed = PackedRows.pack([codes], [self._bits])
        return lost, [run_of_codes(CODES, part.start * self._bits, packed)]
