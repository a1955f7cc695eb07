"""The rows of a day that may be worth a place in a patch, by frozen codes.

Two passes over the rows. The first compares each row with the one that lookups give today, and
keeps the numbers of those that differ by more nats than a codeword costs: the others are *stale*,
and are not coded. The second codes what was kept, at a price of a bit, and keeps only rows that
then save as much. It is repeated without this limit if rows that were left out may be worth their
bits, and for a higher price, at which codes are shorter, if a patch would be too large.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saec.codecs.axes.frozen import FrozenCoder, FrozenRows, bands_of
from saec.compression.bit_price import raised_threshold
from saec.compression.day_rows import (
    ChangedRows,
    CodedDay,
    DayRows,
    DaySurvey,
    LookedUpSums,
    PartSurvey,
)
from saec.compression.field_worth import FieldWorth
from saec.streaming.chunks import Chunk
from saec.tables.field import Field
from saec.util.few_values import values_of
from saec.util.heap import trim
from saec.util.in_threads import in_threads
from saec.util.row_blocks import row_blocks

__all__ = ["DayField"]

Floats = NDArray[np.float64]

_SAMPLED_ROWS = 1 << 10  # of a band and a part, from which its class is chosen
_HEAVY_ROWS = 1 << 12  # of a part, that are looked at whether they moved or not
_LEFT_OUT_BITS = 16  # coded rows are kept if they save more nats than so many bits cost
_UNKNOWN_KEYS = 1 << 16  # that are looked up to see what unknown keys get


@dataclass(frozen=True, eq=False)
class _Coding:
    """How the second pass codes rows and which it keeps.

    survey: what the first pass found; classes: of each band; least: a row is coded if it may save
    more nats; price: of a bit; left_out: a coded row is kept if it saves more nats; every: all are.
    """

    survey: DaySurvey
    classes: Mapping[int, int]
    least: float
    price: float
    left_out: float
    every: bool


@dataclass(frozen=True, eq=False)
class DayField:
    """A field of today, and the one that it is compared with, behind its patches.

    Args:
        field: today's rows, frequencies and keys.
        coder: of the base.
        worth: of its changes.
        threshold: nats that a changed row must save for each bit, divided by the gain.
        price: of a bit in the base, in nats, divided by the gain.
        least_bits: that a string of a patch takes.
    """

    field: Field
    coder: FrozenCoder
    worth: FieldWorth
    threshold: float
    price: float
    least_bits: int

    def threshold_at(self, factor: float) -> float:
        """See :func:`~saec.compression.bit_price.raised_threshold`."""
        return raised_threshold(self.threshold, factor, lambda: self.price)

    def survey(self) -> DaySurvey:
        """The first pass."""
        self._prepare()
        surveyed = in_threads(self._surveyed, self.field.parts, self.field.part_threads)
        with closing(surveyed) as parts:
            found = DaySurvey.of(parts)
        found.add(LookedUpSums.of(self._default[None], np.array([self._keys.unseen_share])))
        return found

    def _prepare(self) -> None:
        """Let the base compute what it keeps, before several threads ask for it."""
        self._base.rows_of_hashes(self._keys.hashes[:0])

    def _surveyed(self, part: Chunk) -> PartSurvey:
        rows, shares, hashes = self._read(part)
        now, looked_up = self._lost_now(rows, shares, hashes)
        weighed = self.worth.saving * now
        chosen, forced = self._worth_coding(weighed, shares, hashes)
        gains = np.where(forced[chosen], np.inf, weighed[chosen])
        samples = {
            band: (rows[picked], shares[picked]) for band, picked in self._sampled(shares, hashes)
        }
        return PartSurvey(float(now.sum()), looked_up, part.start + chosen, gains, samples)

    def _lost_now(
        self, rows: NDArray[Any], shares: Floats, hashes: NDArray[np.uint64]
    ) -> tuple[Floats, list[LookedUpSums]]:
        """Nats (m,) that the rows of a part lose by lookups as they are now, and of each block what
        these give."""
        looked_up, now = self._base.rows_of_hashes(hashes), np.empty(len(rows))
        found = []
        for block in row_blocks(len(rows)):
            given = self._metric.mapped(looked_up[block].astype(np.float64))
            error = self._metric.mapped(rows[block].astype(np.float64)) - given
            now[block] = shares[block] * np.einsum("nd,nd->n", error, error) / 2
            found.append(LookedUpSums.of(given, shares[block]))
        return now, found

    def coded(self, survey: DaySurvey, factor: float, every: bool) -> CodedDay:
        """The second pass, if bits cost ``factor`` times their price.

        every: keep all coded rows. Otherwise those that save less than the bits of a string cost
        are left out, unless they are looked at whatever they save.
        """
        threshold = self.threshold_at(factor)
        price = max(threshold, self.price)
        # If bits of a patch cost less than those of the base, rows that save nothing by their codes
        # may be worth their bits because they are no longer taken for another key.
        every = every or threshold < self.price
        left_out = threshold * min(self.least_bits, _LEFT_OUT_BITS)
        classes = self.coder.classes_for(survey.samples, price) if self.coder.coders else {}
        coding = _Coding(survey, classes, threshold * self.least_bits, price, left_out, every)
        passed = zip(self.field.parts, survey.positions, survey.gains, strict=True)
        worth = [own for own in passed if (own[-1] > coding.least).any()]
        found: dict[int, list[ChangedRows]] = {}
        share = 0.0
        threads = self.field.part_threads
        for changed, largest in in_threads(partial(self._coded, coding), worth, threads):
            share = max(share, largest)
            for one in changed:
                found.setdefault(one.number, []).append(one)
        joined = [ChangedRows.join(found.pop(number)) for number in sorted(found)]
        if len(worth) > 1:
            trim()  # heaps of the threads, which the static function would come on top of
        return CodedDay(joined, left_out, share)

    def _coded(
        self, coding: _Coding, passed: tuple[Chunk, NDArray[np.int64], Floats]
    ) -> tuple[list[ChangedRows], float]:
        """The kept rows of a part by class, and the largest share of one that is left out. passed:
        the part, and the positions and gains that the first pass found."""
        part, positions, gains = passed
        worth = gains > coding.least
        rows = self._looked_up(part, positions[worth], np.isinf(gains[worth]))
        changed, share = [], 0.0
        for own, coded in self._by_class(rows, coding.classes, coding.price):
            saving = self.worth.saving
            lost = np.minimum(rows.shares[own] * coded.lost, saving * rows.default[own])
            saved = saving * rows.now[own] - lost
            kept = rows.forced[own] | (saved > coding.left_out) | coding.every
            share = max(share, float(rows.shares[own][~kept].max(initial=0.0)))
            places = np.flatnonzero(kept)
            changed.append(self._changed(rows.only(own[places]), coded.only(places), coding.survey))
        return changed, share

    def unknown_nats(self, rows: NDArray[np.float32]) -> float:
        """Nats of keys that today's table does not have, if lookups give ``rows`` (m, dim)."""
        vector = self._keys.unseen.vector
        meant = self._default if vector is None else self._metric.mapped(vector)
        error = self._metric.mapped(rows.astype(np.float64)) - meant
        share: float = self._keys.unseen_share
        return share * float(np.square(error).sum(axis=1).mean()) / 2

    @staticmethod
    def unknown_hashes() -> NDArray[np.uint64]:
        """Hashes of keys that nobody has."""
        random = np.random.default_rng(0)
        return random.integers(0, 2**64, _UNKNOWN_KEYS, dtype=np.uint64)

    def stranger_nats(self, part: Chunk, taken: NDArray[np.int64], rows: NDArray[Any]) -> float:
        """By how many nats those rows of a part at places ``taken`` (k,) lose more than now, if
        lookups give ``rows`` (k, dim)."""
        own, shares, hashes = self._read(part)
        now = self._base.rows_of_hashes(hashes[taken])
        errors = [
            np.square(self._metric.mapped(own[taken].astype(np.float64) - looked_up)).sum(axis=1)
            for looked_up in (rows, now)
        ]
        return float(shares[taken] @ (errors[0] - errors[1])) / 2

    @property
    def _base(self) -> Any:
        return self.coder.base

    @property
    def _metric(self) -> Any:
        return self.coder.metric

    @property
    def _keys(self) -> Any:
        return self.field.keys

    @property
    def _default(self) -> Floats:
        """The default row in the metric (dim,)."""
        row: Floats = self._metric.mapped(self._base.axes[-1].astype(np.float64))
        return row

    def _read(self, part: Chunk) -> tuple[NDArray[Any], Floats, NDArray[np.uint64]]:
        """Rows, shares of all lookups, and hashes; the row of unknown keys has the share 0."""
        shares = part.frequencies() / self.field.lookups
        return part.weights(), shares, self._keys.hashes[part.start : part.stop]

    def _worth_coding(
        self, weighed: Floats, shares: Floats, hashes: NDArray[np.uint64]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Rows that may save their bits, or whose loss to a false positive would cost more; and
        (m,) which rows are looked at whatever they save."""
        forced = np.zeros(len(shares), np.bool_)
        if not self.coder.coders:
            return np.zeros(0, np.int64), forced
        heavy = min(_HEAVY_ROWS, len(shares))
        forced[np.argpartition(shares, len(shares) - heavy)[len(shares) - heavy :]] = True
        forced &= shares > 0
        worth = forced | ((weighed > self.threshold * self.least_bits) & (shares > 0))
        if self._keys.exact_bits:
            new = self._base.classes_of_hashes(hashes) < 0
            if self._keys.unseen.row is not None:
                own = hashes != self._keys.hashes[self._keys.unseen.row]
                new, worth = new & own, worth & own
            forced, worth = forced | new, worth | new
        return np.flatnonzero(worth), forced

    def _sampled(
        self, shares: Floats, hashes: NDArray[np.uint64]
    ) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Of each band of frequencies the places of some rows, those of the lowest hashes."""
        places = np.flatnonzero(shares > 0)
        bands = bands_of(shares[places] * self.field.census.total)
        for band in values_of(bands):
            own = places[bands == band]
            if len(own) > _SAMPLED_ROWS:
                own = own[np.argpartition(hashes[own], _SAMPLED_ROWS)[:_SAMPLED_ROWS]]
            yield band, own[np.argsort(hashes[own])]

    def _looked_up(
        self, part: Chunk, positions: NDArray[np.int64], forced: NDArray[np.bool_]
    ) -> DayRows:
        """The rows of a part at ``positions`` (m,)."""
        all_rows, all_shares, all_hashes = self._read(part)
        places = positions - part.start
        rows, shares, hashes = all_rows[places], all_shares[places], all_hashes[places]
        looked_up, default_row = self._base.rows_of_hashes(hashes), self._default
        now, default = np.empty(len(rows)), np.empty(len(rows))
        for block in row_blocks(len(rows)):
            mapped = self._metric.mapped(rows[block].astype(np.float64))
            given = self._metric.mapped(looked_up[block].astype(np.float64))
            now[block] = shares[block] * np.square(mapped - given).sum(axis=1) / 2
            default[block] = shares[block] * np.square(mapped - default_row).sum(axis=1) / 2
        return DayRows(positions, rows, hashes, shares, now, default, forced)

    def _by_class(
        self, rows: DayRows, classes: Mapping[int, int], price: float
    ) -> Iterator[tuple[NDArray[np.int64], FrozenRows]]:
        """Places of rows of a part that are coded by one class, and these as coded."""
        # Rows that do not occur are coded as the rarest ones that do, if every key is stored.
        bands = np.full(len(rows.shares), min(classes))
        seen = rows.shares > 0
        bands[seen] = bands_of(rows.shares[seen] * self.field.census.total)
        for band in values_of(bands):
            own = np.flatnonzero(bands == band)
            every = self.coder.by_class(classes[band], rows.rows[own], rows.shares[own], price)
            for places, coded in every:
                yield own[places], coded

    def _changed(self, rows: DayRows, coded: FrozenRows, survey: DaySurvey) -> ChangedRows:
        harm = np.empty(len(rows.shares))
        for block in row_blocks(len(harm)):
            harm[block] = survey.harm(self.coder.decoded(coded.coordinates[block]))
        return ChangedRows(
            coded.number,
            rows.positions,
            rows.hashes,
            rows.shares,
            rows.now,
            rows.shares * coded.lost,
            rows.default,
            self._base.classes_of_hashes(rows.hashes) >= 0,
            [own.astype(np.int32) for own in coded.symbols],
            coded.later_bits.astype(np.int32),
            harm,
        )
