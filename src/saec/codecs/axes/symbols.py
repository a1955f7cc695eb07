"""Symbols of one part of a class: from coordinates to symbols and back, at a price of a bit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saec.clustering.points import ArrayPoints
from saec.codecs.axes.quantizer import evenly_spaced, within_float16
from saec.format.keyed_layout import SymbolPart, grid_values

__all__ = ["LENGTH_BITS", "SymbolCoder", "grid_coder", "symbol_means", "table_coder"]

LENGTH_BITS = 8  # that a stored length takes
_VALUE_BITS = 16
_MOST_GRID = 1024  # symbols, whose values float16 can space evenly
_MOST_RICE = 8

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SymbolCoder:
    """A part, its values float16 as stored, and the length of each symbol's codeword.

    lengths: (symbols,) int64; those of a class's first part are known only when all classes are.
    """

    part: SymbolPart
    values: NDArray[np.float16]
    lengths: NDArray[np.int64]

    @property
    def bits(self) -> int:
        """Bits that the part itself takes."""
        return LENGTH_BITS * self.part.stored_lengths + _VALUE_BITS * self.part.values

    @property
    def coordinates(self) -> NDArray[np.float32]:
        """What the symbols stand for, (symbols, axes)."""
        wide = self.values.astype(np.float32)
        if self.part.rice is not None:
            return grid_values(wide[0], wide[1], self.part.symbols)
        return wide.reshape(self.part.symbols, self.part.axes)

    def assign(
        self, coordinates: NDArray[np.float32], nats: Floats, weight: float, price: float
    ) -> NDArray[np.int64]:
        """For each row of ``coordinates`` (m, axes) the symbol of least nats + price x bits.

        nats: (axes,) per squared error; weight: of a row.
        """
        if self.part.symbols == 1 or self.part.axes == 0:
            return np.zeros(len(coordinates), dtype=np.int64)
        scale = np.sqrt(nats / nats[0])
        # A coordinate more, in which rows are 0 and symbols as far as their codewords cost.
        cost = np.sqrt(price * self.lengths / max(weight * nats[0], np.finfo(np.float64).tiny))
        table = np.column_stack([self.coordinates * scale, cost])
        rows = np.column_stack([coordinates * scale, np.zeros(len(coordinates))])
        limit = float(np.finfo(np.float32).max) ** 0.25
        points = ArrayPoints(np.ascontiguousarray(rows.clip(-limit, limit), dtype=np.float32))
        table = np.ascontiguousarray(table.clip(-limit, limit), dtype=np.float32)
        return points.assign(table).astype(np.int64)


def symbol_means(
    symbols: NDArray[np.int64], coordinates: NDArray[Any], shares: Floats, count: int
) -> Floats:
    """Means (count, axes) of the coordinates of each symbol's rows, weighted by ``shares``."""
    weights = np.bincount(symbols, shares, count)
    rows = np.bincount(symbols, minlength=count)
    unseen = weights <= 0  # rows without weight have a plain mean
    use = np.where(unseen[symbols], 1.0, shares)
    total = np.maximum(np.where(unseen, rows, weights), np.finfo(np.float64).tiny)
    sums = [np.bincount(symbols, use * axis, count) for axis in coordinates.T]
    return np.array(sums).T.reshape(count, coordinates.shape[1]) / total[:, None]


def table_coder(means: Floats, lengths: NDArray[np.int64]) -> SymbolCoder:
    """A table of these ``means`` (symbols, axes)."""
    return SymbolCoder(SymbolPart(*means.shape), within_float16(means).ravel(), lengths)


def grid_coder(low: float, step: float, counts: Floats) -> SymbolCoder | None:
    """Symbols low, low + step, ... with Rice codewords that suit ``counts`` (symbols,).

    None where float16 cannot space the values, or codewords would be too long.
    """
    values = evenly_spaced(low, step)
    if values is None or len(counts) > _MOST_GRID:
        return None
    middle = int(counts.argmax())
    found = [_rice(len(counts), rice, middle) for rice in range(_MOST_RICE)]
    fitting = [
        (float(counts @ lengths), part, lengths) for part, lengths in found if lengths.max() <= 32
    ]
    if not fitting:
        return None
    _, part, lengths = min(fitting, key=lambda each: each[0])
    return SymbolCoder(part, values, lengths)


def _rice(symbols: int, rice: int, middle: int) -> tuple[SymbolPart, NDArray[np.int64]]:
    part = SymbolPart(symbols, 1, rice, middle)
    return part, part.rice_lengths()
