"""Classes of a field with keys at a price per bit: what storing their rows takes and leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from saec.clustering.rowmap import RowMap
from saec.codecs.axes.candidates import TierRows
from saec.codecs.axes.code_lengths import code_lengths
from saec.codecs.axes.keyed_choice import FUNCTION_FACTOR, KeyedChoice, planned_bytes
from saec.codecs.axes.keyed_class import ClassCoder, CodedRows, class_coder, mean_harm
from saec.codecs.axes.principal_axes import Frame
from saec.codecs.axes.row_slopes import RowNats
from saec.codecs.axes.slope_costs import LEAST_COST
from saec.codecs.axes.symbols import table_coder
from saec.codecs.moments_and_samples import Sample
from saec.format.keyed_layout import LONG_STRINGS, SHORT_STRINGS, strings_of
from saec.keys.windows import window_shape
from saec.streaming.strata import Placing
from saec.tables.field import Field

__all__ = ["Coder", "KeyedClass", "PricedKeys", "Pricing", "keyed_class"]

Floats = NDArray[np.float64]

# Of the price, that storing a row must save for each bit.
_GAINS = (2.2, 1.7, 1.35, 1.1, 0.9, 0.72, 0.55, 0.4)


@dataclass(frozen=True, eq=False)
class KeyedClass:
    """A class of which a sample is known: its rows, and how many rows each stands for."""

    rows: TierRows
    each: float
    nats: RowNats
    unstored: Floats  # nats (m,) that each row of the sample costs if it is left out
    second: Floats  # (m,) the second-order ones of these
    in_first_order: Floats  # (m,) first-order ones that are expected
    doubt: Floats  # (m,) standard errors of them all
    spread: Floats  # (rank,) nats of all rows on each axis if all are left out


# The coder of a class from its rows, the nats of each axis, how many axes are stored, and the price
# of a bit; None if no row is worth its bits.
Coder = Callable[[TierRows, Floats, int, float], ClassCoder | None]


@dataclass(frozen=True, eq=False)
class PricedKeys:
    """A choice of what is stored, and the nats that it leaves.

    nats: by which choices are made; doubt: their standard error; by_slopes: the part of them that
    slopes on unseen rows make; first_order: what these are expected to add.
    """

    nats: float
    doubt: float
    by_slopes: float
    first_order: float
    choice: KeyedChoice


@dataclass(frozen=True, eq=False)
class Pricing:
    """A field as its options are priced."""

    field: Field
    frame: Frame
    placing: Placing
    row_map: RowMap
    classes: tuple[KeyedClass, ...]
    unseen: float
    room: float  # share of all strings that may belong to symbols
    coder: Coder = class_coder

    def at(self, price: float) -> Iterator[PricedKeys]:
        """Choices at a price per bit."""
        axes = self._axes(price)
        found = [self.coder(own.rows, own.nats.of_codes, axes, price) for own in self.classes]
        if self.room < 1:  # every key is stored
            found = [coder or _marker(own) for coder, own in zip(found, self.classes, strict=True)]
        # Of the price, for a bit; None where every row is stored whatever it saves.
        gains = [gain * price for gain in _GAINS] if self.room == 1 else [None]
        pairs = zip(found, self.classes, strict=True)
        first = [_CodedClass.of(coder, own, price) for coder, own in pairs]
        # Coded again with the lengths of the roots, which say more than those within a class.
        rough = self._rooted(first, None if gains[0] is None else price, price)
        again = [_CodedClass.of(coded.coder, coded.own, price) for coded in rough]
        for gain in gains:
            yield self._priced(self._rooted(again, gain, price), gain, price)

    def _axes(self, price: float) -> int:
        """How many leading axes are worth the bits of their vectors."""
        spread: Floats = np.sum([own.spread for own in self.classes], axis=0)
        worth = spread >= price * 8 * self.field.dim * self.frame.stored.itemsize
        return len(worth) if worth.all() else int(np.argmin(worth))

    def _rooted(
        self, coded: Sequence[_CodedClass], least_gain: float | None, price: float
    ) -> list[_CodedClass]:
        """Stored are rows that save ``least_gain`` for each bit; with the lengths of the first
        symbols that they have."""
        kept = [one.keeping(least_gain) for one in coded]
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
        coders = tuple(one.coder for one in coded)
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
            coders,
            tuple(own.nats for own in self.classes),
            price,
            least_gain,
            string_bits,
            planned_bytes(keys, round(bits), longest),
            by_slopes,
        )
        doubt = float(np.linalg.norm([one.doubt for one in coded]))
        first = sum(one.in_first_order for one in coded)
        return PricedKeys(nats + unknown * harm, doubt, by_slopes, first, choice)


def _strings(stored: Sequence[_CodedClass], string_bits: int) -> tuple[int, int]:
    """How many strings the rows of classes take, and the bits of the longest one."""
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
    """A class as coded, and which rows (m,) of its sample are stored."""

    own: KeyedClass
    coder: ClassCoder | None
    coded: CodedRows | None
    kept: NDArray[np.bool_]

    @classmethod
    def of(cls, coder: ClassCoder | None, own: KeyedClass, price: float) -> _CodedClass:
        coded = None if coder is None else coder.code(own.rows.coordinates, own.nats, price)
        return cls(own, coder, coded, np.zeros(len(own.unstored), dtype=bool))

    def keeping(self, least_gain: float | None) -> _CodedClass:
        """The same with the rows that save enough; without a coder if there are none."""
        if self.coded is None:
            return self
        if least_gain is None:
            return replace(self, kept=np.ones(len(self.kept), dtype=bool))
        saved = self.own.unstored - self.own.rows.shares * self.coded.lost
        kept = saved > least_gain * FUNCTION_FACTOR * self.own.each * self._row_bits
        if not kept.any():
            return _CodedClass(self.own, None, None, kept)
        return replace(self, kept=kept)

    @property
    def root_lengths(self) -> NDArray[np.int64]:
        """Of the first symbols' codewords."""
        assert self.coder is not None
        return self.coder.coders[0].lengths

    @property
    def _row_bits(self) -> Floats:
        assert self.coded is not None
        return self.root_lengths[self.coded.first] + self.coded.later_bits

    @property
    def bits(self) -> float:
        """Bits of the strings of all stored rows of the class."""
        return self.own.each * float(self._row_bits[self.kept].sum())

    @property
    def nats(self) -> float:
        """Nats that the rows lose, stored or not; slopes leave a share of the second-order ones."""
        lost = self._sum(self.own.unstored, None if self.coded is None else self.coded.lost)
        return max(lost, LEAST_COST * self.second)

    @property
    def second(self) -> float:
        """The second-order nats of the rows, stored or not."""
        return self._sum(self.own.second, None if self.coded is None else self.coded.second)

    @property
    def in_first_order(self) -> float:
        """The first-order nats that are expected of the rows, stored or not."""
        coded = None if self.coded is None else self.coded.in_first_order
        return self._sum(self.own.in_first_order, coded)

    @property
    def doubt(self) -> float:
        """The standard error of :attr:`nats`, at most: those of the axes may have the same sign."""
        return self._sum(self.own.doubt, None if self.coded is None else self.coded.doubt)

    def _sum(self, unstored: Floats, coded: Floats | None) -> float:
        """Of what rows of the sample (m,) have if they are left out, and what each occurrence of
        them has if they are stored; None if there is no coder."""
        if coded is None:
            return float(unstored.sum())
        return float(np.where(self.kept, self.own.rows.shares * coded, unstored).sum())

    @property
    def unstored_share(self) -> float:
        """The share of all occurrences that rows have which are not stored."""
        return float(self.own.rows.shares[~self.kept].sum())

    @property
    def _used(self) -> NDArray[np.int64]:
        """How many stored rows of the sample have each first symbol."""
        assert self.coded is not None
        return np.bincount(self.coded.first[self.kept], minlength=len(self.root_lengths))

    @property
    def counts(self) -> Floats:
        """Stored rows of the class with each first symbol that some have."""
        used = self._used[self._used > 0].astype(np.float64)
        return self.own.each * used

    def harms(self, nats: Floats) -> Floats:
        """See :func:`mean_harm`, of the same symbols."""
        assert self.coder is not None, "a class that is stored has a coder"
        assert self.coded is not None, "and is coded"
        first, symbols = self.coded.first[self.kept], len(self.root_lengths)
        harm: Floats = np.bincount(first, self.coded.harm[self.kept], symbols).astype(np.float64)
        return mean_harm(self.coder, self._used, harm, nats)[self._used > 0]

    def with_roots(self, lengths: NDArray[np.int64]) -> _CodedClass:
        """Without first symbols that no stored row has, and with the ``lengths`` of the others."""
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
    """The class of ``count`` rows of a ``sample``; ``total``: of the field's frequencies."""
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
    """A class whose keys are known, and have the default row."""
    lone = table_coder(np.zeros((1, 0)), np.zeros(1, dtype=np.int64))
    return ClassCoder((lone,), float(own.rows.shares.sum()) / own.rows.count)
