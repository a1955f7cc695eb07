"""Bits and losses of the classes of a field with keys, for a given price per bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from saec.clustering.rowmap import RowMap
from saec.codecs.axes.candidates import TierRows
from saec.codecs.axes.code_lengths import code_lengths
from saec.codecs.axes.keyed_choice import (
    FUNCTION_FACTOR,
    KeyedChoice,
    PricedKeys,
    mean_harm,
    planned_bytes,
)
from saec.codecs.axes.keyed_class import ClassCoder, CodedRows, class_coder
from saec.codecs.axes.principal_axes import Frame
from saec.codecs.axes.row_slopes import RowNats
from saec.codecs.axes.symbols import table_coder
from saec.codecs.moments_and_samples import Sample
from saec.codecs.protocol import LEAST_COST
from saec.format.keyed_layout import LONG_STRINGS, SHORT_STRINGS, strings_of
from saec.keys.windows import window_shape
from saec.streaming.strata import Placing
from saec.tables.field import Field

__all__ = ["Coder", "KeyedClass", "Pricing", "keyed_class"]

Floats = NDArray[np.float64]

# A row is stored if that saves at least this many times the price for each of its bits.
_GAINS = (2.2, 1.7, 1.35, 1.1, 0.9, 0.72, 0.55, 0.4)


@dataclass(frozen=True, eq=False)
class KeyedClass:
    """A class of rows, known by a sample of m rows.

    each: rows of the class for each row of the sample; nats: computes the loss of rows; unstored:
    (m,) the loss in nats of each row if it is not stored; second, in_first_order, doubt: (m,) its
    parts and its standard error; spread: (rank,) the loss on each axis if no row is stored.
    """

    rows: TierRows
    each: float
    nats: RowNats
    unstored: Floats
    second: Floats
    in_first_order: Floats
    doubt: Floats
    spread: Floats


# Makes the coder of a class of rows, the nats of each axis, the most axes to store, and the price
# of a bit; None if no row is worth its bits.
Coder = Callable[[TierRows, Floats, int, float], ClassCoder | None]


@dataclass(frozen=True, eq=False)
class Pricing:
    """A field whose options are priced.

    unseen: share of lookups whose key was never seen; room: the largest share of the code space
    that codewords may take.
    """

    field: Field
    frame: Frame
    placing: Placing
    row_map: RowMap
    classes: tuple[KeyedClass, ...]
    unseen: float
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
        first = [_CodedClass.of(coder, own, price) for coder, own in pairs]
        # Coded again with codeword lengths that all classes share, which are better estimates than
        # those of one class.
        least = None if gains[0] is None else price
        rough = self._rooted([one.keeping(least) for one in first], price)
        again = [_CodedClass.of(coded.coder, coded.own, price) for coded in rough]
        before: list[_CodedClass] = []
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

    def _rooted(self, kept: list[_CodedClass], price: float) -> list[_CodedClass]:
        """The classes with new codeword lengths of their first symbols."""
        unknown = self.unseen + sum(one.unstored_share for one in kept)
        stored = [one for one in kept if one.coder is not None]
        if not stored:
            return kept
        counts = np.concatenate([one.counts for one in stored])
        harms = np.concatenate([one.harms(self.frame.nats) for one in stored])
        lengths = code_lengths(counts, unknown * harms, price * FUNCTION_FACTOR, self.room)
        parts = iter(np.split(lengths, np.cumsum([len(one.counts) for one in stored])[:-1]))
        return [one if one.coder is None else one.with_roots(next(parts)) for one in kept]

    def _priced(
        self, coded: Sequence[_CodedClass], least_gain: float | None, price: float
    ) -> PricedKeys:
        """What the choice of coded classes stores and loses."""
        unknown = self.unseen + sum(one.unstored_share for one in coded)
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
            by_slopes,
        )
        doubts = np.array([one.doubt for one in coded])
        first = sum(one.in_first_order for one in coded)
        return PricedKeys(nats + unknown * harm, by_slopes, first, doubts, choice)


def _same_rows(some: Sequence[_CodedClass], others: Sequence[_CodedClass]) -> bool:
    """Whether both store the same rows of each class."""
    if len(some) != len(others):
        return False
    return all(np.array_equal(one.kept, two.kept) for one, two in zip(some, others, strict=True))


def _strings(stored: Sequence[_CodedClass], string_bits: int) -> tuple[int, int]:
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


@dataclass(frozen=True, eq=False)
class _CodedClass:
    """A class as coded, and which rows (m,) of its sample are stored.

    coder and coded are None if no row of the class is stored.
    """

    own: KeyedClass
    coder: ClassCoder | None
    coded: CodedRows | None
    kept: NDArray[np.bool_]

    @classmethod
    def of(cls, coder: ClassCoder | None, own: KeyedClass, price: float) -> _CodedClass:
        coded = None if coder is None else coder.code(own.rows.coordinates, own.nats, price)
        return cls(own, coder, coded, np.zeros(len(own.unstored), dtype=bool))

    def keeping(self, least_gain: float | None) -> _CodedClass:
        """The class with the rows that save ``least_gain`` nats per bit; None: with all rows."""
        if self.coded is None:
            return self
        if least_gain is None:
            return replace(self, kept=np.ones(len(self.kept), dtype=bool))
        kept = self._saved > least_gain * FUNCTION_FACTOR * self.own.each * self._row_bits
        if not kept.any():
            return _CodedClass(self.own, None, None, kept)
        return replace(self, kept=kept)

    @property
    def root_lengths(self) -> NDArray[np.int64]:
        """The codeword length of each first symbol, (symbols,) in bits."""
        assert self.coder is not None
        return self.coder.coders[0].lengths

    @cached_property
    def _saved(self) -> Floats:
        """Nats that storing each row saves, (m,)."""
        assert self.coded is not None
        return self.own.unstored - self.own.rows.shares * self.coded.lost

    @cached_property
    def _row_bits(self) -> Floats:
        assert self.coded is not None
        return self.root_lengths[self.coded.first] + self.coded.later_bits

    @property
    def bits(self) -> float:
        """Bits of the strings of all stored rows of the class."""
        return self.own.each * float(self._row_bits[self.kept].sum())

    @property
    def nats(self) -> float:
        """The loss in nats of all rows: at least a share of its second-order part."""
        lost = self._sum(self.own.unstored, None if self.coded is None else self.coded.lost)
        return max(lost, LEAST_COST * self.second)

    @property
    def second(self) -> float:
        """The second-order nats of all rows."""
        return self._sum(self.own.second, None if self.coded is None else self.coded.second)

    @property
    def in_first_order(self) -> float:
        """The expected first-order nats of all rows."""
        coded = None if self.coded is None else self.coded.in_first_order
        return self._sum(self.own.in_first_order, coded)

    @property
    def doubt(self) -> float:
        """The standard error of :attr:`in_first_order`, at most: axes may err in the same way."""
        return self._sum(self.own.doubt, None if self.coded is None else self.coded.doubt)

    def _sum(self, unstored: Floats, coded: Floats | None) -> float:
        """Sum over rows: of ``unstored`` (m,), or ``coded`` (m,), per occurrence."""
        stored = unstored if coded is None else self.own.rows.shares * coded
        return float(np.where(self.kept, stored, unstored).sum())

    @property
    def unstored_share(self) -> float:
        """The share of all occurrences that belongs to rows that are not stored."""
        return float(self.own.rows.shares[~self.kept].sum())

    @cached_property
    def _used(self) -> NDArray[np.int64]:
        """The number of stored rows of the sample with each first symbol, (symbols,)."""
        assert self.coded is not None
        return np.bincount(self.coded.first[self.kept], minlength=len(self.root_lengths))

    @cached_property
    def counts(self) -> Floats:
        """The number of stored rows of the class with each used first symbol, (used,)."""
        used = self._used[self._used > 0].astype(np.float64)
        return self.own.each * used

    def harms(self, nats: Floats) -> Floats:
        """The mean harm of each used first symbol, (used,); see :func:`mean_harm`."""
        assert self.coder is not None, "a class that is stored has a coder"
        assert self.coded is not None, "and is coded"
        first, symbols = self.coded.first[self.kept], len(self.root_lengths)
        harm: Floats = np.bincount(first, self.coded.harm[self.kept], symbols).astype(np.float64)
        return mean_harm(self.coder, self._used, harm, nats)[self._used > 0]

    def with_roots(self, lengths: NDArray[np.int64]) -> _CodedClass:
        """The class without unused first symbols; ``lengths`` (used,) are those of the others."""
        assert self.coder is not None, "a class that is stored has a coder"
        assert self.coded is not None, "and is coded"
        used = self._used > 0
        numbers = np.cumsum(used) - 1
        first = np.where(used[self.coded.first], numbers[self.coded.first], 0)
        first_coder = self.coder.coders[0]
        table = table_coder(first_coder.coordinates[used].astype(np.float64), lengths)
        coder = replace(self.coder, coders=(table, *self.coder.coders[1:]))
        return replace(self, coder=coder, coded=replace(self.coded, first=first))


def keyed_class(
    sample: Sample, frame: Frame, count: int, total: float, nats: RowNats
) -> KeyedClass:
    """A class of ``count`` rows, known by ``sample``.

    total: the sum of all frequencies of the field.
    """
    rows = TierRows.of(sample, frame, count, total)
    default = np.zeros(rows.coordinates.shape)
    spread = rows.shares @ np.square(rows.coordinates, dtype=np.float64)
    return KeyedClass(
        rows,
        count / len(rows.shares),
        nats,
        rows.shares * nats.lost(rows.coordinates, default),
        rows.shares * nats.in_second_order(rows.coordinates, default),
        rows.shares * nats.in_first_order(rows.coordinates, default),
        rows.shares * nats.doubt(rows.coordinates, default),
        spread * nats.of_codes,
    )


def _marker(own: KeyedClass) -> ClassCoder:
    """A coder that stores the keys of a class, but gives all of them the default row."""
    lone = table_coder(np.zeros((1, 0)), np.zeros(1, dtype=np.int64))
    return ClassCoder((lone,), float(own.rows.shares.sum()) / own.rows.count)
