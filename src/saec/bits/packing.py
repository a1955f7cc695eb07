"""Codes packed without gaps, read in place: lowest bit first, little-endian."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

import saec._native as _native
from saec.errors import ArtifactError, IdError, array_of

__all__ = ["PackedCodes", "PackedRows", "bits_for", "check_ids", "packed_bytes", "whole_ids"]


def bits_for(clusters: int) -> int:
    """Width in bits of codes that distinguish ``clusters`` clusters; at least 1."""
    return max(1, (clusters - 1).bit_length())


def packed_bytes(count: int, row_bits: int) -> int:
    """Bytes of ``count`` rows of ``row_bits`` bits, and seven more that let a reader overshoot."""
    return _native.packed_bytes(count, row_bits)


def whole_ids(
    ids: ArrayLike, place: str, beyond: str = "is too large for any table"
) -> NDArray[np.integer]:
    """``ids`` as contiguous int32 or int64; raises IdError if they are not integers.

    ``beyond`` is the end of the error message for an id beyond int64.
    """
    array = np.asarray(array_of(ids, f"{place}: ids", IdError))
    if array.size == 0:
        return np.zeros(array.shape, dtype=np.int64)
    if array.dtype.kind not in "iu":
        raise IdError(f"{place}: ids must be integers, not {array.dtype}")
    if array.dtype == np.uint64 and int(array.max()) >= 2**63:
        raise IdError(f"{place}: id {int(array.max())} {beyond}")
    wide = array.dtype != np.int32
    # Not ascontiguousarray: it adds a dimension to a single id, and keeps unaligned addresses.
    return np.require(array, np.int64 if wide else np.int32, ["C", "A"])


def check_ids(ids: ArrayLike, vocab_size: int, place: str) -> NDArray[np.int64]:
    """Return ``ids`` as contiguous int64 after checking that each lies in [0, vocab_size).

    Raises:
        IdError: an id is outside, or not an integer; names the id, the limit and ``place``.
    """
    array = whole_ids(ids, place, f"is outside [0, {vocab_size})").astype(np.int64, copy=False)
    flat = array.reshape(-1)
    bad = _native.first_outside(flat, vocab_size)
    if bad < flat.size:
        raise IdError(
            f"{place}: id {int(flat[bad])} at position {bad} is outside [0, {vocab_size})"
        )
    return array


@dataclass(frozen=True, eq=False)
class PackedRows:
    """``count`` rows of codes in ``data`` from ``first_byte`` on.

    A row is its parts' codes one after the other, ``widths[j]`` bits for part j; a part without
    bits has code 0 everywhere. Seven arbitrary bytes follow the last row, so a buffer may hold
    consecutive rows of several widths, with seven bytes at its very end.

    Args:
        data: (bytes,) uint8, at least ``first_byte + packed_bytes(count, sum(widths))``.

    Raises:
        ArtifactError: a width is outside 0..32, or the rows do not fit into ``data``.
    """

    data: NDArray[np.uint8]
    first_byte: int
    count: int
    widths: tuple[int, ...]

    def __post_init__(self) -> None:
        if any(not 0 <= width <= 32 for width in self.widths):
            raise ArtifactError(f"widths {self.widths} are not all in 0..32")
        wanted = self.first_byte + packed_bytes(self.count, sum(self.widths))
        held = self.data.size if self.data.ndim == 1 and self.data.dtype == np.uint8 else -1
        if self.first_byte < 0 or wanted > held:
            raise ArtifactError(
                f"{self.count} rows of {sum(self.widths)} bits from byte {self.first_byte} on take "
                f"{wanted} bytes, not {self.data.dtype} {self.data.shape}"
            )

    @classmethod
    def pack(cls, codes: Sequence[NDArray[np.integer]], widths: Sequence[int]) -> PackedRows:
        """Pack ``codes``, one array (n,) per part, ``codes[j]`` in [0, 2**widths[j])."""
        count = len(codes[0]) if len(codes) else 0
        data = np.zeros(packed_bytes(count, sum(widths)), dtype=np.uint8)
        cls.pack_into(data, 0, codes, widths)
        return cls(data, 0, count, tuple(widths))

    @staticmethod
    def pack_into(
        data: NDArray[np.uint8],
        first_byte: int,
        codes: Sequence[NDArray[np.integer]],
        widths: Sequence[int],
    ) -> None:
        """Pack ``codes`` as :meth:`pack` does, into ``data`` (bytes,) from ``first_byte`` on.

        No byte before or after these rows changes, so blocks of rows may be written one by one, in
        any order, if each but the last has a multiple of eight rows.

        Raises:
            ValueError: the rows and seven bytes do not fit, or a code needs more bits.
        """
        parts = [np.ascontiguousarray(part, dtype=np.uint32) for part in codes]
        _native.pack_codes(parts, np.array(widths, dtype=np.uint32), data[first_byte:])

    def unpack(self) -> NDArray[np.uint32]:
        """All codes, (count, parts) uint32."""
        codes = np.empty((self.count, len(self.widths)), dtype=np.uint32)
        _native.unpack_codes(self.data[self.first_byte :], self._widths, codes)
        return codes

    def gather(self, ids: NDArray[np.int64]) -> NDArray[np.uint32]:
        """Codes of checked ``ids`` (m,) int64, as (m, parts) uint32."""
        codes = np.empty((len(ids), len(self.widths)), dtype=np.uint32)
        data = self.data[self.first_byte :]
        _native.gather_codes(data, self._widths, self.count, ids, codes)
        return codes

    @property
    def _widths(self) -> NDArray[np.uint32]:
        return np.array(self.widths, dtype=np.uint32)


@dataclass(frozen=True, eq=False)
class PackedCodes:
    """``count`` codes of ``bits`` bits in ``data`` (uint8, ``packed_bytes(count, bits)`` long)."""

    data: NDArray[np.uint8]
    count: int
    bits: int

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 32:
            raise ArtifactError(f"code_bits {self.bits} is outside 1..32")
        wanted = packed_bytes(self.count, self.bits)
        if self.data.shape != (wanted,) or self.data.dtype != np.uint8:
            raise ArtifactError(
                f"{self.count} codes of {self.bits} bits take {wanted} bytes, not "
                f"{self.data.dtype} {self.data.shape}"
            )

    @classmethod
    def pack(cls, codes: NDArray[np.integer], bits: int) -> PackedCodes:
        """Pack ``codes`` (n,), each in [0, 2**bits)."""
        return cls(PackedRows.pack([codes], [bits]).data, len(codes), bits)

    def unpack(self) -> NDArray[np.uint32]:
        """All codes, (count,) uint32."""
        return self._rows.unpack().reshape(-1)

    def gather(self, ids: NDArray[np.int64]) -> NDArray[np.uint32]:
        """Codes of checked ``ids`` (m,) int64, as (m,) uint32."""
        return self._rows.gather(ids).reshape(-1)

    @property
    def _rows(self) -> PackedRows:
        return PackedRows(self.data, 0, self.count, (self.bits,))
