"""The most frequent rows as they are, and one mean row for all others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saec.baselines.rival import Choice, Table, as_half
from saec.util.absent_arrays import absent

__all__ = ["HeadMean"]

_ID = np.dtype("<u4")


@dataclass(frozen=True)
class HeadMean:
    """Keeps rows of the most frequent features; see :class:`~saec.baselines.rival.Rival`.

    Rows are float16, and each has its id in 32 bits, so that ids may be in any order. All other
    features share the mean of their rows, weighted by frequency. A choice is the number of rows
    kept: 0, or 2 to the power of halves (1, 2, 3, 4, 6, 8, 11, ...).
    """

    has_one_size = False

    def choices(self, count: int, dim: int) -> Sequence[Choice]:
        """About two numbers of rows per doubling."""
        steps = range(1, 2 * count.bit_length())
        numbers = {0, 1} | {round(2 ** (step / 2)) for step in steps}
        return [(kept,) for kept in sorted(numbers) if kept < count]

    def planned(self, count: int, dim: int, choice: Choice) -> dict[str, NDArray[Any]]:
        """``values``, (kept + 1, dim) float16, the mean last; ``codes``, ids of 4 bytes."""
        (kept,) = choice
        found = {"values": absent(np.float16, kept + 1, dim)}
        if kept:
            found["codes"] = absent(np.uint8, 4 * kept)
        return found

    def losses(
        self, table: Table, choices: Sequence[Choice], rng: np.random.Generator
    ) -> list[float]:
        """Exact but for the rounding to float16: sum w |x|^2 - |sum w x|^2 / sum w of the rest."""
        order = _by_frequency(table)
        weights = table.frequencies[order]
        weighted = weights[:, None] * table.rows[order]
        squares = np.einsum("nd,nd->n", weighted, table.rows[order].astype(np.float64))
        found = []
        for (kept,) in choices:
            total, vector = weights[kept:].sum(), weighted[kept:].sum(axis=0)
            spread = squares[kept:].sum() - (vector @ vector / total if total > 0 else 0.0)
            found.append(max(0.0, float(spread)))
        return found

    def encode(
        self, table: Table, choice: Choice, rng: np.random.Generator
    ) -> dict[str, NDArray[Any]]:
        """Keep the first in order of frequency, by id where frequencies are equal."""
        (kept,) = choice
        order = _by_frequency(table)
        rest = order[kept:]
        weights = table.frequencies[rest]
        if not weights.any():  # features without occurrences
            weights = np.ones(len(rest))
        mean = weights @ table.rows[rest] / weights.sum()
        ids = np.sort(order[:kept])
        found = {"values": as_half(np.vstack([table.rows[ids], mean]), table.name)}
        if kept:
            found["codes"] = ids.astype(_ID).view(np.uint8)
        return found

    def rows(
        self,
        tensors: Mapping[str, NDArray[Any]],
        ids: NDArray[np.int64],
        shape: tuple[int, int],
        choice: Choice,
    ) -> NDArray[np.float32]:
        """A kept row, found by its id, or the mean."""
        (kept,) = choice
        places = np.full(len(ids), kept)
        if kept:
            own = tensors["codes"].view(_ID)
            found = np.minimum(np.searchsorted(own, ids.astype(_ID)), kept - 1)
            places = np.where(own[found] == ids, found, kept)
        rows: NDArray[np.float32] = tensors["values"][places].astype(np.float32)
        return rows


def _by_frequency(table: Table) -> NDArray[np.intp]:
    return np.argsort(-table.frequencies, kind="stable")
