"""How the rows of a keyed field are coded: classes of rows, and the parts of each class's strings.

A key's string of bits starts with a codeword that tells its class and the symbol of the class's
first part; the codewords of the class's other parts follow. A string that is too long for one value
of a static function goes on in others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from saec.artifact import ByteReader, number_bytes
from saec.bits.codewords import MOST_LENGTH, Codewords
from saec.errors import ArtifactError
from saec.format.tier_layout import MOST_AXES
from saec.keys.kinds import KeyKind
from saec.keys.static_function import StaticFunction

__all__ = [
    "LONG_STRINGS",
    "MOST_CLASSES",
    "MOST_PARTS",
    "MOST_SYMBOLS",
    "SHORT_STRINGS",
    "KeyedLayout",
    "SymbolPart",
    "grid_values",
    "keyed_details",
    "read_details",
    "rice_order",
    "strings_of",
]

_PRICE = np.dtype("<f4")  # of a bit, with which the details end
MOST_SYMBOLS = 1 << 16
MOST_CLASSES = 256
MOST_PARTS = 1 << 14  # of all classes
# Of all grids: their symbols take no bytes of a file, and are held decoded.
_MOST_GRID_SYMBOLS = 1 << 20
_GRID = (1 << 16) - 1  # in place of a number of axes
# Bits of a string: dense blocks take less for strings of similar lengths; windows are read at once.
SHORT_STRINGS, LONG_STRINGS = 24, 56


def rice_order(symbols: int, middle: int) -> NDArray[np.int64]:
    """The place of each symbol (symbols,) in the order of their distance from ``middle``: middle,
    middle - 1, middle + 1, ..."""
    away = np.arange(symbols) - middle
    return 2 * np.abs(away) - (away < 0)


@dataclass(frozen=True)
class SymbolPart:
    """One symbol of a row and the coordinates that it stands for.

    Args:
        symbols: number of symbols.
        axes: coordinates that the part covers; 0 for a symbol that only tells the class.
        rice: None for a table, which stores the length of each codeword and ``axes`` values of each
            symbol. Otherwise symbol k is the coordinate offset + k step, and its codeword has
            1 + rice + (q >> rice) bits, where q counts the symbols in order of their distance from
            ``middle``: middle, middle - 1, middle + 1, ... (Rice 1971).
        middle: see ``rice``.
    """

    symbols: int
    axes: int = 1
    rice: int | None = None
    middle: int = 0

    @property
    def values(self) -> int:
        """How many float16 values are stored of the part."""
        return self.symbols * self.axes if self.rice is None else 2

    @property
    def stored_lengths(self) -> int:
        """How many lengths of codewords are stored of the part."""
        return self.symbols if self.rice is None else 0

    def rice_lengths(self) -> NDArray[np.int64]:
        """Bits of each symbol's codeword in a grid."""
        assert self.rice is not None, "tables store their lengths"
        return 1 + self.rice + (rice_order(self.symbols, self.middle) >> self.rice)

    def packed(self) -> bytes:
        """Symbols and axes as numbers; of a grid 65535 instead of its axes, and what spaces it."""
        head = number_bytes(self.symbols)
        if self.rice is None:
            return head + number_bytes(self.axes)
        return head + number_bytes(_GRID) + number_bytes(self.rice) + number_bytes(self.middle)

    @classmethod
    def unpacked(cls, reader: ByteReader) -> SymbolPart:
        """Take what :meth:`packed` wrote.

        Raises:
            ArtifactError: there is no such part, or the bytes end early.
        """
        symbols, axes = reader.number(), reader.number()
        if not 0 < symbols <= MOST_SYMBOLS or axes > _GRID:
            raise ArtifactError(f"a part of a class has {symbols} symbols of {axes} axes")
        if axes != _GRID:
            return cls(symbols, axes)
        rice, middle = reader.number(), reader.number()
        part = cls(symbols, 1, min(rice, MOST_LENGTH), min(middle, symbols - 1))
        if (rice, middle) != (part.rice, part.middle) or part.rice_lengths().max() > MOST_LENGTH:
            raise ArtifactError(
                f"a grid of {symbols} symbols has no codewords of {rice} bits about {middle}"
            )
        return part


