"""A table as clusters: a code per feature, a centroid per cluster."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

import saec.artifact as artifact
from saec.bits.packing import PackedCodes, bits_for, packed_bytes
from saec.errors import ArtifactError
from saec.format.codebook import Codebook, CodebookDtype
from saec.format.compressed_field import CompressedField
from saec.format.native_lookup import LookupTable, RowRun, run_table
from saec.tables.field import Field
from saec.util.absent_arrays import absent

__all__ = ["ClusteredField"]

# A codebook that takes less than this as float32 stays in a processor's cache and is decoded once.
# Of a larger int8 codebook, four times as many rows stay in the cache if it is not decoded.
_NEAR_BYTES = 512 << 10

_CHECKED_ROWS = 1 << 16  # codes that are checked at a time


class ClusteredField(CompressedField):
    """A code per feature and a centroid per cluster: e_i = codebook[code_i]."""

    codec = "clusters"
    kind = 1

    def __init__(self, name: str, codes: PackedCodes, codebook: Codebook, dtype: str) -> None:
        super().__init__(name, codes.count, codebook.dim, dtype)
        self.codes = codes
        self.codebook = codebook

    @property
    def tensors(self) -> dict[str, NDArray[Any]]:
        """``codes``, ``codebook``, and ``grid`` for an int8 codebook, ``axes`` for few axes."""
        tensors: dict[str, NDArray[Any]] = {
            "codes": self.codes.data,
            "codebook": self.codebook.stored,
        }
        if self.codebook.grid is not None:
            tensors["grid"] = self.codebook.grid
        if self.codebook.axes is not None:
            tensors["axes"] = self.codebook.axes
        return tensors

    @property
    def details(self) -> bytes:
        """The width of a code."""
        return bytes([self.codes.bits])

    @property
    def description(self) -> dict[str, Any]:
        """See :class:`CompressedField`; also has the width of a code."""
        return super().description | {"code_bits": self.codes.bits}

    @classmethod
    def planned(
        cls, field: Field, clusters: int, dtype: CodebookDtype, rank: int
    ) -> ClusteredField:
        """An empty result of coding ``field``, with zeros that take no memory, to compute its
        size."""
        bits = bits_for(clusters)
        codes = absent(np.uint8, packed_bytes(field.vocab_size, bits))
        stored = absent(dtype, clusters, rank)
        grid = np.zeros((2, rank), np.float32) if dtype == "int8" else None
        axes = np.zeros((rank + 1, field.dim), np.float16) if rank < field.dim else None
        packed = PackedCodes(codes, field.vocab_size, bits)
        return cls(field.name, packed, Codebook(stored, grid, axes), field.dtype.name)

    def _lookup_table(self) -> LookupTable:
        runs, codes = [RowRun(0, self.codes.bits, 0, 0)], self.codes.data
        book = self.codebook
        if book.grid is None or 4 * book.clusters * book.dim <= _NEAR_BYTES:
            return run_table(self.vocab_size, runs, codes, book.values)
        axes = None if book.axes is None else book.axes.astype(np.float64)
        stored = np.ascontiguousarray(book.stored)
        return run_table(self.vocab_size, runs, codes, stored, book.grid, axes)

    def check_codes(self) -> None:
        """Read all codes; raises ArtifactError if one lies beyond the codebook."""
        if self.codebook.clusters == 1 << self.codes.bits:
            return
        for start in range(0, self.vocab_size, _CHECKED_ROWS):
            self.lookup(np.arange(start, min(start + _CHECKED_ROWS, self.vocab_size)))

    @classmethod
    def _from_entry(cls, entry: artifact.Entry) -> Self:
        tensors = entry.tensors
        if len(entry.details) != 1:
            raise ArtifactError(f"{len(entry.details)} bytes do not say the width of a code")
        codes = PackedCodes(tensors["codes"], entry.vocab_size, entry.details[0])
        codebook = Codebook(tensors["codebook"], tensors.get("grid"), tensors.get("axes"))
        return cls(entry.name, codes, codebook, entry.dtype.name)
