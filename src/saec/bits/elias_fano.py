"""Where codes start among rows that stand in their order: an ascending list in about two bits each.

Elias and Fano's way (Elias, Efficient storage and retrieval by content and address of static files,
Journal of the ACM 21, 1974): of every number the low bits as they are, and of the rest how much it
grows from one number to the next, in unary.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from saec.bits.packing import PackedRows, packed_bytes
from saec.errors import ArtifactError

__all__ = ["pack_starts", "starts_bytes", "unpack_starts"]


def starts_bytes(count: int, rows: int) -> int:
    """Bytes that :func:`pack_starts` takes."""
    return _low_bytes(count, rows) + _high_bytes(count, rows)


def pack_starts(starts: NDArray[np.int64], rows: int) -> NDArray[np.uint8]:
    """Store ``starts`` (count,), at least one, ascending from 0 to ``rows`` at most, as bytes."""
    count = len(starts)
    low = _low_bits(count, rows)
    data = np.zeros(starts_bytes(count, rows), dtype=np.uint8)
    if low:
        packed = PackedRows.pack([starts & ((1 << low) - 1)], [low])
        data[: _low_bytes(count, rows)] = packed.data[: _low_bytes(count, rows)]
    bits = np.zeros(8 * _high_bytes(count, rows), dtype=np.uint8)
    bits[(starts >> low) + np.arange(count)] = 1
    data[_low_bytes(count, rows) :] = np.packbits(bits, bitorder="little")
    return data


def unpack_starts(data: NDArray[np.uint8], count: int, rows: int) -> NDArray[np.int64]:
    """What was stored, (count,) int64.

    Args:
        data: ``starts_bytes(count, rows)`` bytes.
        count: number of starts, at least one.
        rows: that they lie among.

    Raises:
        ArtifactError: these are no numbers that ascend from 0 to ``rows`` at most.
    """
    low, low_bytes = _low_bits(count, rows), _low_bytes(count, rows)
    ones = np.flatnonzero(np.unpackbits(data[low_bytes:], bitorder="little"))
    if len(ones) != count:
        raise ArtifactError(f"{len(ones)} codes start where {count} should")
    starts = (ones - np.arange(count)) << low
    if low:
        packed = np.concatenate([data[:low_bytes], np.zeros(packed_bytes(0, 1), dtype=np.uint8)])
        starts |= PackedRows(packed, 0, count, (low,)).unpack()[:, 0]
    if starts[-1] > rows or (np.diff(starts) < 0).any():
        raise ArtifactError(f"starts of codes do not ascend from 0 to {rows} at most")
    return starts


def _low_bits(count: int, rows: int) -> int:
    """As many as make the other bits cost two or three for each number."""
    return max((rows // count).bit_length() - 1, 0)


def _low_bytes(count: int, rows: int) -> int:
    return -(-count * _low_bits(count, rows) // 8)


def _high_bytes(count: int, rows: int) -> int:
    return -(-(count + (rows >> _low_bits(count, rows))) // 8)
