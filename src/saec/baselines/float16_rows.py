"""Rows rounded to float16."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saec.baselines.rival import Choice, Table, as_half

__all__ = ["Float16Rows"]


@dataclass(frozen=True)
class Float16Rows:
    """Every value in 16 bits; see :class:`~saec.baselines.rival.Rival`."""

    has_one_size = True

    def choices(self, count: int, dim: int) -> Sequence[Choice]:
        """One."""
        return [()]

    def planned(self, count: int, dim: int, choice: Choice) -> dict[str, NDArray[Any]]:
        """``values``, (count, dim) float16."""
        return {"values": np.broadcast_to(np.zeros((), np.float16), (count, dim))}

    def losses(
        self, table: Table, choices: Sequence[Choice], rng: np.random.Generator
    ) -> list[float]:
        """0: nothing is decided by the loss of the only size."""
        return [0.0]

    def encode(
        self, table: Table, choice: Choice, rng: np.random.Generator
    ) -> dict[str, NDArray[Any]]:
        """Round to the nearest."""
        return {"values": as_half(table.rows, table.name)}

    def decode(
        self, tensors: Mapping[str, NDArray[Any]], count: int, dim: int, choice: Choice
    ) -> NDArray[np.float32]:
        """The same values."""
        return tensors["values"].astype(np.float32)
