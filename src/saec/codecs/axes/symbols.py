"""Maps coordinates to the symbols of one part of a class, at a price of a bit, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saec.clustering.points import ArrayPoints
from saec.codecs.axes.quantizer import evenly_spaced, within_float16
from saec.format.keyed_layout import SymbolPart, grid_values, rice_order
from saec.util.row_blocks import row_blocks

__all__ = ["LENGTH_BITS", "SymbolCoder", "grid_coder", "symbol_means", "table_coder"]

LENGTH_BITS = 8  # bits of a stored length
_VALUE_BITS = 16
_MOST_GRID = 1024  # symbols: float16 can hold so many evenly spaced values
_MOST_RICE = 8
_MOST_GRID_LENGTH = 32  # bits

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SymbolCoder:
    """A part, its values, and the codeword length of each symbol.

    values: float16, as stored; lengths: (symbols,) int64, bits. The final lengths of a class's
    first part are known only when all classes are.
    """

    part: SymbolPart
    values: NDArray[np.float16]
    lengths: NDArray[np.int64]

    @property
    def bits(self) -> int:
        """Bits of the stored values and lengths of the part."""
        return LENGTH_BITS * self.part.stored_lengths + _VALUE_BITS * self.part.values

    @property
    def coordinates(self) -> NDArray[np.float32]:
        """The coordinates of each symbol, (symbols, axes)."""
        wide = self.values.astype(np.float32)
        if self.part.rice is not None:
            return grid_values(wide[0], wide[1], self.part.symbols)
        return wide.reshape(self.part.symbols, self.part.axes)

    def assign(
        self, coordinates: NDArray[np.float32], nats: Floats, weight: float, price: float
    ) -> NDArray[np.int64]:
        """The symbol (m,) with the least nats + price x bits for each row of ``coordinates``.

        Args:
            coordinates: (m, axes).
            nats: (axes,) nats per squared error of each coordinate.
            weight: share of one row in all occurrences.
            price: nats per bit.
        """
        if self.part.symbols == 1 or self.part.axes == 0:
            return np.zeros(len(coordinates), dtype=np.int64)
        scale = np.sqrt(nats / nats[0])
        # An additional coordinate: 0 for rows; for symbols, its square is the cost of the codeword.
        cost = np.sqrt(price * self.lengths / max(weight * nats[0], np.finfo(np.float64).tiny))
        table = np.column_stack([self.coordinates * scale, cost])
        limit = float(np.finfo(np.float32).max) ** 0.25
        rows = np.zeros((len(coordinates), table.shape[1]), np.float32)
        for block in row_blocks(len(rows), self.part.axes):
            rows[block, :-1] = (coordinates[block] * scale).clip(-limit, limit)
        table = np.ascontiguousarray(table.clip(-limit, limit), dtype=np.float32)
        return ArrayPoints(rows).assign(table).astype(np.int64)


def symbol_means(
    symbols: NDArray[np.int64], coordinates: NDArray[Any], shares: Floats, count: int
) -> Floats:
    """Means (count, axes) of the coordinates of each symbol's rows, weighted by ``shares``.

    Args:
        symbols: (m,) of each row, below ``count``.
        coordinates: (m, axes) of each row.
        shares: (m,) of each row in all occurrences.
        count: number of symbols.
    """
    weights = np.bincount(symbols, shares, count)
    rows = np.bincount(symbols, minlength=count)
    unseen = weights <= 0  # if no row of a symbol has weight, its mean is unweighted
    use = np.where(unseen[symbols], 1.0, shares)
    total = np.maximum(np.where(unseen, rows, weights), np.finfo(np.float64).tiny)
    sums = [np.bincount(symbols, use * axis, count) for axis in coordinates.T]
    return np.array(sums).T.reshape(count, coordinates.shape[1]) / total[:, None]


def table_coder(means: Floats, lengths: NDArray[np.int64]) -> SymbolCoder:
    """A coder with a table of ``means`` (symbols, axes) and codeword ``lengths`` (symbols,)."""
    return SymbolCoder(SymbolPart(*means.shape), within_float16(means).ravel(), lengths)


def grid_coder(low: float, step: float, counts: Floats) -> SymbolCoder | None:
    """Symbols with values low, low + step, ... and Rice codewords that suit ``counts`` (symbols,).

    None if float16 cannot hold evenly spaced values, or if codewords would be too long.
    """
    values = evenly_spaced(low, step)
    if values is None or len(counts) > _MOST_GRID:
        return None
    middle = int(counts.argmax())
    order, total = rice_order(len(counts), middle), float(counts.sum())
    longest = int(order.max())
    bits = {
        rice: total * (1 + rice) + float(counts @ (order >> rice))
        for rice in range(_MOST_RICE)
        if 1 + rice + (longest >> rice) <= _MOST_GRID_LENGTH
    }
    if not bits:
        return None
    part = SymbolPart(len(counts), 1, min(bits, key=lambda rice: bits[rice]), middle)
    return SymbolCoder(part, values, part.rice_lengths())
