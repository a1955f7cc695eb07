"""Bits that parts of a field contribute to a tensor, and functions to write them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saec.bits.packing import PackedRows
from saec.util.atomic_file import let_go

__all__ = [
    "ByteRun",
    "Piece",
    "Scattered",
    "lay",
    "lay_and_let_go",
    "run_of_codes",
    "scattered_codes",
    "within",
]


_SLICE = 1 << 16  # words


@dataclass(frozen=True, eq=False)
class ByteRun:
    """Consecutive bytes. In the first and the last byte, bits of other pieces are zero."""

    role: str
    first: int
    data: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Scattered:
    """Little-endian words at given positions; bits of other pieces are zero.

    places: (m,) int64, ascending, in bytes; words: (m,) uint8, uint16, uint32 or uint64.
    """

    role: str
    places: NDArray[np.int64]
    words: NDArray[Any]

    def slices(self) -> Iterator[Scattered]:
        """The same in pieces that each touch at most some ten thousand pages of memory."""
        for start in range(0, len(self.places), _SLICE):
            some = slice(start, start + _SLICE)
            yield Scattered(self.role, self.places[some], self.words[some])


Piece = ByteRun | Scattered


def run_of_codes(role: str, first_bit: int, packed: PackedRows) -> ByteRun:
    """Packed rows of codes, from a given bit of the tensor."""
    bits = packed.count * sum(packed.widths)
    data = packed.data[: -(-bits // 8)]
    phase = first_bit % 8
    if not phase:
        return ByteRun(role, first_bit // 8, data)
    shifted = np.zeros(len(data) + 1, dtype=np.uint8)
    shifted[:-1] = data << np.uint8(phase)
    shifted[1:] |= data >> np.uint8(8 - phase)
    return ByteRun(role, first_bit // 8, shifted[: -(-(phase + bits) // 8)])


def scattered_codes(
    role: str,
    first_bits: NDArray[np.int64],
    codes: Sequence[NDArray[np.integer]],
    widths: Sequence[int],
) -> list[Scattered]:
    """The same for rows that start at given bits, (m,) ascending."""
    pieces, offset = [], 0
    for part, width in zip(codes, widths, strict=True):
        if width:
            bits = first_bits + offset
            words = part.astype(np.uint64) << (bits % 8).astype(np.uint64)
            narrow = np.uint32 if width <= 25 else np.uint64
            pieces.append(Scattered(role, bits // 8, words.astype(narrow)))
        offset += width
    return pieces


def lay(pieces: Iterable[Piece], tensors: dict[str, NDArray[np.uint8]], first: int = 0) -> None:
    """Write ``pieces`` into ``tensors`` of zeros by role, which start at byte ``first``."""
    for piece in pieces:
        data = tensors[piece.role]
        if isinstance(piece, ByteRun):
            start = piece.first - first
            data[start : start + len(piece.data)] |= piece.data
            continue
        places = piece.places - first
        for byte in range(piece.words.itemsize):
            values = (piece.words >> piece.words.dtype.type(8 * byte)).astype(np.uint8)
            some = np.flatnonzero(values)
            np.bitwise_or.at(data, places[some] + byte, values[some])


def lay_and_let_go(pieces: Iterable[Piece], tensors: dict[str, NDArray[np.uint8]]) -> None:
    """As :func:`lay`, into mapped files whose pages should not count as memory of this process."""
    for piece in pieces:
        for some in (piece,) if isinstance(piece, ByteRun) else piece.slices():
            lay([some], tensors)
            let_go(tensors[piece.role])


def within(piece: Piece, start: int, stop: int) -> Piece | None:
    """The part of ``piece`` in bytes ``start`` to ``stop``; None if it is empty."""
    if isinstance(piece, ByteRun):
        first, last = max(start - piece.first, 0), min(stop - piece.first, len(piece.data))
        return (
            ByteRun(piece.role, piece.first + first, piece.data[first:last])
            if first < last
            else None
        )
    width = piece.words.itemsize
    low, high = np.searchsorted(piece.places, [start - width + 1, stop]).tolist()
    if low == high:
        return None
    places, words = piece.places[low:high], piece.words[low:high]
    inside = (places >= start) & (places + width <= stop)
    if inside.all():
        return Scattered(piece.role, places, words)
    # Words that cross the border are split into bytes.
    all_places = (places[:, None] + np.arange(width)).ravel()
    all_bytes = words.astype(words.dtype.newbyteorder("<"))[:, None].view(np.uint8).ravel()
    kept = (all_places >= start) & (all_places < stop)
    order = np.argsort(all_places[kept], kind="stable")
    return Scattered(piece.role, all_places[kept][order], all_bytes[kept][order])