@dataclass(frozen=True)
class KeyedLayout:
    """The parts of every class; parts of a class cover its leading axes in order.

    The first part of each class is a table.

    Args:
        classes: parts of each.
        string_bits: that the codewords of a string may take, but for a longer one that is alone.
    """

    classes: tuple[tuple[SymbolPart, ...], ...]
    string_bits: int = SHORT_STRINGS

    def __post_init__(self) -> None:
        grids = sum(part.symbols for part in self.parts if part.rice is not None)
        if grids > _MOST_GRID_SYMBOLS or self.rank > MOST_AXES:
            raise ArtifactError(
                f"grids have {grids} symbols, parts cover {self.rank} axes; the limits are "
                f"{_MOST_GRID_SYMBOLS} and {MOST_AXES}"
            )
        if not 1 <= self.string_bits <= LONG_STRINGS:
            raise ArtifactError(
                f"strings of {self.string_bits} bits are not of 1 to {LONG_STRINGS}"
            )
        for own in self.classes:
            if not own or own[0].rice is not None:
                raise ArtifactError("the first part of a class is a table")
            if any(part.axes == 0 for part in own[1:]):
                raise ArtifactError("a part of a class covers no axis")

    def packed(self) -> bytes:
        """Bits of a string, and the parts of every class, for :meth:`unpacked`."""
        head = number_bytes(self.string_bits) + number_bytes(len(self.classes))
        return head + b"".join(
            number_bytes(len(parts)) + b"".join(part.packed() for part in parts)
            for parts in self.classes
        )

    @classmethod
    def unpacked(cls, reader: ByteReader) -> KeyedLayout:
        """Take what :meth:`packed` wrote.

        Raises:
            ArtifactError: there are no such classes, or the bytes end early.
        """
        string_bits = reader.number()
        classes: list[tuple[SymbolPart, ...]] = []
        for _ in range(_checked_count(reader.number(), "classes", MOST_CLASSES)):
            left = MOST_PARTS - sum(map(len, classes))
            parts = _checked_count(reader.number(), "more parts", left)
            classes.append(tuple(SymbolPart.unpacked(reader) for _ in range(parts)))
        return cls(tuple(classes), string_bits)

    @property
    def rank(self) -> int:
        """Number of axes in use."""
        return max((sum(part.axes for part in parts) for parts in self.classes), default=0)

    @property
    def parts(self) -> Iterator[SymbolPart]:
        """All parts, class after class."""
        return (part for parts in self.classes for part in parts)

    @cached_property
    def first_values(self) -> tuple[int, ...]:
        """Where the values of each part start, and their number."""
        return tuple(accumulate((part.values for part in self.parts), initial=0))

    @cached_property
    def first_lengths(self) -> tuple[int, ...]:
        """Where the lengths of each part start, and their number."""
        return tuple(accumulate((part.stored_lengths for part in self.parts), initial=0))

    @cached_property
    def first_parts(self) -> tuple[int, ...]:
        """Number of each class's first part, and of all parts."""
        return tuple(accumulate(map(len, self.classes), initial=0))

    @cached_property
    def first_roots(self) -> tuple[int, ...]:
        """First symbol of each class among those of all first parts, and their number."""
        return tuple(accumulate((parts[0].symbols for parts in self.classes), initial=0))

    def root_code(self, lengths: NDArray[np.uint8]) -> Codewords:
        """The code of the symbols of all first parts; ``lengths`` are those of all parts."""
        firsts = [
            self.part_lengths(number, parts[0], lengths)
            for number, parts in zip(self.first_parts, self.classes, strict=False)
        ]
        return Codewords(np.concatenate(firsts))

    def part_lengths(
        self, number: int, part: SymbolPart, lengths: NDArray[np.uint8]
    ) -> NDArray[np.uint8]:
        """Bits of the codewords of a part's symbols (symbols,)."""
        if part.rice is not None:
            return part.rice_lengths().astype(np.uint8)
        return lengths[self.first_lengths[number] : self.first_lengths[number + 1]]

    def part_values(
        self, number: int, part: SymbolPart, values: NDArray[np.float16]
    ) -> NDArray[np.float32]:
        """Coordinates (symbols, axes) float32 of a part's symbols."""
        own = values[self.first_values[number] : self.first_values[number + 1]].astype(np.float32)
        if part.rice is not None:
            return grid_values(own[0], own[1], part.symbols)
        return own.reshape(part.symbols, part.axes)


def grid_values(offset: np.float32, step: np.float32, symbols: int) -> NDArray[np.float32]:
    """What the symbols of a grid stand for, (symbols, 1)."""
    values: NDArray[np.float32] = offset + np.arange(symbols, dtype=np.float32) * step
    return values[:, None]


def strings_of(longest: Sequence[int], string_bits: int) -> tuple[tuple[int, ...], ...]:
    """Numbers of the parts in each string, from the bits of each part's longest codeword.

    A part starts another string if the longest codewords up to its own take more than
    ``string_bits``.
    """
    strings: list[list[int]] = [[]]
    left = string_bits
    for number, bits in enumerate(longest):
        if number and bits > left:
            strings.append([])
            left = string_bits
        strings[-1].append(number)
        left -= bits
    return tuple(map(tuple, strings))


def _checked_count(count: int, what: str, most: int) -> int:
    if count > most:
        raise ArtifactError(f"{count} {what}; at most {most} are read")
    return count


def keyed_details(
    kind: KeyKind, seed: int, function: StaticFunction, layout: KeyedLayout, price: float
) -> bytes:
    """The details of a field's record; see :attr:`KeyedField.details`."""
    numbers = b"".join(map(number_bytes, (seed, *function.description)))
    return bytes([kind]) + numbers + layout.packed() + np.array(price, _PRICE).tobytes()


def read_details(
    details: bytes,
) -> tuple[KeyKind, int, tuple[int, ...], KeyedLayout, float]:
    """What :func:`keyed_details` wrote: the kind of the keys, the seed of their hashes, the
    function's numbers, the parts of every class and the price of a bit.

    Raises:
        ArtifactError: the bytes are no such details.
    """
    reader = ByteReader(details)
    kind = reader.byte()
    if kind > max(KeyKind):
        raise ArtifactError(f"keys are of the unknown kind {kind}")
    seed, *numbers = (reader.number() for _ in range(6))
    layout = KeyedLayout.unpacked(reader)
    price = float(np.frombuffer(reader.take(_PRICE.itemsize), _PRICE)[0])
    if reader.left:
        raise ArtifactError(f"{reader.left} bytes follow the price of a bit")
    return KeyKind(kind), seed, tuple(numbers), layout, price
