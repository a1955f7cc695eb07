"""Truncated singular value decomposition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saec.baselines.rival import Choice, Table, as_half
from saec.util.absent_arrays import absent

__all__ = ["TruncatedSvd"]


@dataclass(frozen=True)
class TruncatedSvd:
    """A mean row, and coordinates on the first singular vectors of the rest; see
    :class:`~saec.baselines.rival.Rival`.

    Rows count alike. All numbers are float16. A choice is the rank, from 0 to dim - 1.
    """

    has_one_size = False

    def choices(self, count: int, dim: int) -> Sequence[Choice]:
        """Every rank below ``dim``."""
        return [(rank,) for rank in range(dim)]

    def planned(self, count: int, dim: int, choice: Choice) -> dict[str, NDArray[Any]]:
        """``values``, the coordinates (count, rank); ``axes``, (rank + 1, dim), the mean last."""
        (rank,) = choice
        found = {"axes": absent(np.float16, rank + 1, dim)}
        if rank:
            found["values"] = absent(np.float16, count, rank)
        return found

    def losses(
        self, table: Table, choices: Sequence[Choice], rng: np.random.Generator
    ) -> list[float]:
        """Exact but for the rounding to float16."""
        mean, directions = _decomposed(table.rows)
        squares = np.square((table.rows - mean) @ directions)
        by_axis = table.frequencies @ squares
        return [float(by_axis[rank:].sum()) for (rank,) in choices]

    def encode(
        self, table: Table, choice: Choice, rng: np.random.Generator
    ) -> dict[str, NDArray[Any]]:
        """Project on the leading directions."""
        (rank,) = choice
        mean, directions = _decomposed(table.rows)
        kept = directions[:, :rank]
        found = {"axes": as_half(np.vstack([kept.T, mean]), table.name)}
        if rank:
            found["values"] = as_half((table.rows - mean) @ kept, table.name)
        return found

    def rows(
        self,
        tensors: Mapping[str, NDArray[Any]],
        ids: NDArray[np.int64],
        shape: tuple[int, int],
        choice: Choice,
    ) -> NDArray[np.float32]:
        """Coordinates times directions, plus the mean."""
        (rank,) = choice
        axes = tensors["axes"].astype(np.float32)
        rows = np.broadcast_to(axes[rank], (len(ids), shape[1])).copy()
        if rank:
            rows += tensors["values"][ids].astype(np.float32) @ axes[:rank]
        return rows


def _decomposed(
    rows: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The mean (dim,), and the directions (dim, dim) in columns, that of most variance first."""
    mean = rows.mean(axis=0, dtype=np.float64)
    centred = rows - mean
    _, vectors = np.linalg.eigh(centred.T @ centred)  # variances ascend
    return mean.astype(np.float32), vectors[:, ::-1].astype(np.float32)
