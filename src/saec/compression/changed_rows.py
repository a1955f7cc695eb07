"""The rows of a day that may be worth a place in a patch, by frozen codes.

Two passes over the rows. The first compares each row with the one that lookups give today, and
keeps the numbers of those that differ by more nats than a codeword costs: the others are *stale*,
and are not coded. The second codes what was kept, at a price of a bit: it is repeated for a higher
one, at which codes are shorter, if a patch would be too large.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saec.codecs.axes.frozen import FrozenCoder, bands_of
from saec.compression.bit_price import raised_threshold
from saec.streaming.chunks import Chunk
from saec.tables.field import Field
from saec.util.row_arrays import RowArrays

__all__ = ["ChangedRows", "DayField", "DaySurvey"]

Floats = NDArray[np.float64]

_SAMPLED_ROWS = 1 << 10  # of a band and a part, from which its class is chosen
_MOST_SAMPLED = 1 << 13  # of a band
_HEAVY_ROWS = 1 << 12  # of a part, that are looked at whether they moved or not
_UNKNOWN_KEYS = 1 << 16  # that are looked up to see what unknown keys get


@dataclass(frozen=True, eq=False)
class ChangedRows(RowArrays):
    """Rows of one class of the base, as coded (k,).

    number: of the class; positions: in the table; hashes: of their keys; shares: of all
    occurrences; now, coded, default: nats if lookups give the row that they give now, the coded
    one, or the default row; known: whether the key has a row now; symbols: of each part;
    later_bits: of all parts but the first; harm: nats per occurrence if another key got this row.
    """

    number: int
    positions: NDArray[np.int64]
    hashes: NDArray[np.uint64]
    shares: Floats
    now: Floats
    coded: Floats
    default: Floats
    known: NDArray[np.bool_]
    symbols: list[NDArray[np.int64]]
    later_bits: NDArray[np.int64]
    harm: Floats


@dataclass
class DaySurvey:
    """What the first pass finds.

    now: nats that all rows lose by the rows that lookups give now; weight, sums, squares: of looked
    up rows in the metric, weighted by share; positions: ascending numbers of rows that may be
    coded; gains: nats that each of these saves at most, infinite for those that are looked at
    whatever they save; samples: some rows of each band of frequencies, and their shares.
    """

    now: float = 0.0
    weight: float = 0.0
    squares: float = 0.0
    sums: Floats | float = 0.0
    positions: list[NDArray[np.int64]] = field(default_factory=list)
    gains: list[Floats] = field(default_factory=list)
    samples: dict[int, tuple[NDArray[Any], Floats]] = field(default_factory=dict)

    def add(self, rows: Floats, shares: Floats | float) -> None:
        """Rows (m, dim) in the metric that lookups give with these shares (m,)."""
        own = np.broadcast_to(shares, len(rows))
        self.weight += float(own.sum())
        self.sums = self.sums + own @ rows
        self.squares += float(own @ np.square(rows).sum(axis=1))

    def harm(self, rows: Floats) -> Floats:
        """Nats per occurrence (m,) if a random key got each of these ``rows`` (m, dim)."""
        mean = self.sums / self.weight
        spread = self.squares / self.weight - float(np.square(mean).sum())
        harm: Floats = (np.square(rows - mean).sum(axis=1) + max(spread, 0.0)) / 2
        return harm


def _thinned(parts: Sequence[tuple[NDArray[Any], Floats]]) -> tuple[NDArray[Any], Floats]:
    """Rows and their shares of all parts, but not more of them than are needed."""
    rows, shares = (np.concatenate(own) for own in zip(*parts, strict=True))
    step = -(-len(rows) // _MOST_SAMPLED)
    return rows[::step], shares[::step]


@dataclass(frozen=True, eq=False)
class DayField:
    """A field of today, and the one that it is compared with, behind its patches.

    Args:
        field: today's rows, frequencies and keys.
        coder: of the base.
        threshold: nats that a changed row must save for each bit.
        price: of a bit in the base, in nats.
        least_bits: that a string of a patch takes.
    """

    field: Field
    coder: FrozenCoder
    threshold: float
    price: float
    least_bits: int

    def threshold_at(self, factor: float) -> float:
        """See :func:`~saec.compression.bit_price.raised_threshold`."""
        return raised_threshold(self.threshold, factor, lambda: self.price)

    def survey(self) -> DaySurvey:
        """The first pass."""
        found = DaySurvey()
        samples: dict[int, list[tuple[NDArray[Any], Floats]]] = {}
        for part in self.field.parts:
            rows, shares, hashes = self._read(part)
            looked_up = self._metric.mapped(self._base.rows_of_hashes(hashes).astype(np.float64))
            error = self._metric.mapped(rows.astype(np.float64)) - looked_up
            now = shares * np.einsum("nd,nd->n", error, error) / 2
            found.now += float(now.sum())
            found.add(looked_up, shares)
            worth, forced = self._worth_coding(now, shares, hashes)
            found.positions.append(part.start + worth)
            found.gains.append(np.where(forced[worth], np.inf, now[worth]))
            for band, picked in self._sampled(shares, hashes):
                samples.setdefault(band, []).append((rows[picked], shares[picked]))
        found.samples = {band: _thinned(own) for band, own in samples.items()}
        found.add(self._default[None], self._keys.unseen_share)
        return found

    def coded(self, survey: DaySurvey, factor: float) -> list[ChangedRows]:
        """The second pass, if bits cost ``factor`` times their price: changed rows by class of the
        base, in ascending order of classes."""
        found: dict[int, list[ChangedRows]] = {}
        threshold = self.threshold_at(factor)
        price = max(threshold, self.price)
        classes = self.coder.classes_for(survey.samples, price) if self.coder.coders else {}
        every = zip(self.field.parts, survey.positions, survey.gains, strict=True)
        for part, positions, gains in every:
            worth = positions[gains > threshold * self.least_bits]
            if len(worth):
                for one in self._coded(part, worth, survey, classes, price):
                    found.setdefault(one.number, []).append(one)
        return [ChangedRows.join(found[number]) for number in sorted(found)]

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
        shares = part.frequencies() * (self.field.known_share / self.field.census.total)
        return part.weights(), shares, self._keys.hashes[part.start : part.stop]

    def _worth_coding(
        self, now: Floats, shares: Floats, hashes: NDArray[np.uint64]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Rows that may save their bits, or whose loss to a false positive would cost more; and
        (m,) which rows are looked at whatever they save."""
        forced = np.zeros(len(shares), np.bool_)
        if not self.coder.coders:
            return np.zeros(0, np.int64), forced
        heavy = min(_HEAVY_ROWS, len(shares))
        forced[np.argpartition(shares, len(shares) - heavy)[len(shares) - heavy :]] = True
        forced &= shares > 0
        worth = forced | ((now > self.threshold * self.least_bits) & (shares > 0))
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
        order = places[np.argsort(hashes[places])]
        bands = bands_of(shares[order] * self.field.census.total)
        for band in np.unique(bands):
            yield int(band), order[bands == band][:_SAMPLED_ROWS]

    def _coded(
        self,
        part: Chunk,
        positions: NDArray[np.int64],
        survey: DaySurvey,
        classes: Mapping[int, int],
        price: float,
    ) -> Iterator[ChangedRows]:
        all_rows, all_shares, all_hashes = self._read(part)
        places = positions - part.start
        rows, shares, hashes = all_rows[places], all_shares[places], all_hashes[places]
        looked_up = self._base.rows_of_hashes(hashes)
        known = self._base.classes_of_hashes(hashes) >= 0
        mapped = self._metric.mapped(rows.astype(np.float64))
        now, default = (
            shares * np.square(mapped - other).sum(axis=1) / 2
            for other in (self._metric.mapped(looked_up.astype(np.float64)), self._default)
        )
        # Rows that do not occur are coded as the rarest ones that do, if every key is stored.
        bands = np.full(len(shares), min(classes))
        seen = shares > 0
        bands[seen] = bands_of(shares[seen] * self.field.census.total)
        for band in np.unique(bands):
            of_band = np.flatnonzero(bands == band)
            every = self.coder.by_class(classes[int(band)], rows[of_band], shares[of_band], price)
            for places, coded in every:
                own = of_band[places]
                yield ChangedRows(
                    coded.number,
                    positions[own],
                    hashes[own],
                    shares[own],
                    now[own],
                    shares[own] * coded.lost,
                    default[own],
                    known[own],
                    coded.symbols,
                    coded.later_bits,
                    survey.harm(coded.decoded),
                )
