"""Building static functions of keys that are in memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

import saec._native as _native
from saec.errors import KeysError
from saec.keys.keyed_values import (
    UNEVEN,
    KeyedValues,
    checked_fingerprint,
    checked_values,
)
from saec.keys.layout import PADDING, LengthCensus, directory_of, pack_steps
from saec.keys.static_function import StaticFunction, empty_bits
from saec.keys.windows import SolvedBuckets, window_shape, windows_for

__all__ = ["blocks_for", "build_function", "solve_in_memory"]

_BLOCK_BITS, _VARIED_BITS = 1200, 3000  # of strings in a block, of one and of several lengths,
_LEAST_KEYS, _MOST_KEYS = 96, 256  # but at least and at most so many keys on average

_SAME_HASH, _TOO_MANY = 1, 2


def build_function(
    hashes: ArrayLike,
    values: ArrayLike,
    bits: int | ArrayLike,
    *,
    fingerprint_bits: int = 0,
    windows: bool = False,
    threads: int = 0,
) -> StaticFunction:
    """Store a value for each hash.

    The result is the same for any order of the keys and any number of threads.

    Args:
        hashes: (n,) uint64, all different and evenly distributed, as from :func:`saec.hash_keys`.
        values: (n,) integers of at least 0.
        bits: 0 to 64 of each value: one number, or (n,). With several lengths a lookup gives each
            value in its lowest bits; the caller must know how many these are, as in a prefix code.
        fingerprint_bits: c; an unknown hash passes for a known one with probability ``2**-c``.
        windows: whether few keys are in windows, too: faster lookups for a few per cent more bytes.
        threads: 0 for as many as there are.

    Raises:
        KeysError: two hashes are equal (names both positions), hashes are not evenly distributed,
            a value needs more bits than it has, or an argument is of another kind.
    """
    keyed = checked_values(hashes, values, bits)
    return solve_in_memory(keyed, checked_fingerprint(fingerprint_bits), threads, windows)


def solve_in_memory(
    keyed: KeyedValues, fingerprint_bits: int, threads: int, windows: bool = False
) -> StaticFunction:
    """A function of checked values."""
    total = keyed.string_bits + len(keyed) * fingerprint_bits
    if not total:
        keyed.refuse_equal_hashes()
        return _nothing_stored(len(keyed), fingerprint_bits, keyed.value_bits)
    varied = keyed.lengths is not None
    shape = windows_for(len(keyed), total) if windows else window_shape(len(keyed), total, varied)
    if shape is None:
        return _dense(keyed, fingerprint_bits, threads, total)
    parts = SolvedBuckets(shape, fingerprint_bits, keyed.value_bits, threads)
    parts.add(keyed, 0, shape.buckets)
    return parts.function(len(keyed))


def blocks_for(keys: int, string_bits: int, varied: bool) -> int:
    """Number of dense blocks for so many keys with so many bits of strings."""
    if not string_bits:
        return 0
    wanted = _VARIED_BITS if varied else _BLOCK_BITS
    mean = min(max(wanted * keys / string_bits, _LEAST_KEYS), _MOST_KEYS)
    return max(1, round(keys / mean))


def _nothing_stored(keys: int, fingerprint_bits: int, value_bits: int) -> StaticFunction:
    """A function of no bits: without keys, or with strings of no bits."""
    no_bytes = np.zeros(0, np.uint8)
    steps = no_bytes
    if fingerprint_bits + value_bits:
        steps = pack_steps(np.zeros((1, 3), np.uint32))
    return StaticFunction(keys, 0, fingerprint_bits, value_bits, 0, empty_bits(), no_bytes, steps)


def _dense(
    keyed: KeyedValues, fingerprint_bits: int, threads: int, string_bits: int
) -> StaticFunction:
    """A function of dense blocks."""
    lengths = keyed.lengths
    blocks = blocks_for(len(keyed), string_bits, lengths is not None)
    census = LengthCensus(blocks, fingerprint_bits, keyed.value_bits)
    census.add(keyed.hashes, lengths)
    if lengths is not None and not fingerprint_bits and not lengths.all():
        keyed.refuse_equal_hashes()  # equations have no keys without bits
    steps, sizes = census.steps(), np.zeros(blocks, np.uint32)
    failure, first, second, data = _native.solve_blocks(
        keyed.hashes,
        keyed.values,
        np.zeros(0, np.uint8) if lengths is None else lengths,
        fingerprint_bits,
        keyed.value_bits,
        blocks,
        steps,
        sizes,
        threads,
    )
    if failure == _SAME_HASH:
        raise keyed.same_hash(first, second)
    directory = None if failure == _TOO_MANY else directory_of(sizes)
    if directory is None:
        raise KeysError(UNEVEN)
    bits = np.concatenate([data, np.zeros(PADDING, np.uint8)])
    numbers = (len(keyed), blocks, fingerprint_bits, keyed.value_bits, 0)
    return StaticFunction(*numbers, bits, directory, pack_steps(steps))
