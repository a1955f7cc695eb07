"""Rows rounded to float16."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saec.baselines.rival import Choice, OneSize, Table, as_half
from saec.util.absent_arrays import absent

__all__ = ["Float16Rows"]


@dataclass(frozen=True)
class Float16Rows(OneSize):
    """Every value in 16 bits; see :class:`~saec.baselines.rival.Rival`."""

    def planned(self, count: int, dim: int, choice: Choice) -> dict[str, NDArray[Any]]:
        """``values``, (count, dim) float16."""
        return {"values": absent(np.float16, count, dim)}

    def encode(
        self, table: Table, choice: Choice, rng: np.random.Generator
    ) -> dict[str, NDArray[Any]]:
        """Round to the nearest."""
        return {"values": as_half(table.rows, table.name)}

    def rows(
        self,
        tensors: Mapping[str, NDArray[Any]],
        ids: NDArray[np.int64],
        shape: tuple[int, int],
        choice: Choice,
    ) -> NDArray[np.float32]:
        """The same values."""
        return tensors["values"][ids].astype(np.float32)
