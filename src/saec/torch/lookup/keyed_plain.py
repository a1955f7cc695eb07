"""Rows of keys by tensor operations alone, for devices without a kernel of their own.

It follows docs/format.md step by step: hashes, strings of the static function, codewords, rows.
Numbers of 64 bits without a sign are int64 of the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from saec.bits.codewords import Codewords
from saec.format.keyed_field import KeyedField
from saec.keys.kinds import KeyKind
from saec.keys.layout import unpack_steps

__all__ = ["PlainKeys", "hashed_integers"]

_CHUNK = 1 << 14  # keys at a time: each takes about a kilobyte
_WORDS = 16  # of 56 bits, which a column of a block has at most
_GROUP_BLOCKS, _GROUP_BYTES = 32, 72
_LOWEST = -(1 << 63)
_STEP = 0x9E3779B97F4A7C15
_MIX = ((33, 33, 33), (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53))
_SCRAMBLE = ((30, 27, 31), (0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
# Of XXH3: bytes 8 to 15 of its secret, exclusive or bytes 16 to 23; the factor of its last steps.
_XXH3_SECRET, _XXH3_FACTOR = 0xC73AB174C5ECD5A2, 0x9FB21C651E98DF25
_SWAPS = (
    (1, 0x5555555555555555),
    (2, 0x3333333333333333),
    (4, 0x0F0F0F0F0F0F0F0F),
    (8, 0x00FF00FF00FF00FF),
    (16, 0x0000FFFF0000FFFF),
)


class PlainKeys:
    """What the rows of a field are read from on a ``device``, by plain operations."""

    def __init__(self, field: KeyedField, device: torch.device) -> None:
        self._kind, self._seed = field.key_kind, field.seed
        function = field.function
        # Which has no fingerprints.
        _, self._blocks, _, value_bits, self._spread = function.description
        self._value_bits = value_bits if self._blocks else 0
        self._steps = unpack_steps(function.steps).tolist()
        self._bits = torch.from_numpy(np.array(function.bits)).to(device)
        self._directory = torch.from_numpy(np.array(function.directory)).to(device)
        axes = torch.from_numpy(field.axes.astype(np.float32)).to(device)
        self._axes, self._default = axes[:-1], axes[-1]
        known = len(field.layout.classes) > 0
        self._root = _Code.of(field.strings.root, device) if known else None
        self._classes = tuple(_classes(field, device)) if known else ()

    def rows(self, keys: Tensor) -> Tensor:
        """Rows (m, dim) float32 of keys (m,) int64, or of the hashes of strings."""
        chunks = [self._rows(chunk) for chunk in torch.split(keys, _CHUNK)]
        return torch.cat(chunks) if len(chunks) != 1 else chunks[0]

    def hashes(self, keys: Tensor) -> Tensor:
        """Of keys (m,)."""
        return keys if self._kind == KeyKind.TEXT else hashed_integers(keys, self._seed)

    def _rows(self, keys: Tensor) -> Tensor:
        hashes = self.hashes(keys)
        rows = self._default.expand(len(keys), -1).clone()
        if self._root is None:
            return rows
        strings = self._strings(hashes)
        roots, words = self._root.read(strings)
        roots = torch.where(self._root.known(strings), roots, -1)
        for own in self._classes:
            members = ((roots >= own.first) & (roots < own.last)).nonzero()[:, 0]
            if len(members):
                found = self._class_rows(own, hashes[members], roots[members], words[members])
                rows[members] = found
        return rows

    def _class_rows(self, own: _Class, hashes: Tensor, roots: Tensor, words: Tensor) -> Tensor:
        """Rows of keys of one class, from their first symbols and the bits behind these."""
        coordinates = [own.values[roots - own.first]]
        string = 0
        for part in own.parts:
            if part.string != string:
                string = part.string
                words = self._strings(_scrambled(hashes + _signed(string * _STEP)))
            symbols, words = part.code.read(words)
            coordinates.append(part.values[symbols])
        rows = self._default.expand(len(hashes), -1).clone()
        for coordinate, axis in zip(torch.cat(coordinates, dim=1).T, self._axes, strict=False):
            rows += coordinate[:, None] * axis
        return rows

    def _strings(self, hashes: Tensor) -> Tensor:
        """The strings of hashes, the first bit highest."""
        words = self._run_sums(hashes) if self._spread else _reversed(self._values(hashes))
        return words ^ _scrambled(hashes ^ _signed(_STEP))

    def _run_sums(self, hashes: Tensor) -> Tensor:
        """The strings of a function with windows, before the exclusive or with bits of the hash."""
        bits, lowest = self._blocks.bit_length() - 1, (1 << 48) - 1
        buckets = 8 * (_shifted(hashes, 64 - bits) if bits else torch.zeros_like(hashes))
        entries = _bytes(self._directory, buckets, 8)
        first = 8 * (entries & lowest)
        last = 8 * (_bytes(self._directory, buckets + 8, 8) & lowest)
        starts = last - first - (4 << self._spread) - self._value_bits
        rest = hashes << bits
        start = (_shifted(rest, 32) * starts + ((rest & 0xFFFFFFFF) * starts >> 32)) >> 32
        offsets = _mixed(hashes + (_shifted(entries, 48) + 1) * _signed(_STEP))
        sums = torch.zeros_like(hashes)
        for place in range(4):
            offset = offsets >> 16 * place & ((1 << self._spread) - 1)
            at = first + start + (place << self._spread) + offset
            word = torch.zeros_like(hashes)
            for byte in range(8):
                word |= _bytes(self._bits, (at >> 3) + byte, 1) << (56 - 8 * byte)
            behind = _bytes(self._bits, (at >> 3) + 8, 1)
            sums ^= word << (at & 7) | behind >> (8 - (at & 7))
        return torch.where(starts > 0, sums, 0)

    def _values(self, hashes: Tensor) -> Tensor:
        """What the static function gives for hashes."""
        values = torch.zeros_like(hashes)
        if not self._value_bits:
            return values
        steps = torch.arange(1, _WORDS + 1, device=hashes.device) * _signed(_STEP)
        picked = _shifted(_mixed(hashes[:, None] + steps), 8)
        starts = 8 * self._starts(hashes)
        slots, at = torch.zeros_like(hashes), starts
        shorter: dict[int, Tensor] = {}
        for column, base, width in self._steps:
            shorter[column] = base + (self._words(at) & ((1 << width) - 1))
            at = at + width
        slots = shorter.pop(0, slots)
        firsts = torch.arange(_WORDS, device=hashes.device) * 56
        for column in range(self._value_bits):
            slots = slots - shorter.get(column, 0)
            held = (slots[:, None] - firsts).clamp(0, 56)
            words = self._words(at[:, None] + firsts) & ((1 << held) - 1) & picked
            values |= (_parities(words).sum(dim=1) & 1) << column
            at = at + slots
        return values

    def _starts(self, hashes: Tensor) -> Tensor:
        """Where the hashes' blocks start, as bytes of ``bits``."""
        # Products of 32-bit halves, of which none exceeds 63 bits.
        high, low = _shifted(hashes, 32), hashes & 0xFFFFFFFF
        blocks = (high * self._blocks + (low * self._blocks >> 32)) >> 32
        groups, places = blocks // _GROUP_BLOCKS * _GROUP_BYTES, blocks % _GROUP_BLOCKS
        first = _bytes(self._directory, groups, 8)
        return first + _bytes(self._directory, groups + 8 + 2 * places, 2)

    def _words(self, places: Tensor) -> Tensor:
        """At least 56 bits from bit ``places`` of ``bits`` on."""
        return _shifted(_bytes(self._bits, places >> 3, 8), places & 7)


