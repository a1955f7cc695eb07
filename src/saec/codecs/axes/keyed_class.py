"""Chooses the symbols for the rows of one class of a keyed field, given the price of a bit.

The best step of a uniform quantizer with entropy-coded symbols follows from the price per bit (Gish
and Pierce 1968): w nats step^2 = 6 price / ln 2, for rows that occur with share w. So there is no
search. Each coordinate is rounded to the level of that lattice with the least error plus cost of
its codeword. Neighbouring axes share a symbol if that takes fewer bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saec.codecs.axes.candidates import TierRows
from saec.codecs.axes.code_lengths import code_lengths
from saec.codecs.axes.row_slopes import RowNats
from saec.codecs.axes.symbols import (
    LENGTH_BITS,
    SymbolCoder,
    grid_coder,
    symbol_means,
    table_coder,
)
from saec.util.few_values import numbered

__all__ = ["ClassCoder", "CodedRows", "class_coder"]

Floats = NDArray[np.float64]
Symbols = NDArray[np.int64]

_LEAST_GAIN_BITS = 8  # an axis must save as many nats as this many bits cost
_ROUNDS = 3
_MOST_LEVELS = 1 << 11  # on either side of the centre
_MOST_TUPLES = 4096  # symbols of axes that share them
_STEP_BITS = 6 / np.log(2)  # an error of one step costs as much as this many bits


@dataclass(frozen=True, eq=False)
class CodedRows:
    """Rows of a class as coded; all arrays are (m,).

    first: the symbol of the first part; later_bits: codeword bits of the other parts; lost: the
    loss in nats per occurrence; second, in_first_order: its second-order part, its expected
    first-order one; doubt: its standard error; harm: distance to the default row in nats.
    """

    first: Symbols
    later_bits: Floats
    lost: Floats
    second: Floats
    in_first_order: Floats
    doubt: Floats
    harm: Floats


@dataclass(frozen=True, eq=False)
class ClassCoder:
    """Codes the rows of a class.

    coders: one for each part, for the axes that follow those of the part before; weight: the mean
    share of a row in all occurrences.
    """

    coders: tuple[SymbolCoder, ...]
    weight: float

    @property
    def bits(self) -> int:
        """Bits of the stored values and lengths of all parts."""
        return sum(coder.bits for coder in self.coders)

    @property
    def axes(self) -> int:
        """The number of axes that are coded."""
        return sum(coder.part.axes for coder in self.coders)

    def spans(self) -> Iterator[tuple[SymbolCoder, slice]]:
        """The coder of each part, and the axes that it codes."""
        first = 0
        for coder in self.coders:
            yield coder, slice(first, first + coder.part.axes)
            first += coder.part.axes

    def symbols(
        self, coordinates: NDArray[np.float32], nats: Floats, price: float
    ) -> Iterator[Symbols]:
        """The symbols (m,) of each part, for rows with ``coordinates`` (m, axes or more)."""
        for coder, span in self.spans():
            yield coder.assign(coordinates[:, span], nats[span], self.weight, price)

    def decode(
        self, symbols: Sequence[Symbols], into: NDArray[np.floating[Any]]
    ) -> NDArray[np.int64]:
        """Codeword bits (m,) of all parts but the first, of rows with these ``symbols`` (m,) of
        each part. into: OUT (m, axes or more), the coordinates that the symbols stand for."""
        later = np.zeros(len(into), np.int64)
        for number, (coder, span) in enumerate(self.spans()):
            into[:, span] = coder.coordinates[symbols[number]]
            if number:
                later += coder.lengths[symbols[number]]
        return later

    def code(self, coordinates: NDArray[np.float32], nats: RowNats, price: float) -> CodedRows:
        """The rows with ``coordinates`` (m, rank), coded; with their bits and losses."""
        decoded = np.zeros(coordinates.shape)
        every = list(self.symbols(coordinates, nats.of_codes, price))
        later = self.decode(every, decoded).astype(np.float64)
        parts = (nats.lost, nats.in_second_order, nats.in_first_order, nats.doubt)
        lost, second, first, doubt = (part(coordinates, decoded) for part in parts)
        harm = np.square(decoded) @ nats.second
        return CodedRows(every[0], later, lost, second, first, doubt, harm)


def class_coder(rows: TierRows, nats: Floats, most_axes: int, price: float) -> ClassCoder | None:
    """The coders of a class, or None if no axis is worth its bits.

    rows: a sample of it; nats: (rank,) nats per squared error of each coordinate; most_axes: the
    most leading axes that are coded; price: nats per bit.
    """
    each = rows.count / len(rows.shares)  # rows of the class for each row of the sample
    weight = float(rows.shares.sum()) / rows.count
    if weight == 0.0:
        return None
    spread = np.einsum("na,n->a", np.square(rows.coordinates, dtype=np.float64), rows.shares) * nats
    useful = np.append(spread >= price * _LEAST_GAIN_BITS, False)
    axes = min(int(np.argmin(useful)), most_axes)
    levels = [_Levels.of(rows, axis, float(nats[axis]), price) for axis in range(axes)]
    coders: list[SymbolCoder] = []
    first = 0
    for group, symbols in _grouped(levels, each):
        span = slice(first, first + len(group))
        first = span.stop
        if len(group) == 1:
            coders.append(group[0].coder(rows, float(nats[span.start]), price, each))
        else:
            coders.append(_joint(symbols, rows, span, nats[span], weight, price, each))
    while coders and coders[-1].part.symbols == 1 and not coders[-1].values.any():
        coders.pop()
    if not coders:
        return None
    if coders[0].part.rice is not None:
        coders.insert(0, table_coder(np.zeros((1, 0)), np.zeros(1, dtype=np.int64)))
    return ClassCoder(tuple(coders), weight)


@dataclass(frozen=True, eq=False)
class _Levels:
    """The rows of a sample on the lattice of one axis.

    symbols: (m,) the level of each row; low: the value of the first level on the lattice; step:
    distance of neighbouring points of the lattice; numbers: (levels,) the point of each level,
    counted from ``low``; counts: (levels,) rows of the sample on each level; means: (levels,) their
    mean coordinates.
    """

    axis: int
    symbols: Symbols
    low: float
    step: float
    numbers: Symbols
    counts: Floats
    means: Floats

    @classmethod
    def of(cls, rows: TierRows, axis: int, nats: float, price: float) -> _Levels:
        column = rows.coordinates[:, axis].astype(np.float64)
        shares = rows.shares
        each = rows.count / len(shares)
        step = np.sqrt(_STEP_BITS * price / (shares.sum() / rows.count * nats))
        centre = float((shares * column).sum() / shares.sum())
        if abs(centre) < step / 2:
            centre = 0.0
        step = max(step, float(np.abs(column - centre).max()) / _MOST_LEVELS)
        numbers, symbols = numbered(np.rint((column - centre) / step).astype(np.int64))
        for _ in range(_ROUNDS):
            before = symbols
            counts = np.bincount(symbols).astype(np.float64)
            means = symbol_means(symbols, column[:, None], shares, len(counts))[:, 0]
            ideal = price * each * -np.log2(counts / len(column))
            above = np.searchsorted(means, column)
            candidates = (above - 1, above, np.full_like(above, counts.argmax()))
            symbols = _cheapest(column, shares * nats, means, ideal, candidates)
            kept, symbols = numbered(symbols)
            numbers = numbers[kept]
            if np.array_equal(symbols, before):  # counts and means stay as they are
                break
        counts = np.bincount(symbols).astype(np.float64)
        means = symbol_means(symbols, column[:, None], shares, len(counts))[:, 0]
        low = centre + step * float(numbers[0])
        return cls(axis, symbols, low, step, numbers - numbers[0], counts, means)

    def coder(self, rows: TierRows, nats: float, price: float, each: float) -> SymbolCoder:
        """A coder with a table or with a grid, whichever costs less at this price."""
        column = rows.coordinates[:, self.axis].astype(np.float64)
        counts = each * self.counts
        lengths = code_lengths(counts, np.zeros(len(counts)), price)
        table = table_coder(self.means[:, None], lengths)
        grid_counts = np.zeros(int(self.numbers[-1]) + 1)
        grid_counts[self.numbers] = counts
        grid = None if len(counts) == 1 else grid_coder(self.low, self.step, grid_counts)
        if grid is None:
            return table

        def cost(coder: SymbolCoder, symbols: Symbols, rows_of: Floats) -> float:
            error = column - coder.coordinates[symbols, 0]
            taken = coder.bits + float(rows_of @ coder.lengths)
            return float(nats * (rows.shares * error**2).sum() + price * taken)

        in_table = cost(table, self.symbols, counts)
        in_grid = cost(grid, self.numbers[self.symbols], grid_counts)
        return table if in_table <= in_grid else grid


def _cheapest(
    column: Floats, weights: Floats, means: Floats, bits: Floats, candidates: Sequence[Symbols]
) -> Symbols:
    """The candidate with the least weighted squared error + cost of bits, for each value."""
    best = np.full(len(column), np.inf)
    chosen = np.zeros(len(column), dtype=np.int64)
    for each in candidates:
        symbols = each.clip(0, len(means) - 1)
        cost = weights * np.square(column - means[symbols]) + bits[symbols]
        better = cost < best
        chosen[better] = symbols[better]
        best = np.minimum(best, cost)
    return chosen


def _grouped(levels: Sequence[_Levels], each: float) -> Iterator[tuple[list[_Levels], Symbols]]:
    """Groups of neighbouring axes that share a symbol, with the symbols (m,) of the rows."""
    start = 0
    while start < len(levels):
        group = [levels[start]]
        symbols = levels[start].symbols
        taken = _bits_of(symbols, 1, each)
        while start + len(group) < len(levels):
            next_ = levels[start + len(group)]
            both = numbered(symbols * len(next_.counts) + next_.symbols)[1]
            together = _bits_of(both, len(group) + 1, each)
            if together >= taken + _bits_of(next_.symbols, 1, each):
                break
            symbols, taken = both, together
            group.append(next_)
        yield group, symbols
        start += len(group)


def _bits_of(symbols: Symbols, axes: int, each: float) -> float:
    """An estimate of the bits of all codewords and of the table of symbols."""
    counts = each * np.bincount(symbols).astype(np.float64)
    if len(counts) > _MOST_TUPLES:
        return np.inf
    rows = float(counts.sum())
    entropy = float(counts @ np.log2(rows / counts))
    # A codeword has at least one bit, unless there is only one symbol.
    return (max(entropy, rows) if len(counts) > 1 else 0.0) + len(counts) * (
        LENGTH_BITS + 16 * axes
    )


def _joint(
    symbols: Symbols,
    rows: TierRows,
    span: slice,
    nats: Floats,
    weight: float,
    price: float,
    each: float,
) -> SymbolCoder:
    """A coder for several axes together; symbols of few rows are merged if that costs less."""
    own = rows.coordinates[:, span]
    coder = _table(symbols, own, rows.shares, each, price)
    counts = each * np.bincount(symbols).astype(np.float64)
    worth = counts * _STEP_BITS >= LENGTH_BITS + 16 * own.shape[1]
    if worth.all() or not worth.any():
        return coder

    def cost(table: SymbolCoder, chosen: Symbols) -> float:
        error = np.square(own - table.coordinates[chosen], dtype=np.float64) @ nats
        taken = table.bits + each * float(table.lengths[chosen].sum())
        return float((rows.shares * error).sum() + price * taken)

    kept = table_coder(coder.coordinates[worth].astype(np.float64), coder.lengths[worth])
    fewer = numbered(kept.assign(own, nats, weight, price))[1]
    smaller = _table(fewer, own, rows.shares, each, price)
    return smaller if cost(smaller, fewer) < cost(coder, symbols) else coder


def _table(
    symbols: Symbols, own: NDArray[np.float32], shares: Floats, each: float, price: float
) -> SymbolCoder:
    counts = each * np.bincount(symbols).astype(np.float64)
    lengths = code_lengths(counts, np.zeros(len(counts)), price)
    return table_coder(symbol_means(symbols, own, shares, len(counts)), lengths)
