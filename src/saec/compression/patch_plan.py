"""Which changed rows a patch holds, how long its codewords are, and its static function.

The objective is that of a field with keys (:mod:`saec.codecs.axes.keyed`): nats of every row plus
the price of every bit. A patch has the first bits of the hashes of its keys. Another key begins
like one of them with a probability that each bit halves, and then reads a random string. So the
harm to all other keys, those of the base among them, decides the number of these bits, and frequent
keys are put into the patch even if they did not move where that costs less than this risk.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from saec.codecs.axes.code_lengths import code_lengths
from saec.codecs.axes.keyed_choice import FUNCTION_FACTOR
from saec.compression.changed_rows import DayField
from saec.compression.day_rows import ChangedRows, CodedDay, DaySurvey
from saec.format.key_prefixes import MOST_PREFIX, KeyPrefixes
from saec.format.key_strings import function_of
from saec.format.keyed_field import KeyedField
from saec.format.keyed_layout import LONG_STRINGS
from saec.format.keyed_patch import KeyedPatch, PatchCounts, PatchLayout
from saec.keys.windows import windows_for
from saec.util.in_threads import in_threads

__all__ = ["ChosenRows", "PatchPlan"]

Floats = NDArray[np.float64]

_RECORD_BYTES = 96  # without the field's name
_ROUNDS = 3  # of choosing rows and lengths in turn
_MANY_ROWS = 1 << 16  # for which it pays to start threads
_MOST_ROOM = 0.5  # of all hashes, that may begin like those of a patch
_FIRST_TOLD_BITS = 8.0


@dataclass(frozen=True, eq=False)
class ChosenRows:
    """What a patch holds.

    rows: that get codes, by class; reset: that get the default row; lengths: see
    :class:`~saec.format.keyed_patch.PatchLayout`; prefix_bits: of hashes; saved: nats; now: nats
    that these rows lose by lookups as they are now.
    """

    rows: Sequence[ChangedRows]
    reset: Sequence[ChangedRows]
    lengths: NDArray[np.uint8]
    prefix_bits: int
    saved: float
    now: float

    @property
    def positions(self) -> NDArray[np.int64]:
        """The numbers of all rows, ascending."""
        own = [one.positions for one in (*self.rows, *self.reset)]
        return np.sort(np.concatenate([np.zeros(0, np.int64), *own]))


@dataclass(frozen=True)
class _Told:
    """How keys of a patch are told from others.

    prefix_bits: of hashes; key_bits: that each key takes (Elias 1974); risk: nats per occurrence
    that a key which is not in the patch loses by being taken for one.
    """

    prefix_bits: int
    key_bits: float
    risk: float


@dataclass(frozen=True, eq=False)
class PatchPlan:
    """Rows of a day by class, from which a patch is chosen.

    Args:
        day: the field.
        survey: of its rows.
        base: the field without patches.
        removed: hashes (r,) of keys that get the default row whatever that costs.
    """

    day: DayField
    survey: DaySurvey
    base: KeyedField
    removed: NDArray[np.uint64]
    _coded: dict[float, CodedDay] = field(default_factory=dict, init=False)

    def _changed(self, factor: float, every: bool) -> CodedDay:
        """Rows that may be in the patch, coded at the power of two below ``factor``, at least 1;
        ``every``: none is left out. Only the last ones are kept."""
        power = 2.0 ** math.floor(math.log2(factor))
        if power not in self._coded or (every and self._coded[power].share):
            self._coded.clear()
            self._coded[power] = self.day.coded(self.survey, power, every)
        return self._coded[power]

    def at(self, factor: float) -> ChosenRows:
        """The rows that save the threshold for each of their bits, if these cost ``factor`` times
        their price."""
        chosen = self._chosen(factor, self._changed(factor, every=False))
        if chosen is None:
            chosen = self._chosen(factor, self._changed(factor, every=True))
        assert chosen is not None, "no row is left out"
        return chosen

    def _chosen(self, factor: float, coded: CodedDay) -> ChosenRows | None:
        """None if a row that was left out may be worth its bits."""
        changed = coded.rows
        roots = self.base.strings.root.lengths if changed else np.zeros(0, np.int64)
        lengths: NDArray[np.int64] = np.append(roots, 0)
        lengths[-1] = max(int(lengths[:-1].min(initial=8)), 1)
        told = _Told(1, _FIRST_TOLD_BITS, 0.0)
        threshold = self.day.threshold_at(factor)
        threads = 0 if sum(len(one.positions) for one in changed) >= _MANY_ROWS else 1
        for _ in range(_ROUNDS):
            bits = told.key_bits + FUNCTION_FACTOR * int(lengths.min())
            if coded.share and coded.saved + coded.share * told.risk > threshold * bits:
                return None
            split = partial(self._split, lengths, told, threshold)
            pairs = list(in_threads(split, changed, threads))
            rows = [own for own, _ in pairs if len(own.positions)]
            reset = [own for _, own in pairs if len(own.positions)]
            used, told = self._lengths(rows, reset, max(threshold, self.day.price))
            lengths = np.where(used > 0, used, lengths)
        saved = sum(float((one.now - one.coded).sum()) for one in rows)
        saved += sum(float((one.now - one.default).sum()) for one in reset)
        now = sum(float(one.now.sum()) for one in (*rows, *reset))
        return ChosenRows(rows, reset, used.astype(np.uint8), told.prefix_bits, saved, now)

    def _split(
        self, lengths: NDArray[np.int64], told: _Told, threshold: float, one: ChangedRows
    ) -> tuple[ChangedRows, ChangedRows]:
        """The rows that get codes, and those that get the default row."""
        first = self.base.layout.first_roots[one.number]
        bits = lengths[first + one.symbols[0]] + one.later_bits
        insured = one.shares * told.risk - threshold * told.key_bits
        price = threshold * FUNCTION_FACTOR
        saving = self.day.worth.saving
        by_code = saving * one.now - one.coded + insured - price * bits
        nearer = saving * (one.now - one.default)
        by_default = np.where(nearer > 0, nearer + insured - price * lengths[-1], -np.inf)
        coded = by_code > 0
        if self._keys_are_exact:
            coded |= ~one.known
            by_code = np.where(one.known, by_code, np.inf)
        reset = (by_default > np.maximum(by_code, 0)) & (nearer > 0)
        return one.only(coded & ~reset), one.only(reset)

    @property
    def _keys_are_exact(self) -> bool:
        assert self.day.field.keys is not None, "a keyed field has keys"
        return self.day.field.keys.exact_bits > 0

    def _lengths(
        self, rows: Sequence[ChangedRows], reset: Sequence[ChangedRows], price: float
    ) -> tuple[NDArray[np.int64], _Told]:
        """Lengths of codewords, 0 for unused ones, and how keys are told."""
        roots = self.base.layout.first_roots[-1]
        counts, harms = np.zeros(roots + 1), np.zeros(roots + 1)
        for one in rows:
            symbols = self.base.layout.first_roots[one.number] + one.symbols[0]
            counts += np.bincount(symbols, minlength=roots + 1)
            harms += np.bincount(symbols, one.harm, minlength=roots + 1)
        counts[-1] = len(self.removed) + sum(len(one.positions) for one in reset)
        default = self.day.coder.metric.mapped(self.base.axes[-1:].astype(np.float64))
        harms[-1] = counts[-1] * float(self.survey.harm(default)[0])
        used = np.flatnonzero(counts)
        lengths = np.zeros(roots + 1, np.int64)
        if not len(used):
            return lengths, _Told(1, _FIRST_TOLD_BITS, 0.0)
        unit = max(price, float(np.finfo(np.float64).tiny))
        # A patch with one symbol has a codeword of one bit, because a length of 0 means none.
        own = code_lengths(counts[used], np.zeros(len(used)), unit * FUNCTION_FACTOR)
        lengths[used] = np.maximum(own, 1)
        inside = sum(float(one.shares.sum()) for one in (*rows, *reset))
        outside = max(self.survey.weight - inside, 0.0)
        harm = float(0.5 ** lengths[used] @ (harms[used] / counts[used]))
        return lengths, self._told(int(counts.sum()), outside * harm, harm, unit)

    def _told(self, keys: int, strangers: float, harm: float, price: float) -> _Told:
        """How many bits tell so many keys from others, which lose ``strangers`` nats together, and
        ``harm`` per occurrence, if each reads a random string.

        b bits beside those that number the keys cost price x keys x b + strangers x 2^-b.
        """
        assert self.day.field.keys is not None, "a keyed field has keys"
        best = math.log2(max(strangers * math.log(2) / (price * keys), 1.0))
        least = -math.log2(min(_MOST_ROOM, self.day.field.keys.room))
        bits = math.ceil(math.log2(keys) + least)
        bits = min(max(bits, round(math.log2(keys) + best)), MOST_PREFIX)
        share = keys * 0.5**bits
        return _Told(bits, 2 - math.log2(share), harm * share)

    def planned_bytes(self, chosen: ChosenRows) -> int:
        """Bytes of the field's changes in a patch, at most."""
        record = _RECORD_BYTES + len(self.base.name.encode())
        lengths = len(chosen.lengths) if chosen.lengths.any() else 0  # none without changes
        return _PatchStrings(self, chosen).planned_bytes + lengths + record

    def built(self, chosen: ChosenRows) -> KeyedPatch:
        """The patch of these rows."""
        return _PatchStrings(self, chosen).patch