@dataclass(frozen=True, eq=False)
class _Code:
    """A prefix code: the first word of each codeword, ordered as int64, and what words lead to."""

    starts: Tensor
    symbols: Tensor
    lengths: Tensor
    last_word: int

    @classmethod
    def of(cls, code: Codewords, device: torch.device) -> _Code:
        ordered = (code.starts ^ np.uint64(1 << 63)).view(np.int64)
        return cls(
            torch.from_numpy(ordered).to(device),
            torch.from_numpy(code.order).to(device),
            torch.from_numpy(code.lengths[code.order]).to(device),
            code.end - 1 + _LOWEST,
        )

    def read(self, words: Tensor) -> tuple[Tensor, Tensor]:
        """The symbols that words start with, and the bits behind them; where a word starts with
        no codeword, those of the last one."""
        places = torch.searchsorted(self.starts, (words ^ _LOWEST).contiguous(), right=True) - 1
        return self.symbols[places], words << self.lengths[places]

    def known(self, words: Tensor) -> Tensor:
        """Which words start with a codeword."""
        return (words ^ _LOWEST) <= self.last_word


@dataclass(frozen=True, eq=False)
class _Part:
    """A part after the first of its class: its code, coordinates (symbols, axes) and string."""

    code: _Code
    values: Tensor
    string: int


