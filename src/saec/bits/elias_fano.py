"""The first rows of codes among rows sorted by codes: an ascending list in about two bits each.

Elias-Fano coding (Elias, Efficient storage and retrieval by content and address of static files,
Journal of the ACM 21, 1974): the low bits of every number are stored directly, and the differences
of the high bits in unary.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from saec.bits.packing import PackedRows, packed_bytes
from saec.errors import ArtifactError

_CODE_BITS = 32  # at most

__all__ = ["pack_starts", "starts_bytes", "unpack_starts"]


def starts_bytes(count: int, rows: int) -> int:
    """Bytes of the result of :func:`pack_starts`."""
    return _low_bytes(count, rows) + _high_bytes(count, rows)


def pack_starts(starts: NDArray[np.int64], rows: int) -> NDArray[np.uint8]:
    """Store ``starts`` (count,), at least one, ascending from 0 to ``rows`` at most, as bytes."""
    count = len(starts)
    low = _low_bits(count, rows)
    data = np.zeros(starts_bytes(count, rows), dtype=np.uint8)
    if low:
        words = [starts >> first & ((1 << width) - 1) for first, width in _low_words(low)]
        packed = PackedRows.pack(words, [width for _, width in _low_words(low)])
        data[: _low_bytes(count, rows)] = packed.data[: _low_bytes(count, rows)]
    bits = np.zeros(8 * _high_bytes(count, rows), dtype=np.uint8)
    bits[(starts >> low) + np.arange(count)] = 1
    data[_low_bytes(count, rows) :] = np.packbits(bits, bitorder="little")
    return data


def unpack_starts(data: NDArray[np.uint8], count: int, rows: int) -> NDArray[np.int64]:
    """Return the stored starts, (count,) int64.

    Args:
        data: ``starts_bytes(count, rows)`` bytes.
        count: number of starts, at least one.
        rows: number of rows; starts are at most this.

    Raises:
        ArtifactError: the starts do not ascend from 0 to at most ``rows``.
    """
    low, low_bytes = _low_bits(count, rows), _low_bytes(count, rows)
    ones = np.flatnonzero(np.unpackbits(data[low_bytes:], bitorder="little"))
    if len(ones) != count:
        raise ArtifactError(f"{len(ones)} codes start where {count} should")
    starts = (ones - np.arange(count)) << low
    if low:
        packed = np.concatenate([data[:low_bytes], np.zeros(packed_bytes(0, 1), dtype=np.uint8)])
        firsts, widths = zip(*_low_words(low), strict=True)
        words = PackedRows(packed, 0, count, widths).unpack().T.astype(np.int64)
        for first, word in zip(firsts, words, strict=True):
            starts |= word << first
    if starts[-1] > rows or (np.diff(starts) < 0).any():
        raise ArtifactError(f"starts of codes do not ascend from 0 to {rows} at most")
    return starts


def _low_bits(count: int, rows: int) -> int:
    """Number of low bits for which the high bits take two or three bits for each number."""
    return max((rows // count).bit_length() - 1, 0)


def _low_words(low: int) -> list[tuple[int, int]]:
    """The first bit and the width of each of the codes that hold so many low bits."""
    return [(first, min(_CODE_BITS, low - first)) for first in range(0, low, _CODE_BITS)]


def _low_bytes(count: int, rows: int) -> int:
    return -(-count * _low_bits(count, rows) // 8)


def _high_bytes(count: int, rows: int) -> int:
    return -(-(count + (rows >> _low_bits(count, rows))) // 8)
