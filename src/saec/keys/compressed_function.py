"""Symbols of keys, frequent ones in few bits; the keys are not stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from saec.errors import ArtifactError, KeysError
from saec.keys.building import (
    KeyedValues,
    build_function,
    checked_fingerprint,
    refuse_equal_hashes,
    solve_in_memory,
)
from saec.keys.prefix_code import PrefixCode, code_lengths
from saec.keys.static_function import StaticFunction, checked_hashes

__all__ = ["CompressedFunction"]

_MOST_FILTER_BITS = 16
_WIDTHS = (1, 2, 4)  # bytes of a symbol or a count


@dataclass(frozen=True, eq=False)
class CompressedFunction:
    """From 64-bit hashes to symbols, in little more than the symbols' entropy.

    A symbol's codeword in a prefix code is the value of a :class:`StaticFunction` (Genuzio,
    Ottaviano and Vigna 2016). Where one symbol is so frequent that less than a bit for each key is
    enough, a filter of the other keys comes first (Caramel, 2023): keys that are not in it have the
    commonest symbol.

    Args:
        function: hashes to codewords.
        code: codewords to symbols.
        common: the commonest symbol; of no meaning without a filter.
        others: the filter, a function of no values and some fingerprint bits, or None.

    Raises:
        ArtifactError: the parts do not fit each other.
    """

    function: StaticFunction
    code: PrefixCode
    common: int = 0
    others: StaticFunction | None = None

    def __post_init__(self) -> None:
        if self.function.value_bits != self.code.longest:
            raise ArtifactError(
                f"compressed function: values of {self.function.value_bits} bits are no codewords "
                f"of up to {self.code.longest}"
            )
        if self.others is not None and self.others.value_bits:
            raise ArtifactError("compressed function: a filter has no values")
        if type(self.common) is not int or not 0 <= self.common < 2**32:
            raise ArtifactError(f"compressed function: {self.common!r} is no symbol")

    @classmethod
    def build(
        cls,
        hashes: ArrayLike,
        symbols: ArrayLike,
        *,
        fingerprint_bits: int = 0,
        threads: int = 0,
    ) -> CompressedFunction:
        """Store a symbol for each hash.

        Args:
            hashes: (n,) uint64, all different, as :func:`saec.hash_keys` makes them.
            symbols: (n,) integers from 0 to 2**32 - 1.
            fingerprint_bits: c; an unknown hash passes for a known one with probability ``2**-c``.
                With fingerprints there is no filter.
            threads: 0 for as many as there are.

        Raises:
            KeysError: two hashes are equal, or an argument is of another kind.
        """
        asked, array = checked_hashes(hashes), _checked_symbols(symbols)
        bits = checked_fingerprint(fingerprint_bits)
        if len(asked) != len(array):
            raise KeysError(f"there are {len(asked)} hashes and {len(array)} symbols")
        kinds, places, occurrences = np.unique(array, return_inverse=True, return_counts=True)
        if not len(kinds):
            kinds, occurrences = np.zeros(1, np.uint32), np.ones(1, np.int64)
        filter_bits = 0 if bits else _filter_bits(occurrences)
        if not filter_bits:
            code = PrefixCode.of(kinds, occurrences)
            return cls(_coded(asked, array, code, bits, threads), code)
        refuse_equal_hashes(asked)  # of two with the commonest symbol, neither is stored
        common = int(occurrences.argmax())
        rare = places != common
        others = build_function(
            asked[rare],
            np.zeros(int(rare.sum()), np.uint64),
            0,
            fingerprint_bits=filter_bits,
            threads=threads,
        )
        passed = others.contains(asked, threads)
        left = occurrences.copy()
        left[common] = max(int(passed.sum()) - int(rare.sum()), 1)
        code = PrefixCode.of(kinds, left)
        function = _coded(asked[passed], array[passed], code, 0, threads)
        return cls(function, code, int(kinds[common]), others)

    @property
    def description(self) -> tuple[int, ...]:
        """Whole numbers that :meth:`from_tensors` needs beside the tensors."""
        others = (self.common, *self.others.description) if self.others else ()
        return (*self.function.description, *others)

    @property
    def tensors(self) -> dict[str, NDArray[np.uint8]]:
        """All that is stored, flat uint8 arrays by role."""
        counts = _packed(np.array(self.code.counts, np.uint32))
        symbols = _packed(self.code.symbols)
        others = self.others.tensors if self.others else {}
        return {
            **self.function.tensors,
            "code_counts": counts,
            "symbols": symbols,
            **{f"others_{role}": tensor for role, tensor in others.items()},
        }

    @classmethod
    def from_tensors(
        cls, description: tuple[int, ...], tensors: Mapping[str, NDArray[np.uint8]]
    ) -> CompressedFunction:
        """What :attr:`description` and :attr:`tensors` were taken from.

        Raises:
            ArtifactError: they do not fit each other.
        """
        left = dict(tensors)
        if len(description) < 4 or type(description[3]) is not int:
            raise ArtifactError(f"compressed function: {description} are no description")
        counts = _unpacked(left.pop("code_counts", None), "code_counts", description[3] + 1)
        symbols = _unpacked(left.pop("symbols", None), "symbols", int(counts.sum(dtype=np.int64)))
        code = PrefixCode(symbols, tuple(counts.tolist()))
        others = {
            role.removeprefix("others_"): left.pop(role)
            for role in list(left)
            if role.startswith("others_")
        }
        function = StaticFunction.from_tensors(description[:4], left)
        if not others and len(description) == 4:
            return cls(function, code)
        filtered = StaticFunction.from_tensors(description[5:], others)
        return cls(function, code, description[4], filtered)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def lookup(self, hashes: ArrayLike, threads: int = 0) -> NDArray[np.uint32]:
        """The symbols of hashes (n,), as (n,) uint32; some symbol for those not stored.

        Raises:
            KeysError: hashes are not (n,) uint64.
        """
        return self.find(hashes, threads)[0]

    def find(
        self, hashes: ArrayLike, threads: int = 0
    ) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:
        """The symbols, and which hashes have the right fingerprint; all have if there is none."""
        asked = checked_hashes(hashes)
        if self.others is None:
            words, known = self.function.find(asked, threads)
            return self.code.decode(words), known
        symbols = np.full(len(asked), self.common, np.uint32)
        passed = np.flatnonzero(self.others.contains(asked, threads))
        symbols[passed] = self.code.decode(self.function.lookup(asked[passed], threads))
        return symbols, np.ones(len(asked), np.bool_)


def _packed(numbers: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """In 1, 2 or 4 bytes each, as the largest needs."""
    largest = int(numbers.max())
    width = next(bytes_ for bytes_ in _WIDTHS if largest < 256**bytes_)
    return numbers.astype(f"<u{width}").view(np.uint8)


def _unpacked(tensor: NDArray[np.uint8] | None, role: str, count: int) -> NDArray[np.uint32]:
    """``count`` numbers that :func:`_packed` has packed; the tensor's length tells their width."""
    if tensor is None or tensor.dtype != np.uint8 or tensor.ndim != 1:
        raise ArtifactError(f"compressed function: {role} must be uint8 of one dimension")
    for width in _WIDTHS:
        if tensor.size == width * count and count > 0:
            return np.ascontiguousarray(tensor).view(f"<u{width}").astype(np.uint32)
    raise ArtifactError(
        f"compressed function: {role} has {tensor.size} bytes, not 1, 2 or 4 for each of {count}"
    )