@dataclass(frozen=True, eq=False)
class _Class:
    """A class: its first symbols are [first, last) of the first code, with coordinates."""

    first: int
    last: int
    values: Tensor
    parts: tuple[_Part, ...]


def _classes(field: KeyedField, device: torch.device) -> Iterator[_Class]:
    layout, strings = field.layout, field.strings
    for number, parts in enumerate(layout.classes):
        at = layout.first_parts[number]
        values = [
            torch.from_numpy(layout.part_values(at + place, part, field.values)).to(device)
            for place, part in enumerate(parts)
        ]
        places = [string for string, own in enumerate(strings.plans[number]) for _ in own]
        codes = [_Code.of(code, device) for code in strings.codes[number]]
        rest = tuple(map(_Part, codes, values[1:], places[1:]))
        first, last = layout.first_roots[number : number + 2]
        yield _Class(first, last, values[0], rest)


def hashed_integers(keys: Tensor, seed: int) -> Tensor:
    """XXH3-64 of keys (m,) int64, as eight bytes each."""
    seed ^= int.from_bytes((seed & 0xFFFFFFFF).to_bytes(4, "little"), "big") << 32
    halves = (keys << 32) | _shifted(keys, 32)
    mixed = halves ^ _signed(_XXH3_SECRET - seed)
    mixed = mixed ^ _rotated(mixed, 49) ^ _rotated(mixed, 24)
    mixed = mixed * _signed(_XXH3_FACTOR)
    mixed = (mixed ^ _shifted(mixed, 35) + 8) * _signed(_XXH3_FACTOR)
    return mixed ^ _shifted(mixed, 28)


def _mixed(words: Tensor, how: tuple[tuple[int, int, int], tuple[int, int]] = _MIX) -> Tensor:
    (first, second, third), (factor, other) = how
    words = (words ^ _shifted(words, first)) * _signed(factor)
    words = (words ^ _shifted(words, second)) * _signed(other)
    return words ^ _shifted(words, third)


def _scrambled(words: Tensor) -> Tensor:
    return _mixed(words, _SCRAMBLE)


def _signed(number: int) -> int:
    """The int64 of the same 64 bits, modulo 2^64."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


def _shifted(words: Tensor, bits: int | Tensor) -> Tensor:
    """To the right, with zeros from the left."""
    return (words >> bits) & ~(torch.full_like(words, -1) << (63 - bits) << 1)


def _rotated(words: Tensor, bits: int) -> Tensor:
    return (words << bits) | _shifted(words, 64 - bits)


def _reversed(words: Tensor) -> Tensor:
    """The 64 bits in reverse order."""
    for shift, mask in _SWAPS:
        words = (_shifted(words, shift) & mask) | (words & mask) << shift
    return words << 32 | _shifted(words, 32)


def _parities(words: Tensor) -> Tensor:
    for shift in (32, 16, 8, 4, 2, 1):
        words = words ^ _shifted(words, shift)
    return words & 1


def _bytes(data: Tensor, places: Tensor, count: int) -> Tensor:
    """Little-endian words of ``count`` bytes from ``places`` of ``data`` on.

    Damaged tables may lead to places outside, which stand for others.
    """
    found = torch.zeros_like(places)
    for byte in range(count):
        at = (places + byte).clamp(0, len(data) - 1)
        found |= data[at].long() << (8 * byte)
    return found
