"""An uncompressed table."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

import saec.artifact as artifact
from saec.errors import ArtifactError
from saec.format.compressed_field import CompressedField
from saec.format.native_lookup import LookupTable, RowRun, run_table

__all__ = ["RawField"]


class RawField(CompressedField):
    """An uncompressed table, because no codec makes it smaller or the budget allows it."""

    codec = "raw"
    kind = 0

    def __init__(self, name: str, weights: NDArray[Any]) -> None:
        super().__init__(name, weights.shape[0], weights.shape[1], weights.dtype.name)
        self.weights = weights

    @property
    def tensors(self) -> dict[str, NDArray[Any]]:
        """``weights``."""
        return {"weights": self.weights}

    def _lookup_table(self) -> LookupTable:
        codes = np.zeros(0, dtype=np.uint8)
        weights = np.ascontiguousarray(self.weights)
        return run_table(self.vocab_size, [RowRun(0, 0, 0, 0)], codes, weights)

    @classmethod
    def _from_entry(cls, entry: artifact.Entry) -> Self:
        weights = entry.tensors["weights"]
        if weights.ndim != 2 or 0 in weights.shape:
            raise ArtifactError(f"weights have shape {weights.shape}, not (vocab_size, dim)")
        return cls(entry.name, weights)