@dataclass(frozen=True, eq=False)
class _PatchStrings:
    """The strings of chosen rows."""

    plan: PatchPlan
    chosen: ChosenRows

    @cached_property
    def reset(self) -> NDArray[np.uint64]:
        """Hashes of keys that get the default row."""
        return np.concatenate([self.plan.removed, *(one.hashes for one in self.chosen.reset)])

    @cached_property
    def layout(self) -> PatchLayout:
        """With long strings, which windows hold."""
        return PatchLayout(self.plan.base, self.chosen.lengths, LONG_STRINGS)

    @property
    def size(self) -> tuple[int, int]:
        """How many strings there are, and their bits."""
        layout = self.layout
        own = layout.strings.plans if layout.numbers else ()
        plans = dict(zip(layout.numbers, own, strict=True))
        strings, bits = len(self.reset), len(self.reset) * int(self.chosen.lengths[-1])
        for one in self.chosen.rows:
            first = self.plan.base.layout.first_roots[one.number]
            strings += len(one.positions) * len(plans[one.number])
            bits += int(self.chosen.lengths[first + one.symbols[0]].sum(dtype=np.int64))
            bits += int(one.later_bits.sum())
        return strings, bits

    @property
    def planned_bytes(self) -> int:
        """Bytes of the prefixes and the function, at most."""
        strings, bits = self.size
        if not strings:
            return 0
        told = self.prefixes.nbytes
        return told + windows_for(strings, bits).most_bytes(bits, LONG_STRINGS)

    @cached_property
    def prefixes(self) -> KeyPrefixes:
        """Of all keys."""
        hashes = np.concatenate([self.reset, *(one.hashes for one in self.chosen.rows)])
        return KeyPrefixes.of(hashes, self.chosen.prefix_bits)

    @property
    def patch(self) -> KeyedPatch:
        layout = self.layout
        numbers = {number: place for place, number in enumerate(layout.numbers)}
        found = []
        for one in self.chosen.rows:
            symbols = self.plan.base.layout.first_roots[one.number] + one.symbols[0]
            place = numbers[one.number]
            first = np.searchsorted(layout.used, symbols) - layout.layout.first_roots[place]
            found += layout.strings.strings(place, [first, *one.symbols[1:]], one.hashes)
        if len(self.reset):
            zeros = np.zeros(len(self.reset), np.int64)
            found += layout.strings.strings(numbers[-1], [zeros], self.reset)
        field = self.plan.day.field
        return KeyedPatch(
            self.plan.base,
            field.vocab_size,
            layout,
            self.prefixes,
            function_of(found, windows=True),
            self._counts,
        )

    @property
    def _counts(self) -> PatchCounts:
        known = [one.known for one in self.chosen.rows]
        moved = sum(int(own.sum()) for own in known)
        added = sum(map(len, known)) - moved
        return PatchCounts(added, moved, len(self.reset))
