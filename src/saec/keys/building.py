"""Building static functions, at once or from a stream of keys in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

import saec._native as _native
from saec.errors import KeysError
from saec.keys.layout import PADDING, LengthCensus, directory_of, pack_steps
from saec.keys.static_function import StaticFunction, checked_hashes, empty_bits

__all__ = [
    "RANGES",
    "KeyedValues",
    "SolvedBlocks",
    "blocks_for",
    "build_function",
    "checked_fingerprint",
    "checked_values",
    "nothing_stored",
    "refuse_equal_hashes",
    "same_hash",
    "solve_in_memory",
]

RANGES = 256  # of hashes, which can be solved one by one if there are many keys
_MANY_KEYS = 1 << 20
_BLOCK_BITS, _VARIED_BITS = 1200, 3000  # of strings in a block, of one and of several lengths,
_LEAST_KEYS, _MOST_KEYS = 96, 256  # but at least and at most so many keys on average

_SAME_HASH, _TOO_MANY = 1, 2


@dataclass(frozen=True, eq=False)
class KeyedValues:
    """Hashes and what belongs to them.

    Args:
        hashes: (n,) uint64, all different; see :func:`saec.hash_keys`.
        values: (n,) uint64, each below ``2**value_bits``, or below ``2**lengths[i]``.
        lengths: (n,) uint8, the bits of each value; None if all have ``value_bits``.
        value_bits: 0 to 64, of the longest value.
    """

    hashes: NDArray[np.uint64]
    values: NDArray[np.uint64]
    lengths: NDArray[np.uint8] | None
    value_bits: int

    def __len__(self) -> int:
        return len(self.hashes)


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
    limit = np.asarray(value_bits if lengths is None else lengths, np.uint64)
    whole, rest = limit // np.uint64(64), limit % np.uint64(64)  # a shift by 64 is not defined
    beyond = (plain >> rest != 0) & (whole == 0)
    if beyond.any():
        at = int(beyond.argmax())
        width = value_bits if lengths is None else int(lengths[at])
        raise KeysError(f"value {int(plain[at])} at position {at} needs over {width} bits")
    return KeyedValues(asked, plain, lengths, value_bits if longest is None else longest)


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


def build_function(
    hashes: ArrayLike,
    values: ArrayLike,
    bits: int | ArrayLike,
    *,
    fingerprint_bits: int = 0,
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
        threads: 0 for as many as there are.

    Raises:
        KeysError: two hashes are equal (names both positions), hashes are not evenly distributed,
            a value needs more bits than it has, or an argument is of another kind.
    """
    keyed = checked_values(hashes, values, bits)
    return solve_in_memory(keyed, checked_fingerprint(fingerprint_bits), threads)


def solve_in_memory(keyed: KeyedValues, fingerprint_bits: int, threads: int) -> StaticFunction:
    """A function of checked values."""
    total = _string_bits(keyed, fingerprint_bits)
    blocks = blocks_for(len(keyed), total, keyed.lengths is not None)
    if not blocks:
        refuse_equal_hashes(keyed.hashes)
        return nothing_stored(len(keyed), fingerprint_bits, keyed.value_bits)
    census = LengthCensus(blocks, fingerprint_bits, keyed.value_bits)
    census.add(keyed.hashes, keyed.lengths, 0, blocks)
    parts = SolvedBlocks(census, threads)
    parts.add(keyed, 0, blocks)
    return parts.function(len(keyed))


def _string_bits(keyed: KeyedValues, fingerprint_bits: int) -> int:
    if keyed.lengths is None:
        return len(keyed) * (fingerprint_bits + keyed.value_bits)
    return len(keyed) * fingerprint_bits + int(keyed.lengths.sum(dtype=np.int64))


def blocks_for(keys: int, string_bits: int, varied: bool) -> int:
    """Number of blocks for so many keys with so many bits of strings; 0 without any bits."""
    if not string_bits:
        return 0
    wanted = _VARIED_BITS if varied else _BLOCK_BITS
    mean = min(max(wanted * keys / string_bits, _LEAST_KEYS), _MOST_KEYS)
    if keys > _MANY_KEYS:
        return round(keys / mean / RANGES) * RANGES
    return max(1, round(keys / mean))


