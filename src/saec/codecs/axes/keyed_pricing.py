"""Bits and losses of the classes of a field with keys, for a given price per bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saec.clustering.rowmap import RowMap
from saec.codecs.axes.candidates import TierRows
from saec.codecs.axes.code_lengths import code_lengths
from saec.codecs.axes.coded_class import CodedClass, KeyedClass
from saec.codecs.axes.keyed_choice import (
    FUNCTION_FACTOR,
    KeyedChoice,
    PricedKeys,
    planned_bytes,
)
from saec.codecs.axes.keyed_class import ClassCoder, class_coder
from saec.codecs.axes.principal_axes import Frame
from saec.codecs.axes.symbols import table_coder
from saec.format.keyed_layout import LONG_STRINGS, SHORT_STRINGS, strings_of
from saec.keys.windows import window_shape
from saec.streaming.strata import Placing
from saec.tables.field import Field

__all__ = ["Coder", "Pricing"]

Floats = NDArray[np.float64]

# A row is stored if that saves at least this many times the price for each of its bits.
_GAINS = (2.2, 1.7, 1.35, 1.1, 0.9, 0.72, 0.55, 0.4)


# Makes the coder of a class of rows, the nats of each axis, the most axes to store, and the price
# of a bit; None if no row is worth its bits.
Coder = Callable[[TierRows, Floats, int, float], ClassCoder | None]


@dataclass(frozen=True, eq=False)
class Pricing:
    """A field whose options are priced.

    unknown: weighted share of lookups whose key was never seen; room: the largest share of the code
    space that codewords may take.
    """

    field: Field
    frame: Frame
    placing: Placing
    row_map: RowMap
    classes: tuple[KeyedClass, ...]
    unknown: float
    room: float
    coder: Coder = class_coder

    def at(self, price: float) -> Iterator[PricedKeys]:
        """What is stored, and what it loses, for each option at ``price``."""
        axes = self._axes(price)
        found = [self.coder(own.rows, own.nats.of_codes, axes, price) for own in self.classes]
        if self.room < 1:  # every key is stored
            found = [coder or _marker(own) for coder, own in zip(found, self.classes, strict=True)]
        # Nats per bit that storing a row must save; None: every row is stored.
        gains = [gain * price for gain in _GAINS] if self.room == 1 else [None]
        pairs = zip(found, self.classes, strict=True)
        first = [CodedClass.of(coder, own, price) for coder, own in pairs]
        # Coded again with codeword lengths that all classes share, which are better estimates than
        # those of one class.
        least = None if gains[0] is None else price
        rough = self._rooted([one.keeping(least) for one in first], price)
        again = [coded.coded_again(price) for coded in rough]
        before: list[CodedClass] = []
        for gain in gains:
            kept = [one.keeping(gain) for one in again]
            if not _same_rows(kept, before):  # otherwise the option is the one before
                yield self._priced(self._rooted(kept, price), gain, price)
            before = kept

    def _axes(self, price: float) -> int:
        """The number of leading axes that are worth the bits of their vectors."""
        spread: Floats = np.sum([own.spread for own in self.classes], axis=0)
        worth = spread >= price * 8 * self.field.dim * self.frame.stored.itemsize
        return len(worth) if worth.all() else int(np.argmin(worth))

    def _rooted(self, kept: list[CodedClass], price: float) -> list[CodedClass]:
        """The classes with new codeword lengths of their first symbols."""
        unknown = self.unknown + sum(one.unstored_share for one in kept)
        stored = [one for one in kept if one.coder is not None]
        if not stored:
            return kept
        counts = np.concatenate([one.counts for one in stored])
        harms = np.concatenate([one.harms(self.frame.nats) for one in stored])
        lengths = code_lengths(counts, unknown * harms, price * FUNCTION_FACTOR, self.room)
        parts = iter(np.split(lengths, np.cumsum([len(one.counts) for one in stored])[:-1]))
        return [one if one.coder is None else one.with_roots(next(parts)) for one in kept]

    def _priced(
        self, coded: Sequence[CodedClass], least_gain: float | None, price: float
    ) -> PricedKeys:
        """What the choice of coded classes stores and loses."""
        unknown = self.unknown + sum(one.unstored_share for one in coded)
        nats = self.frame.rest + sum(one.nats for one in coded)
        stored = [one for one in coded if one.coder is not None]
        harm = sum(float(one.harms(self.frame.nats) @ 0.5**one.root_lengths) for one in stored)
        bits = sum(one.bits for one in stored)
        keys, longest = _strings(stored, LONG_STRINGS)
        string_bits = LONG_STRINGS
        if window_shape(keys, round(bits), varied=True) is None:
            string_bits = SHORT_STRINGS
            keys, longest = _strings(stored, SHORT_STRINGS)
        by_slopes = sum(one.nats - one.second for one in coded)
        choice = KeyedChoice(
            self.frame,
            self.placing,
            self.row_map,
            tuple(one.coder for one in coded),
            tuple(own.nats for own in self.classes),
            price,
            least_gain,
            string_bits,
            planned_bytes(keys, round(bits), longest),
            self.unknown,
            by_slopes,
        )
        doubts = np.array([one.doubt for one in coded])
        first = sum(one.in_first_order for one in coded)
        return PricedKeys(nats + unknown * harm, by_slopes, first, doubts, choice)


def _same_rows(some: Sequence[CodedClass], others: Sequence[CodedClass]) -> bool:
    """Whether both store the same rows of each class."""
    if len(some) != len(others):
        return False
    return all(np.array_equal(one.kept, two.kept) for one, two in zip(some, others, strict=True))


def _strings(stored: Sequence[CodedClass], string_bits: int) -> tuple[int, int]:
    """The number of strings of all stored rows, and the bits of the longest string."""
    strings = 0.0
    longest = 0
    for one in stored:
        assert one.coder is not None, "a class that is stored has a coder"
        parts = [int(coder.lengths.max()) for coder in one.coder.coders]
        plan = strings_of(parts, string_bits)
        strings += float(one.counts.sum()) * len(plan)
        longest = max(longest, *(sum(parts[part] for part in own) for own in plan))
    return round(strings), longest


def _marker(own: KeyedClass) -> ClassCoder:
    """A coder that stores the keys of a class, but gives all of them the default row."""
    lone = table_coder(np.zeros((1, 0)), np.zeros(1, dtype=np.int64))
    return ClassCoder((lone,), float(own.rows.shares.sum()) / own.rows.count)
