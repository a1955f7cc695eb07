"""A table as clusters: a code per feature, a centroid per cluster."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from saec import artifact
from saec.codebook import Codebook, CodebookDtype
from saec.codes import PackedCodes, bits_for, packed_bytes
from saec.errors import ArtifactError
from saec.stored.field import CompressedField
from saec.table import Field

__all__ = ["ClusteredField"]


class ClusteredField(CompressedField):
    """A code per feature and a centroid per cluster: e_i = codebook[code_i]."""

    codec = "clusters"

    def __init__(self, name: str, codes: PackedCodes, codebook: Codebook, dtype: str) -> None:
        super().__init__(name, codes.count, codebook.dim, dtype)
        self.codes = codes
        self.codebook = codebook

    @property
    def tensors(self) -> dict[str, NDArray[Any]]:
        """``codes``, ``codebook`` and what it needs: ``grid`` for int8, ``axes`` for few axes."""
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
    def description(self) -> dict[str, Any]:
        """See :class:`CompressedField`; with the width of a code."""
        return super().description | {"code_bits": self.codes.bits}

    @classmethod
    def planned(
        cls, field: Field, clusters: int, dtype: CodebookDtype, rank: int
    ) -> ClusteredField:
        """What coding ``field`` would give, with zeros that take no memory: for its size."""
        bits = bits_for(clusters)
        codes = np.broadcast_to(np.uint8(0), packed_bytes(field.vocab_size, bits))
        stored = np.broadcast_to(np.zeros((), dtype), (clusters, rank))
        grid = np.zeros((2, rank), np.float32) if dtype == "int8" else None
        axes = np.zeros((rank + 1, field.dim), np.float16) if rank < field.dim else None
        packed = PackedCodes(codes, field.vocab_size, bits)
        return cls(field.name, packed, Codebook(stored, grid, axes), field.weights.dtype.name)

    def _rows(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        return self.codebook.values[self.checked_codes(ids)]

    def checked_codes(self, ids: NDArray[np.int64]) -> NDArray[np.uint32]:
        """Codes of checked ids; a code beyond the codebook means a damaged file."""
        codes = self.codes.gather(ids)
        if len(codes) and int(codes.max()) >= self.codebook.clusters:
            bad = int(np.argmax(codes >= self.codebook.clusters))
            raise ArtifactError(
                f"field {self.name!r}: row {ids[bad]} has code {codes[bad]}, but there are "
                f"{self.codebook.clusters} centroids"
            )
        return codes

    @classmethod
    def _from_entry(cls, entry: artifact.Entry) -> Self:
        described, tensors = entry.description, entry.tensors
        codes = PackedCodes(tensors["codes"], described["vocab_size"], described["code_bits"])
        codebook = Codebook(tensors["codebook"], tensors.get("grid"), tensors.get("axes"))
        return cls(described["name"], codes, codebook, described["dtype"])