def nothing_stored(keys: int, fingerprint_bits: int, value_bits: int) -> StaticFunction:
    """A function of no bits: without keys, or with strings of no bits."""
    no_bytes = np.zeros(0, np.uint8)
    steps = no_bytes
    if fingerprint_bits + value_bits:
        steps = pack_steps(np.zeros((1, 3), np.uint32))
    return StaticFunction(keys, 0, fingerprint_bits, value_bits, empty_bits(), no_bytes, steps)


def refuse_equal_hashes(
    hashes: NDArray[np.uint64], positions: NDArray[np.uint64] | None = None
) -> None:
    """Raise KeysError if two of them are equal; ``positions`` are the hashes' own, if given."""
    order = np.argsort(hashes, kind="stable")
    equal = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]])
    if len(equal):
        pair = order[equal[0] : equal[0] + 2]
        first, second = pair if positions is None else np.sort(positions[pair])
        raise same_hash(int(hashes[pair[0]]), int(first), int(second))


def same_hash(value: int, first: int, second: int) -> KeysError:
    """The error for equal hashes; positions are in the order in which keys were given."""
    return KeysError(
        f"keys at positions {first} and {second} have the same hash {value:#018x}: they are "
        "equal, or else another seed for saec.hash_keys tells them apart"
    )


@dataclass
class SolvedBlocks:
    """Blocks that are solved run by run, in order, with the steps that a census has chosen."""

    census: LengthCensus
    threads: int
    sizes: list[NDArray[np.uint32]] = field(default_factory=list)
    bits: list[NDArray[np.uint8]] = field(default_factory=list)
    steps: NDArray[np.uint32] = field(init=False)

    def __post_init__(self) -> None:
        self.steps = self.census.steps()

    def add(
        self,
        keyed: KeyedValues,
        first_block: int,
        block_count: int,
        positions: NDArray[np.uint64] | None = None,
    ) -> None:
        """Solve the next blocks; ``positions`` are the keys' own, for errors."""
        lengths = keyed.lengths
        if lengths is not None and not self.census.fingerprint_bits and not lengths.all():
            refuse_equal_hashes(keyed.hashes, positions)  # equations have no keys without bits
        sizes = np.zeros(block_count, np.uint32)
        no_lengths = np.zeros(0, np.uint8)
        failure, first, second, data = _native.solve_blocks(
            keyed.hashes,
            keyed.values,
            no_lengths if lengths is None else lengths,
            self.census.fingerprint_bits,
            self.census.value_bits,
            self.census.blocks,
            first_block,
            self.steps,
            sizes,
            self.threads,
        )
        if failure == _SAME_HASH:
            value, pair = int(keyed.hashes[first]), (first, second)
            if positions is not None:
                pair = (int(positions[first]), int(positions[second]))
            raise same_hash(value, *sorted(pair))
        if failure == _TOO_MANY:
            raise KeysError(_UNEVEN)
        self.sizes.append(sizes)
        self.bits.append(data)

    def extend(self, other: SolvedBlocks) -> None:
        """Append blocks that were solved elsewhere, with the steps of the same census.

        Raises:
            KeysError: the steps differ.
        """
        if not np.array_equal(self.steps, other.steps):
            raise KeysError("blocks to be joined were solved with the steps of another census")
        self.sizes.extend(other.sizes)
        self.bits.extend(other.bits)

    def function(self, keys: int) -> StaticFunction:
        """All blocks together."""
        directory = directory_of(np.concatenate(self.sizes))
        if directory is None:
            raise KeysError(_UNEVEN)
        bits = np.concatenate([*self.bits, np.zeros(PADDING, np.uint8)])
        census = self.census
        numbers = (keys, census.blocks, census.fingerprint_bits, census.value_bits)
        return StaticFunction(*numbers, bits, directory, pack_steps(self.steps))


_UNEVEN = "hashes are not evenly distributed; take them from saec.hash_keys"
