"""Chooses the symbols for the rows of one class of a keyed field, given the price of a bit.

The symbols of an axis are levels of a lattice (:mod:`.levels`). Neighbouring axes share a symbol if
that takes fewer bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saec.codecs.axes.candidates import TierRows
from saec.codecs.axes.code_lengths import code_lengths
from saec.codecs.axes.levels import STEP_BITS, Levels, levels_of
from saec.codecs.axes.row_slopes import RowLosses, RowNats
from saec.codecs.axes.symbols import LENGTH_BITS, SymbolCoder, symbol_means, table_coder
from saec.util.few_values import numbered
from saec.util.row_blocks import row_blocks

__all__ = ["ClassCoder", "CodedParts", "CodedRows", "class_coder"]

Floats = NDArray[np.float64]
Symbols = NDArray[np.int64]

_LEAST_GAIN_BITS = 8  # an axis must save as many nats as this many bits cost
_MOST_TUPLES = 4096  # symbols of axes that share them


@dataclass(frozen=True, eq=False)
class CodedParts:
    """Some parts of rows as coded.

    bits: (m,) of their codewords; losses: for each occurrence, on the axes of these parts; harm:
    (m,) distance to the default row in nats.
    """

    bits: NDArray[np.int64]
    losses: RowLosses
    harm: Floats


@dataclass(frozen=True, eq=False)
class CodedRows:
    """Rows of a class as coded.

    first: (m,) the symbol of the first part; later: the other parts, and the axes that no part
    codes; losses: for each occurrence, on all axes; harm: (m,) distance to the default row in nats.
    """

    first: Symbols
    later: CodedParts
    losses: RowLosses
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
        """Codeword bits (m,) of rows with these ``symbols`` (m,) of each part. into: OUT (m, axes
        or more), the coordinates that the symbols stand for."""
        bits = np.zeros(len(into), np.int64)
        for number, (coder, span) in enumerate(self.spans()):
            into[:, span] = coder.coordinates[symbols[number]]
            bits += coder.lengths[symbols[number]]
        return bits

    def code(
        self,
        coordinates: NDArray[np.float32],
        nats: RowNats,
        price: float,
        later: CodedParts | None = None,
    ) -> CodedRows:
        """The rows with ``coordinates`` (m, rank), coded; with their bits and losses.

        later: what this gave for the same rows at the same price by a coder whose first part may
            have other symbols or lengths, but has the same axes, and whose other parts are these.
        """
        first, others = (replace(self, coders=own) for own in (self.coders[:1], self.coders[1:]))
        before, after = slice(first.axes), slice(first.axes, None)
        if later is None:
            _, later = others._code_parts(coordinates[:, after], nats.of_axes(after), price)
        (symbols,), coded = first._code_parts(coordinates[:, before], nats.of_axes(before), price)
        return CodedRows(symbols, later, later.losses + coded.losses, later.harm + coded.harm)

    def _code_parts(
        self, coordinates: NDArray[np.float32], nats: RowNats, price: float
    ) -> tuple[list[Symbols], CodedParts]:
        """The symbols (m,) of each part for rows with ``coordinates`` (m, axes or more), and what
        they take and lose on these axes, whether a part codes them or not."""
        symbols = list(self.symbols(coordinates, nats.of_codes, price))
        decoded = np.zeros(coordinates.shape)
        bits = self.decode(symbols, decoded)
        harm = np.empty(len(decoded))
        for block in row_blocks(len(decoded)):
            harm[block] = np.square(decoded[block]) @ nats.second
        return symbols, CodedParts(bits, nats.losses(coordinates, decoded), harm)


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
    levels = levels_of(rows, nats[:axes], price)
    coders: list[SymbolCoder] = []
    first = 0
    for group, symbols in _grouped(levels, each):
        span = slice(first, first + len(group))
        first = span.stop
        if len(group) == 1:
            coders.append(group[0].coder(rows, float(nats[span.start]), price))
        else:
            coders.append(_joint(symbols, rows, span, nats[span], weight, price, each))
    while coders and coders[-1].part.symbols == 1 and not coders[-1].values.any():
        coders.pop()
    if not coders:
        return None
    if coders[0].part.rice is not None:
        coders.insert(0, table_coder(np.zeros((1, 0)), np.zeros(1, dtype=np.int64)))
    return ClassCoder(tuple(coders), weight)


def _grouped(levels: Sequence[Levels], each: float) -> Iterator[tuple[list[Levels], Symbols]]:
    """Groups of neighbouring axes that share a symbol, with the symbols (m,) of the rows."""
    start = 0
    while start < len(levels):
        group = [levels[start]]
        symbols = levels[start].symbols.astype(np.int64)
        taken = _bits_of(symbols, 1, each)
        while start + len(group) < len(levels):
            next_ = levels[start + len(group)]
            both = numbered(symbols * len(next_.counts) + next_.symbols)[1]
            together = _bits_of(both, len(group) + 1, each)
            if together >= taken + _bits_of(next_.symbols.astype(np.int64), 1, each):
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
    worth = counts * STEP_BITS >= LENGTH_BITS + 16 * own.shape[1]
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