def _filter_bits(occurrences: NDArray[np.int64]) -> int:
    """Bits of a filter of all but the commonest symbol's keys that save most; 0 if none do."""
    common = int(occurrences.argmax())
    most, total = int(occurrences[common]), int(occurrences.sum())
    costs = []
    for bits in range(_MOST_FILTER_BITS + 1):
        left = occurrences.copy()
        left[common] = max(most >> bits, 1)
        lengths = np.array(code_lengths(left.tolist()))
        costs.append((total - most) * bits + int((left * lengths).sum()))
    return int(np.argmin(costs))


def _checked_symbols(symbols: ArrayLike) -> NDArray[np.uint32]:
    array = np.asarray(symbols)
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
        raise KeysError(f"symbols must be integers of one dimension, not {array.dtype}")
    if array.size and not 0 <= int(array.min()) <= int(array.max()) < 2**32:
        at = int(np.flatnonzero((array < 0) | (array >= 2**32))[0])
        raise KeysError(f"symbol {int(array[at])} at position {at} is outside [0, 2**32)")
    return array.astype(np.uint32)


def _coded(
    hashes: NDArray[np.uint64],
    symbols: NDArray[np.uint32],
    code: PrefixCode,
    fingerprint_bits: int,
    threads: int,
) -> StaticFunction:
    order = np.argsort(code.symbols)
    place = order[np.searchsorted(code.symbols, symbols, sorter=order)]
    values, lengths = code.codewords()[place], code.lengths[place]
    keyed = KeyedValues(hashes, values, lengths, code.longest)
    return solve_in_memory(keyed, fingerprint_bits, threads)
