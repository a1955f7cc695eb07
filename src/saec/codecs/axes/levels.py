"""Levels of the coordinates of a class of rows: points of an even lattice, at the price of a bit.

The best step of a uniform quantizer with entropy-coded symbols follows from the price per bit (Gish
and Pierce 1968): w nats step^2 = 6 price / ln 2, for rows that occur with share w. So there is no
search. Each coordinate is rounded to the level of that lattice with the least error plus cost of
its codeword.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import saec._native as _native
from saec.codecs.axes.candidates import TierRows
from saec.codecs.axes.code_lengths import code_lengths
from saec.codecs.axes.symbols import SymbolCoder, grid_coder, table_coder

__all__ = ["STEP_BITS", "Levels", "levels_of"]

Floats = NDArray[np.float64]

STEP_BITS = 6 / np.log(2)  # an error of one step costs as much as this many bits
_ROUNDS = 3
_MOST_LEVELS = 1 << 11  # on either side of the centre


@dataclass(frozen=True, eq=False)
class Levels:
    """The rows of a sample on the lattice of one axis.

    symbols: (m,) the level of each row; low: the value of the first level on the lattice; step:
    distance of neighbouring points of the lattice; numbers: (levels,) the point of each level,
    counted from ``low``; counts: (levels,) rows of the sample on each level; means: (levels,) their
    mean coordinates.
    """

    axis: int
    symbols: NDArray[np.uint16]
    low: float
    step: float
    numbers: NDArray[np.int64]
    counts: Floats
    means: Floats

    def coder(self, rows: TierRows, nats: float, price: float) -> SymbolCoder:
        """A coder with a table or with a grid, whichever costs less at this price."""
        counts = self.counts * (rows.count / len(rows.shares))
        lengths = code_lengths(counts, np.zeros(len(counts)), price)
        table = table_coder(self.means[:, None], lengths)
        grid_counts = np.zeros(int(self.numbers[-1]) + 1)
        grid_counts[self.numbers] = counts
        grid = None if len(counts) == 1 else grid_coder(self.low, self.step, grid_counts)
        if grid is None:
            return table
        column = rows.coordinates[:, self.axis].astype(np.float64)

        def cost(coder: SymbolCoder, values: NDArray[np.float32], bits: NDArray[np.int64]) -> float:
            error = column - values[self.symbols]
            taken = coder.bits + float(counts @ bits)
            return float(nats * (rows.shares * error**2).sum() + price * taken)

        in_table = cost(table, table.coordinates[:, 0], table.lengths)
        in_grid = cost(grid, grid.coordinates[self.numbers, 0], grid.lengths[self.numbers])
        return table if in_table <= in_grid else grid


def levels_of(rows: TierRows, nats: Floats, price: float) -> list[Levels]:
    """The levels of the leading axes.

    Args:
        rows: a sample of a class, some of which occur.
        nats: (axes,) per squared error of each coordinate, positive.
        price: nats per bit.
    """
    symbols = np.empty((len(nats), len(rows.shares)), np.uint16)
    found = _native.lattices(
        rows.coordinates,
        rows.shares,
        np.ascontiguousarray(nats),
        float(rows.count),
        price,
        STEP_BITS,
        _MOST_LEVELS,
        _ROUNDS,
        symbols,
    )
    return [Levels(axis, symbols[axis], *own) for axis, own in enumerate(found)]
