"""Static functions of many keys, whose strings are sums of four runs of bits."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

import saec._native as _native
from saec.errors import KeysError
from saec.keys.keyed_values import UNEVEN, KeyedValues
from saec.keys.layout import PADDING
from saec.keys.static_function import StaticFunction

__all__ = ["SolvedBuckets", "WindowShape", "window_shape", "windows_for"]

# Fewer keys or bits of one length, and fewer keys of several lengths, take less in dense blocks.
_MANY_KEYS, _MANY_BITS, _MANY_VARIED = 1 << 16, 1 << 19, 1 << 12
# Of strings in a bucket, on average: at most so many bits and keys, and at least so many keys. A
# bucket can be solved with fewer than 2^20 keys, eight standard deviations above the average.
_BUCKET_BITS, _BUCKET_KEYS, _LEAST_KEYS = 1 << 22, (1 << 20) - (1 << 13), 1 << 16
# Bits beside those of strings, in 1024ths; fewer take much longer to solve. And window widths
# for which ends of buckets and systems of equations take about as much.
_EXTRA, _WIDTH = 41, 1.2
_LEAST_SPREAD, _MOST_SPREAD = 7, 16
_SAME_HASH, _UNSOLVED = 1, 2


@dataclass(frozen=True)
class WindowShape:
    """2^``bucket_bits`` buckets with windows of 2^``spread`` places."""

    bucket_bits: int
    spread: int

    @property
    def buckets(self) -> int:
        """How many there are."""
        return 1 << self.bucket_bits

    def most_bytes(self, string_bits: int, longest: int) -> int:
        """Bytes of all tensors for so many bits of strings, of which the longest string has
        ``longest``; at most, unless a bucket needs a second try."""
        bits = string_bits + string_bits * _EXTRA // 1024
        each = (4 << self.spread) + longest + 8
        return (bits + self.buckets * each) // 8 + 8 * (self.buckets + 1) + PADDING


def window_shape(keys: int, string_bits: int, varied: bool) -> WindowShape | None:
    """The shape for so many keys and bits of strings; None for a function of dense blocks.

    varied: whether strings may differ in length. Lookups from dense blocks then take ten times as
    long as from windows.
    """
    many = keys >= _MANY_VARIED if varied else keys >= _MANY_KEYS and string_bits >= _MANY_BITS
    return windows_for(keys, string_bits) if many and string_bits else None


def windows_for(keys: int, string_bits: int) -> WindowShape:
    """The shape for so many keys and bits of strings, of which there is one at least. Few keys take
    a few per cent more bytes than in dense blocks, and lookups a tenth of the time."""
    parts = max(min(string_bits / _BUCKET_BITS, keys / _LEAST_KEYS), keys / _BUCKET_KEYS, 1)
    bucket_bits = math.ceil(math.log2(parts))
    width = _WIDTH * string_bits / math.sqrt(keys * 2**bucket_bits)
    return WindowShape(bucket_bits, min(max(round(math.log2(width)), _LEAST_SPREAD), _MOST_SPREAD))


@dataclass
class SolvedBuckets:
    """Buckets that are solved run by run, in order.

    Args:
        shape: of the function.
        fingerprint_bits, value_bits: of the function.
        threads: 0 for as many as there are.
    """

    shape: WindowShape
    fingerprint_bits: int
    value_bits: int
    threads: int
    sizes: list[NDArray[np.uint64]] = field(default_factory=list)
    seeds: list[NDArray[np.uint16]] = field(default_factory=list)
    bits: list[NDArray[np.uint8]] = field(default_factory=list)

    def add(self, keyed: KeyedValues, first_bucket: int, bucket_count: int) -> None:
        """Solve the next buckets.

        Raises:
            KeysError: two hashes are equal, or a bucket has no solution with any of 16 seeds, each
                with more bits than the one before.
        """
        sizes, seeds = np.zeros(bucket_count, np.uint64), np.zeros(bucket_count, np.uint16)
        failure, first, second, data = _native.solve_buckets(
            keyed.hashes,
            keyed.values,
            np.zeros(0, np.uint8) if keyed.lengths is None else keyed.lengths,
            self.fingerprint_bits,
            self.value_bits,
            self.shape.bucket_bits,
            first_bucket,
            self.shape.spread,
            _EXTRA,
            sizes,
            seeds,
            self.threads,
        )
        if failure == _SAME_HASH:
            raise keyed.same_hash(first, second)
        if failure == _UNSOLVED:
            raise KeysError(UNEVEN)
        self.sizes.append(sizes)
        self.seeds.append(seeds)
        self.bits.append(data)

    def extend(self, other: SolvedBuckets) -> None:
        """Append buckets of the same function that were solved elsewhere.

        Raises:
            KeysError: they are of a function of another shape.
        """
        mine = (self.shape, self.fingerprint_bits, self.value_bits)
        theirs = (other.shape, other.fingerprint_bits, other.value_bits)
        if mine != theirs:
            raise KeysError(f"buckets of {theirs} cannot be joined to those of {mine}")
        self.sizes.extend(other.sizes)
        self.seeds.extend(other.seeds)
        self.bits.extend(other.bits)

    def function(self, keys: int) -> StaticFunction:
        """All buckets together."""
        directory = np.zeros(self.shape.buckets + 1, "<u8")
        np.cumsum(np.concatenate(self.sizes), out=directory[1:])
        directory[:-1] |= np.concatenate(self.seeds).astype(np.uint64) << np.uint64(48)
        bits = np.concatenate([*self.bits, np.zeros(PADDING, np.uint8)])
        numbers = (keys, self.shape.buckets, self.fingerprint_bits, self.value_bits)
        no_steps = np.zeros(0, np.uint8)
        return StaticFunction(*numbers, self.shape.spread, bits, directory.view(np.uint8), no_steps)
