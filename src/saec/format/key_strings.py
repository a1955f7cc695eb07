"""Strings of bits that tell a key's class and symbols, and how they are read.

The string of a key is a run of codewords, each from its highest bit on: of its class and first
symbol, then of the symbols of the class's other parts. Codewords that do not fit into one value of
the static function go on in a second one, and so on. Every string is mixed (exclusive or) with bits
that are drawn from the key's hash, so that a key which is not stored reads random bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saec.bits.codewords import Codewords, reversed_bits
from saec.format.keyed_layout import KeyedLayout, strings_of
from saec.keys.building import build_function
from saec.keys.static_function import StaticFunction

__all__ = ["KeyStrings", "ReadSymbols", "Strings", "function_of", "mixed", "string_hashes"]

Words = NDArray[np.uint64]
Symbols = NDArray[np.int64]

_STEP = 0x9E3779B97F4A7C15
_SHIFTS = np.uint64(30), np.uint64(27), np.uint64(31)
_FACTORS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def mixed(words: Words) -> Words:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014) of each word."""
    words = (words ^ (words >> _SHIFTS[0])) * _FACTORS[0]
    words = (words ^ (words >> _SHIFTS[1])) * _FACTORS[1]
    return words ^ (words >> _SHIFTS[2])


def string_hashes(hashes: Words, number: int) -> Words:
    """What the static function is asked for string ``number`` of keys with these ``hashes``."""
    return hashes if number == 0 else mixed(hashes + np.uint64(number * _STEP % 2**64))


def _masks(hashes: Words) -> Words:
    return mixed(hashes ^ np.uint64(_STEP))


def _read_words(function: StaticFunction, hashes: Words) -> Words:
    """The strings of keys as their writer meant them, the first bit highest."""
    return reversed_bits(function.lookup(hashes)) ^ _masks(hashes)


def _take(code: Codewords, words: Words) -> Symbols:
    """The symbol of the codeword that each word starts with; the last one where there is none."""
    return code.order[np.searchsorted(code.starts, words, side="right") - 1]


@dataclass(frozen=True, eq=False)
class Strings:
    """Strings (m,) of one number: what the function is asked for, the bits lowest first,
    lengths."""

    hashes: Words
    values: Words
    lengths: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class ReadSymbols:
    """Keys of a class, by their positions (k,), and the symbols (k,) of each part."""

    number: int
    keys: NDArray[np.int64]
    symbols: list[Symbols]


@dataclass(frozen=True, eq=False)
class KeyStrings:
    """The codes of a layout's parts, from the stored ``lengths`` of their codewords."""

    layout: KeyedLayout
    lengths: NDArray[np.uint8]

    @cached_property
    def root(self) -> Codewords:
        """The code of the symbols of all first parts."""
        return self.layout.root_code(self.lengths)

    @cached_property
    def codes(self) -> tuple[tuple[Codewords, ...], ...]:
        """Of each class the codes of the parts after the first."""
        return tuple(
            tuple(
                Codewords(self.layout.part_lengths(first + 1 + number, part, self.lengths))
                for number, part in enumerate(parts[1:])
            )
            for first, parts in zip(self.layout.first_parts, self.layout.classes, strict=False)
        )

    @cached_property
    def plans(self) -> tuple[tuple[tuple[int, ...], ...], ...]:
        """Of each class the numbers of the parts in each of its strings."""
        root = self.root.lengths
        return tuple(
            strings_of(
                [int(root[first:last].max()), *(int(code.lengths.max()) for code in codes)],
                self.layout.string_bits,
            )
            for first, last, codes in zip(
                self.layout.first_roots, self.layout.first_roots[1:], self.codes, strict=False
            )
        )

    def read(self, hashes: Words, function: StaticFunction) -> Iterator[ReadSymbols]:
        """The symbols of keys that are stored in ``function``, class by class.

        The inverse of :meth:`strings`; a key that is not stored may be in a class, too.
        """
        words = _read_words(function, hashes)
        roots = _take(self.root, words)
        known = words <= np.uint64(self.root.end - 1)
        for number, first in enumerate(self.layout.first_roots[:-1]):
            own = known & (roots >= first) & (roots < self.layout.first_roots[number + 1])
            keys = np.flatnonzero(own)
            symbols = [roots[keys] - first]
            left = words[keys] << self.root.lengths[roots[keys]].astype(np.uint64)
            for place, parts in enumerate(self.plans[number]):
                if place:
                    left = _read_words(function, string_hashes(hashes[keys], place))
                for part in parts if place else parts[1:]:
                    code = self.codes[number][part - 1]
                    symbols.append(_take(code, left))
                    left = left << code.lengths[symbols[-1]].astype(np.uint64)
            yield ReadSymbols(number, keys, symbols)

    def strings(
        self, number: int, symbols: Sequence[NDArray[np.signedinteger[Any]]], hashes: Words
    ) -> list[Strings]:
        """The strings of keys of class ``number``, from the symbols (m,) of its parts."""
        roots = symbols[0] + self.layout.first_roots[number]
        taken = [(self.root, roots), *zip(self.codes[number], symbols[1:], strict=True)]
        result = []
        for place, parts in enumerate(self.plans[number]):
            words = np.zeros(len(hashes), dtype=np.uint64)
            used = np.zeros(len(hashes), dtype=np.uint64)
            for part in parts:
                code, own = taken[part]
                # A shift by 64 is undefined; there only a codeword without bits can follow.
                words |= np.where(used < 64, code.words()[own] >> (used & np.uint64(63)), 0)
                used += code.lengths[own].astype(np.uint64)
            asked = string_hashes(hashes, place)
            kept = np.where(used > 0, ~np.uint64(0) >> (np.uint64(64) - used & np.uint64(63)), 0)
            values = reversed_bits(words ^ _masks(asked)) & kept
            result.append(Strings(asked, values, used.astype(np.uint8)))
        return result


def function_of(strings: Sequence[Strings], windows: bool = False) -> StaticFunction:
    """The static function of all ``strings``; ``windows`` as in
    :func:`~saec.keys.building.build_function`."""
    no_words, no_lengths = np.zeros(0, np.uint64), np.zeros(0, np.uint8)
    return build_function(
        np.concatenate([no_words, *(own.hashes for own in strings)]),
        np.concatenate([no_words, *(own.values for own in strings)]),
        np.concatenate([no_lengths, *(own.lengths for own in strings)]),
        windows=windows,
    )
