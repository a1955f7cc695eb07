"""Hashes and what belongs to them, as static functions are built of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from saec.errors import KeysError
from saec.keys.static_function import checked_hashes

__all__ = [
    "UNEVEN",
    "KeyedValues",
    "checked_fingerprint",
    "checked_values",
]

_AT_ONCE = 1 << 20  # values that are checked together
UNEVEN = "hashes are not evenly distributed; take them from saec.hash_keys"


@dataclass(frozen=True, eq=False)
class KeyedValues:
    """Hashes and what belongs to them.

    Args:
        hashes: (n,) uint64, all different; see :func:`saec.hash_keys`.
        values: (n,) uint64, each below ``2**value_bits``, or below ``2**lengths[i]``.
        lengths: (n,) uint8, the bits of each value; None if all have ``value_bits``.
        value_bits: 0 to 64, of the longest value.
        positions: (n,) of the keys as they were given, for errors; None for 0, 1, ....
    """

    hashes: NDArray[np.uint64]
    values: NDArray[np.uint64]
    lengths: NDArray[np.uint8] | None
    value_bits: int
    positions: NDArray[np.integer] | None = None

    def __len__(self) -> int:
        return len(self.hashes)

    @property
    def string_bits(self) -> int:
        """Bits of all values."""
        if self.lengths is None:
            return len(self) * self.value_bits
        return int(self.lengths.sum(dtype=np.int64))

    def refuse_equal_hashes(self) -> None:
        """Raise KeysError if two hashes are equal."""
        order = np.argsort(self.hashes, kind="stable")
        equal = np.flatnonzero(self.hashes[order[1:]] == self.hashes[order[:-1]])
        if len(equal):
            first, second = order[equal[0] : equal[0] + 2]
            raise self.same_hash(int(first), int(second))

    def same_hash(self, first: int, second: int) -> KeysError:
        """The error for two keys of equal hashes; it names their positions."""
        value = int(self.hashes[first])
        if self.positions is not None:
            first, second = int(self.positions[first]), int(self.positions[second])
        return KeysError(
            f"keys at positions {min(first, second)} and {max(first, second)} have the same hash "
            f"{value:#018x}: they are equal, or else another seed for saec.hash_keys tells them "
            "apart"
        )


def checked_values(
    hashes: ArrayLike, values: ArrayLike, bits: int | ArrayLike, longest: int | None = None
) -> KeyedValues:
    """Hashes, values and bits as given by a caller.

    Raises:
        KeysError: they are of another kind, differ in length, or a value needs more bits.
    """
    asked = checked_hashes(hashes)
    array = np.asarray(values)
    if array.shape != asked.shape or (array.dtype.kind not in "iu" and array.size):
        raise KeysError(
            f"values must be {len(asked)} integers as hashes are, not {array.dtype} {array.shape}"
        )
    if array.dtype.kind == "i" and array.size and int(array.min()) < 0:
        at = int(array.argmin())
        raise KeysError(f"value {int(array[at])} at position {at} is negative")
    plain = np.ascontiguousarray(array, dtype=np.uint64)
    lengths, value_bits = _checked_bits(bits, len(asked))
    widths = np.broadcast_to(value_bits if lengths is None else lengths, plain.shape)
    long = _too_long(plain, widths)
    if long is not None:
        raise KeysError(
            f"value {int(plain[long])} at position {long} needs over {int(widths[long])} bits"
        )
    return KeyedValues(asked, plain, lengths, value_bits if longest is None else longest)


def _too_long(values: NDArray[np.uint64], lengths: NDArray[np.integer]) -> int | None:
    """The first value with more bits than its own of ``lengths``."""
    for start in range(0, len(values), _AT_ONCE):  # of all values, copies would take gigabytes
        own = values[start : start + _AT_ONCE]
        limit = lengths[start : start + _AT_ONCE].astype(np.uint64)
        # A shift by 64 is not defined.
        beyond = (own >> limit % np.uint64(64) != 0) & (limit < 64)
        if beyond.any():
            return start + int(beyond.argmax())
    return None


def _checked_bits(bits: int | ArrayLike, count: int) -> tuple[NDArray[np.uint8] | None, int]:
    if isinstance(bits, int | np.integer) and not isinstance(bits, bool):
        if not 0 <= bits <= 64:
            raise KeysError(f"bits {bits} are outside 0..64")
        return None, int(bits)
    array = np.asarray(bits)
    if array.shape != (count,) or (array.dtype.kind not in "iu" and count):
        raise KeysError(f"bits must be one integer or {count}, not {array.dtype} {array.shape}")
    if count and not 0 <= int(array.min()) <= int(array.max()) <= 64:
        at = int(np.flatnonzero((array < 0) | (array > 64))[0])
        raise KeysError(f"bits {int(array[at])} at position {at} are outside 0..64")
    longest = int(array.max()) if count else 0
    return np.ascontiguousarray(array, dtype=np.uint8), longest


def checked_fingerprint(bits: int, name: str = "fingerprint_bits") -> int:
    """``bits``; raises KeysError if they are not in 0..64."""
    if isinstance(bits, bool) or not isinstance(bits, int | np.integer) or not 0 <= bits <= 64:
        raise KeysError(f"{name} must be an integer from 0 to 64, not {bits!r}")
    return int(bits)
