"""Rows of integers with a scale and an offset each, as FBGEMM's inference tables store them.

Source: Guan et al., Post-Training 4-bit Quantization on Embedding Tables, 2019 (arXiv 1911.02079).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saec.baselines.rival import Choice, OneSize, Table, as_half
from saec.bits.packing import PackedRows, packed_bytes
from saec.util.absent_arrays import absent

__all__ = ["IntRows"]


@dataclass(frozen=True)
class IntRows(OneSize):
    """Values between a row's least and largest, in equal steps; see
    :class:`~saec.baselines.rival.Rival`.

    Scale and offset take two bytes each, float16. Codes are packed without gaps, where FBGEMM fills
    each row up to a whole byte.

    Args:
        bits: of a value; 8, 4 or 2.
    """

    bits: int

    def planned(self, count: int, dim: int, choice: Choice) -> dict[str, NDArray[Any]]:
        """``codes``, packed; ``grid``, (count, 2) float16, the scale and the offset of each row."""
        nbytes = packed_bytes(count, dim * self.bits)
        return {
            "codes": absent(np.uint8, nbytes),
            "grid": absent(np.float16, count, 2),
        }

    def encode(
        self, table: Table, choice: Choice, rng: np.random.Generator
    ) -> dict[str, NDArray[Any]]:
        """The codes count steps of the rounded scale from the rounded offset."""
        levels = 2**self.bits - 1
        offsets = as_half(table.rows.min(axis=1), table.name)
        low = offsets.astype(np.float32)
        widths = np.maximum(table.rows.max(axis=1) - low, 0)
        scales = as_half(widths / levels, table.name)
        # A row whose values are equal has the scale 0, and code 0 everywhere.
        steps = np.where(scales > 0, scales, np.inf).astype(np.float32)
        codes = np.rint((table.rows - low[:, None]) / steps[:, None]).clip(0, levels)
        packed = PackedRows.pack(list(codes.T.astype(np.uint32)), [self.bits] * len(codes.T))
        return {"codes": packed.data, "grid": np.stack([scales, offsets], axis=1)}

    def rows(
        self,
        tensors: Mapping[str, NDArray[Any]],
        ids: NDArray[np.int64],
        shape: tuple[int, int],
        choice: Choice,
    ) -> NDArray[np.float32]:
        """Offset plus code times scale."""
        packed = PackedRows(tensors["codes"], 0, shape[0], (self.bits,) * shape[1])
        scales, offsets = tensors["grid"][ids].astype(np.float32).T
        codes = packed.gather(ids).astype(np.float32)
        rows: NDArray[np.float32] = offsets[:, None] + codes * scales[:, None]
        return rows
