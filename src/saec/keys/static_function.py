"""Values of keys, found by the keys' hashes; the keys are not stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

import saec._native as _native
from saec.errors import ArtifactError, KeysError
from saec.keys.layout import PADDING, unpack_steps

__all__ = ["StaticFunction", "checked_hashes"]

_ROLES = ("bits", "directory", "steps")


@dataclass(frozen=True, eq=False)
class StaticFunction:
    """From 64-bit hashes to values of up to 64 bits, in little more than the values' bits.

    A hash that was not stored gets some value; with fingerprints it is recognised as unknown, but
    for one in ``2**fingerprint_bits``. Made by :func:`saec.keys.building.build_function`;
    docs/format.md describes the tensors.

    Args:
        keys: number of keys.
        blocks: into which they are cut; buckets, if there are windows.
        fingerprint_bits: c, 0 to 64.
        value_bits: r, 0 to 64, of the longest value.
        spread: a window has ``2**spread`` places; 0 if blocks are dense.
        bits, directory, steps: uint8, see docs/format.md; mapped ones are read in place.

    Raises:
        ArtifactError: numbers and tensors do not fit each other.
    """

    keys: int
    blocks: int
    fingerprint_bits: int
    value_bits: int
    spread: int
    bits: NDArray[np.uint8]
    directory: NDArray[np.uint8]
    steps: NDArray[np.uint8]
    table: _native.FunctionTable = field(init=False, repr=False)

    def __post_init__(self) -> None:
        numbers = self.description
        if any(type(number) is not int or not 0 <= number < 2**48 for number in numbers):
            raise ArtifactError(f"static function: {numbers} are not whole numbers below 2**48")
        for role, tensor in self.tensors.items():
            if tensor.dtype != np.uint8 or tensor.ndim != 1:
                raise ArtifactError(
                    f"static function: {role} must be uint8 of one dimension, not "
                    f"{tensor.dtype} {tensor.shape}"
                )
        if len(self.steps) % 4:
            raise ArtifactError(f"static function: {len(self.steps)} bytes are no steps of 4 bytes")
        if self.keys and not self.blocks and self.fingerprint_bits + self.value_bits:
            raise ArtifactError(f"static function: {self.keys} keys are in no block")
        try:
            table = _native.function_table(
                np.ascontiguousarray(self.bits),
                np.ascontiguousarray(self.directory),
                self.blocks,
                self.fingerprint_bits,
                self.value_bits,
                unpack_steps(self.steps),
                self.spread,
            )
        except (ValueError, TypeError) as error:
            raise ArtifactError(f"static function: {error}") from error
        object.__setattr__(self, "table", table)

    @classmethod
    def from_tensors(
        cls, description: tuple[int, ...], tensors: Mapping[str, NDArray[np.uint8]]
    ) -> StaticFunction:
        """What :attr:`description` and :attr:`tensors` were taken from.

        Whatever the tensors hold, a lookup reads nothing outside them.

        Raises:
            ArtifactError: they do not fit each other.
        """
        if len(description) != 5:
            raise ArtifactError(f"static function: {description} are not five numbers")
        if set(tensors) != set(_ROLES):
            raise ArtifactError(f"static function: tensors {sorted(tensors)} are not {_ROLES}")
        return cls(*description, *(tensors[role] for role in _ROLES))

    def __reduce__(self) -> tuple[Any, ...]:
        """What is stored; the native table is made anew."""
        return type(self), (*self.description, self.bits, self.directory, self.steps)

    @property
    def description(self) -> tuple[int, int, int, int, int]:
        """Keys, blocks, fingerprint bits, value bits and spread."""
        return self.keys, self.blocks, self.fingerprint_bits, self.value_bits, self.spread

    @property
    def tensors(self) -> dict[str, NDArray[np.uint8]]:
        """All that is stored, flat uint8 arrays by role."""
        return {"bits": self.bits, "directory": self.directory, "steps": self.steps}

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def lookup(self, hashes: ArrayLike, threads: int = 0) -> NDArray[np.uint64]:
        """The values of hashes (n,), as (n,) uint64; arbitrary ones for those not stored.

        Of a value shorter than ``value_bits``, the higher bits are arbitrary.

        Raises:
            KeysError: hashes are not (n,) uint64.
        """
        return self._find(hashes, False, threads)[0]

    def find(
        self, hashes: ArrayLike, threads: int = 0
    ) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
        """The values as :meth:`lookup` gives them, and which hashes have the right fingerprint.

        Without fingerprints all have.
        """
        return self._find(hashes, True, threads)

    def contains(self, hashes: ArrayLike, threads: int = 0) -> NDArray[np.bool_]:
        """(n,) bool: True for stored hashes, and for one in ``2**fingerprint_bits`` others."""
        return self.find(hashes, threads)[1]

    def _find(
        self, hashes: ArrayLike, known: bool, threads: int
    ) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
        asked = checked_hashes(hashes)
        values = np.empty(len(asked), np.uint64)
        fits = np.empty(len(asked) if known else 0, np.bool_)
        self.table.look_up(asked, values, fits, threads)
        return values, fits


def empty_bits() -> NDArray[np.uint8]:
    """The tensor ``bits`` of a function that stores nothing."""
    return np.zeros(PADDING, np.uint8)


def checked_hashes(hashes: ArrayLike) -> NDArray[np.uint64]:
    """``hashes`` as a contiguous array; raises KeysError if they are not (n,) uint64."""
    array = np.asarray(hashes)
    if array.dtype != np.uint64 or array.ndim != 1:
        raise KeysError(
            f"hashes must be uint64 of one dimension, not {array.dtype} {array.shape}; "
            "saec.hash_keys gives such"
        )
    return np.ascontiguousarray(array)
