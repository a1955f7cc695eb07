"""One code of a tier's rows: from coordinates to codes and back, with the values that it stores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saec.clustering.points import ArrayPoints
from saec.clustering.scalar import nearest_scalars
from saec.format.code_part import CodePart
from saec.format.tiered_field import part_coordinates

__all__ = ["Coder", "evenly_spaced", "within_float16"]

_LARGEST = float(np.finfo(np.float16).max)
_LEAST_STEP = float(np.finfo(np.float16).tiny)  # smaller ones lose digits


@dataclass(frozen=True, eq=False)
class Coder:
    """A part of a tier and its values, float16 as stored: (2**bits, axes), or offset and step."""

    part: CodePart
    values: NDArray[np.float16]

    @property
    def bits(self) -> int:
        """Bits that the values take; a row's code takes ``part.bits`` on top."""
        return 16 * self.part.values

    @classmethod
    def none(cls) -> Coder:
        """Coordinate 0 for every row."""
        return cls(CodePart(), np.zeros(0, dtype=np.float16))

    @classmethod
    def table(cls, centers: NDArray[np.floating[Any]], bits: int) -> Coder:
        """Up to ``2**bits`` centers (k,) ascending, or (k, axes)."""
        rows = within_float16(centers.reshape(len(centers), -1))
        if rows.shape[1] == 1:
            rows = np.unique(rows)[:, None]  # rounding may have made neighbours equal
        missing = (1 << bits) - len(rows)
        padded = np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)])
        return cls(CodePart("table", bits, rows.shape[1]), padded.ravel())

    def assign(
        self, coordinates: NDArray[np.float32], scale: NDArray[np.float64]
    ) -> NDArray[np.uint32]:
        """Code of the nearest value for each row of ``coordinates`` (m, axes).

        ``scale`` (axes,) turns differences of the coordinates into units that they share.
        """
        if self.part.bits == 0:
            return np.zeros(len(coordinates), dtype=np.uint32)
        if self.part.axes > 1:
            table = (self.values.reshape(-1, self.part.axes) * scale).astype(np.float32)
            scaled = (coordinates * scale).astype(np.float32)
            return ArrayPoints(scaled).assign(table).astype(np.uint32)
        column = np.ascontiguousarray(coordinates[:, 0])
        if self.part.kind == "table":
            return nearest_scalars(column, self.values.astype(np.float32))
        offset, step = self.values.astype(np.float32)
        steps = np.rint((column - offset) / step).clip(0, (1 << self.part.bits) - 1)
        codes: NDArray[np.uint32] = steps.astype(np.uint32)
        return codes

    def decode(self, codes: NDArray[np.uint32]) -> NDArray[np.float32]:
        """Coordinates of ``codes`` (m,), as (m, axes)."""
        return part_coordinates(self.part, self.values, codes)


def within_float16(values: NDArray[np.floating[Any]]) -> NDArray[np.float16]:
    """``values`` rounded to float16. Rows that hardly count may lie beyond what it holds, and get
    its largest value."""
    return values.clip(-_LARGEST, _LARGEST).astype(np.float16)


def evenly_spaced(low: float, step: float) -> NDArray[np.float16] | None:
    """Offset and step of a grid, (2,); None if float16 does not hold them with all digits."""
    if abs(low) > _LARGEST or not _LEAST_STEP <= step <= _LARGEST:
        return None
    return np.array([low, step], dtype=np.float16)
