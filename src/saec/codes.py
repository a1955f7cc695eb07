"""Codes packed to 1..32 bits without gaps, read in place: lowest bit first, little-endian."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from saec import _native
from saec.errors import ArtifactError, IdError

__all__ = ["PackedCodes", "bits_for", "check_ids", "packed_bytes"]


def bits_for(clusters: int) -> int:
    """Width in bits of codes that tell ``clusters`` clusters apart; at least 1."""
    return max(1, (clusters - 1).bit_length())


def packed_bytes(count: int, bits: int) -> int:
    """Bytes of ``count`` codes of ``bits`` bits, and seven more that let a reader overshoot."""
    return _native.packed_bytes(count, bits)


def check_ids(ids: ArrayLike, vocab_size: int, place: str) -> NDArray[np.int64]:
    """Return ``ids`` as contiguous int64 after checking that each lies in [0, vocab_size).

    Raises:
        IdError: an id is outside, or no integer; names the id, the limit and ``place``.
    """
    array = np.asarray(ids)
    if array.size == 0:
        return np.zeros(array.shape, dtype=np.int64)
    if array.dtype.kind not in "iu":
        raise IdError(f"{place}: ids must be integers, not {array.dtype}")
    if array.dtype == np.uint64 and int(array.max()) >= 2**63:
        raise IdError(f"{place}: id {int(array.max())} is outside [0, {vocab_size})")
    flat = np.ascontiguousarray(array, dtype=np.int64).reshape(-1)
    bad = _native.first_outside(flat, vocab_size)
    if bad < flat.size:
        raise IdError(
            f"{place}: id {int(flat[bad])} at position {bad} is outside [0, {vocab_size})"
        )
    return flat.reshape(array.shape)  # a single id has no shape; ascontiguousarray gives it one


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
        data = np.zeros(packed_bytes(len(codes), bits), dtype=np.uint8)
        _native.pack_codes(np.ascontiguousarray(codes, dtype=np.uint32), bits, data)
        return cls(data, len(codes), bits)

    def unpack(self) -> NDArray[np.uint32]:
        """All codes, (count,) uint32."""
        codes = np.empty(self.count, dtype=np.uint32)
        _native.unpack_codes(self.data, self.bits, codes)
        return codes

    def gather(self, ids: NDArray[np.int64]) -> NDArray[np.uint32]:
        """Codes of checked ``ids`` (m,) int64, as (m,) uint32."""
        codes = np.empty(len(ids), dtype=np.uint32)
        _native.gather_codes(self.data, self.bits, self.count, ids, codes)
        return codes
