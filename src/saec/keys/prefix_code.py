"""Prefix codes: frequent symbols get short codewords (Huffman, canonical)."""

from __future__ import annotations

import functools
import heapq
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saec.bits.codewords import reversed_bits
from saec.errors import ArtifactError

__all__ = ["PrefixCode", "code_lengths"]

_LONGEST = 32  # bits of a codeword
_TABLE_BITS = 12  # first bits of a word by which symbols are found at once; the table takes 20 KB


def code_lengths(counts: Sequence[int]) -> list[int]:
    """Codeword bits for symbols that occur so often; all at least once. One symbol needs no bits.

    Huffman's code. Where a codeword would be longer than 32 bits, counts are halved until none is.
    """
    numbers = [int(count) for count in counts]
    while max(lengths := _huffman(numbers), default=0) > _LONGEST:
        numbers = [(number + 1) // 2 for number in numbers]
    return lengths


def _huffman(counts: list[int]) -> list[int]:
    heap: list[tuple[int, int]] = [(count, leaf) for leaf, count in enumerate(counts)]
    heapq.heapify(heap)
    parent = [0] * max(2 * len(counts) - 1, 0)
    for node in range(len(counts), len(parent)):
        (one, a), (other, b) = heapq.heappop(heap), heapq.heappop(heap)
        parent[a] = parent[b] = node
        heapq.heappush(heap, (one + other, node))
    depth = [0] * len(parent)
    for node in range(len(parent) - 2, -1, -1):
        depth[node] = depth[parent[node]] + 1
    return depth[: len(counts)]


@dataclass(frozen=True, eq=False)
class PrefixCode:
    """Symbols in order of their codewords, and how many codewords there are of each length.

    Codewords are canonical: shorter ones first, each the one before it plus one, filled up with
    zeros. The first bit of a codeword is the lowest of the word that :meth:`codewords` gives.

    Args:
        symbols: (m,) uint32, m at least 1.
        counts: (l + 1,) the number of codewords of 0 to l bits, l at most 32.

    Raises:
        ArtifactError: counts do not add up to m, or are more than their lengths allow.
    """

    symbols: NDArray[np.uint32]
    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.counts) <= _LONGEST + 1 or sum(self.counts) != len(self.symbols):
            raise ArtifactError(
                f"prefix code: {len(self.symbols)} symbols have codewords of {self.counts}"
            )
        room = sum(count << (_LONGEST - bits) for bits, count in enumerate(self.counts))
        if not self.symbols.size or room > 1 << _LONGEST:
            raise ArtifactError(f"prefix code: no code has codewords of {self.counts}")

    @classmethod
    def of(cls, symbols: NDArray[np.uint32], occurrences: NDArray[np.int64]) -> PrefixCode:
        """The best code for symbols (m,) that occur so often (m,)."""
        lengths = np.array(code_lengths(occurrences.tolist()), np.int64)
        order = np.lexsort((symbols, lengths))
        return cls(symbols[order], tuple(np.bincount(lengths).tolist()))

    @property
    def longest(self) -> int:
        """Bits of the longest codeword."""
        return len(self.counts) - 1

    @property
    def lengths(self) -> NDArray[np.uint8]:
        """Bits of each symbol's codeword, in the order of :attr:`symbols`."""
        return np.repeat(np.arange(len(self.counts), dtype=np.uint8), self.counts)

    def codewords(self) -> NDArray[np.uint64]:
        """Codewords of symbols as they are stored, first bit lowest, in the order of symbols."""
        aligned = self._aligned()
        return _reversed(aligned).astype(np.uint64)

    def _aligned(self) -> NDArray[np.uint32]:
        """Codewords with their first bit highest, of 32."""
        steps = (1 << (_LONGEST - self.lengths.astype(np.int64))).tolist()
        return np.array([0, *itertools.accumulate(steps[:-1])], np.uint64).astype(np.uint32)

    def decode(self, words: NDArray[np.uint64]) -> NDArray[np.uint32]:
        """The symbols whose codewords ``words`` (n,) start with; some symbol where none fits."""
        if self.longest == 0:
            return np.full(len(words), self.symbols[0], np.uint32)
        bits = min(self.longest, _TABLE_BITS)
        if len(words) < 2**bits:
            return self._search(words.astype(np.uint32))
        heads = (words & np.uint64(2**bits - 1)).astype(np.intp)
        symbols = self._table[heads]
        if self.longest > bits:
            longer = np.flatnonzero(self._beyond[heads])
            symbols[longer] = self._search(words[longer].astype(np.uint32))
        return symbols

    @functools.cached_property
    def _table(self) -> NDArray[np.uint32]:
        """The symbol for each value of the first bits of a word, where these are enough."""
        return self._search(np.arange(2 ** min(self.longest, _TABLE_BITS), dtype=np.uint32))

    @functools.cached_property
    def _beyond(self) -> NDArray[np.bool_]:
        """Which first bits of a word are not enough, as a codeword that they start is longer."""
        heads = np.arange(2**_TABLE_BITS, dtype=np.uint32)
        ends = _reversed(heads) | np.uint32(2 ** (_LONGEST - _TABLE_BITS) - 1)
        beyond: NDArray[np.bool_] = self._places(ends) >= sum(self.counts[: _TABLE_BITS + 1])
        return beyond

    def _search(self, words: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """As :meth:`decode`, by the first codeword of each length."""
        symbols: NDArray[np.uint32] = self.symbols[self._places(_reversed(words))]
        return symbols

    def _places(self, wanted: NDArray[np.uint32]) -> NDArray[np.int64]:
        """Places of codewords that start words given with their first bit highest."""
        starts, firsts, used = self._lengths_in_use
        kind = np.searchsorted(starts, wanted, side="right") - 1
        within = (wanted - starts[kind]).astype(np.int64) >> (_LONGEST - used[kind])
        places: NDArray[np.int64] = np.minimum(firsts[kind] + within, len(self.symbols) - 1)
        return places

    @functools.cached_property
    def _lengths_in_use(self) -> tuple[NDArray[np.uint32], NDArray[np.int64], NDArray[np.int64]]:
        """Of each length that codewords have: the first codeword, its place, and the length."""
        firsts = np.concatenate([[0], np.cumsum(self.counts)])[:-1]
        used = np.flatnonzero(self.counts)
        return self._aligned()[firsts[used]], firsts[used], used


def _reversed(words: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Bits in the opposite order."""
    return (reversed_bits(words.astype(np.uint64)) >> np.uint64(32)).astype(np.uint32)
