"""The changed rows of a field whose ids only grow.

One pass over the rows compares each with the one that lookups give today; those that may save
their bits are coded by the frozen codebooks. New ids have the codes of the mean of all new rows,
until codes of their own save more nats than their bits cost.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saec.codecs.frozen_ids import FrozenIds
from saec.compression.bit_price import raised_threshold
from saec.compression.field_worth import FieldWorth
from saec.compression.id_exchange import Candidates, TierExchange, exchanges_of, tiers_by_frequency
from saec.format.id_patch import PlainField
from saec.format.merged_ids import tiers_of_ids
from saec.format.tiered_field import TieredField
from saec.streaming.chunks import Chunk, check_finite
from saec.tables.field import Field
from saec.tables.loss_metric import Metric
from saec.util.few_values import values_of
from saec.util.in_threads import in_threads
from saec.util.row_arrays import RowArrays
from saec.util.row_blocks import row_blocks

__all__ = ["ChangedIds", "IdDay", "IdSurvey"]

Floats = NDArray[np.float64]

_BLOCKS, _BLOCK_ROWS = 64, 256  # of rows from which the price of a bit is estimated


@dataclass(frozen=True, eq=False)
class ChangedIds(RowArrays):
    """Rows (k,) of a tier that may be in a patch: ids, ascending; their codes; and their nats if
    lookups give the rows that they give now, and with these codes."""

    ids: NDArray[np.int64]
    rows: NDArray[Any]
    now: Floats
    coded: Floats


@dataclass(frozen=True, eq=False)
class IdSurvey:
    """Nats that all rows lose by lookups as they are now; rows that may be in a patch, by tier;
    what new ids have that are not in it; and rows that may change places."""

    now: float
    changed: tuple[ChangedIds, ...]
    default: NDArray[Any]
    exchanges: tuple[TierExchange, ...]


@dataclass(frozen=True, eq=False)
class IdDay:
    """A field of today, and the one that it is compared with, behind its patches.

    Args:
        field: today's rows and frequencies, at least as many as ``base`` has.
        base: the rows that lookups give now.
        coder: of ``base``.
        metric: today's.
        worth: of its changes.
        threshold: nats that a changed row must save for each bit; None for :attr:`price`.
    """

    field: Field
    base: PlainField
    coder: FrozenIds
    metric: Metric
    worth: FieldWorth
    threshold: float | None

    @cached_property
    def price(self) -> float:
        """Nats per bit at which the base's codes stand, from a sample of rows, divided by the gain
        of changes.

        One more bit for each of k coordinates lowers what they lose to a quarter, so the slope is
        2 ln 2 / k times the loss (Gersho and Gray, Vector Quantization and Signal Compression,
        1992, chapter 8). The median of rows with bits, because rows that moved may be out of the
        codebooks' reach; 0 if no row has bits.
        """
        slopes = [np.zeros(0)]
        for ids, rows, shares in self._sampled():
            for tier, own in self._by_tier(ids):
                if self.coder.row_bits[tier]:
                    _, lost = self.coder.code(tier, rows[own])
                    slopes.append(shares[own] * lost / self.coder.coded_axes[tier])
        every = np.concatenate(slopes)
        median = float(np.median(every)) if len(every) else 0.0
        return 2 * math.log(2) * median / self.worth.gain

    @cached_property
    def least(self) -> float:
        """Nats per bit that a code must save."""
        return self.price if self.threshold is None else self.threshold / self.worth.gain

    def least_at(self, factor: float) -> float:
        """See :func:`~saec.compression.bit_price.raised_threshold`."""
        return raised_threshold(self.least, factor, lambda: self.price)

    def survey(self) -> IdSurvey:
        """The pass over all rows."""
        last = len(self.coder.row_bits) - 1
        default, _ = self.coder.code(last, self._mean_of_new[None])
        default_row = self.coder.rows(last, default)
        found: list[list[ChangedIds]] = [[] for _ in self.coder.row_bits]
        moving: list[Candidates] = []
        total = 0.0
        self._prepare()
        surveyed = partial(self._surveyed, default_row)
        for now, of_tiers, candidates in in_threads(
            surveyed, self.field.parts, self.field.part_threads
        ):
            total += now
            for tier, changed in of_tiers:
                found[tier].append(changed)
            moving += candidates
        pairs: Iterable[TierExchange] = ()
        if moving:
            every = Candidates.join(moving)
            pairs = exchanges_of(self.field, self.coder, every, self.worth.saving)
        return IdSurvey(total, tuple(map(ChangedIds.join, found)), default, tuple(pairs))

    def _prepare(self) -> None:
        """Compute what is kept, before several threads ask for it."""
        _ = self.least, self._tiers

    def _surveyed(
        self, default_row: NDArray[Any], part: Chunk
    ) -> tuple[float, list[tuple[int, ChangedIds]], list[Candidates]]:
        """Of a part the nats that its rows lose now, by tier the rows that may be in a patch, and
        those that may change places."""
        rows, shares = part.weights(), part.frequencies() / self.field.census.total
        ids = np.arange(part.start, part.stop)
        now = shares * self._lost_now(part, rows, default_row)
        found, moving = [], []
        for tier, own in self._by_tier(ids):
            changed = self._changed(tier, ids[own], rows[own], shares[own], now[own])
            found.append((tier, changed))
            moving += self._moving(tier, ids[own], shares[own], now[own])
        return float(now.sum()), found, moving

    def _lost_now(self, part: Chunk, rows: NDArray[Any], default_row: NDArray[Any]) -> Floats:
        """Nats per occurrence (m,) that the rows (m, dim) of a part lose by lookups as they are
        now; new ones have the row ``default_row`` (1, dim)."""
        known = max(min(self.base.vocab_size, part.stop) - part.start, 0)
        looked_up, lost = self.base.lookup(part.start + np.arange(known)), np.empty(len(rows))
        for block in row_blocks(len(rows)):
            error = rows[block].astype(np.float64)
            given = looked_up[block]
            error[: len(given)] -= given
            error[len(given) :] -= default_row
            error = self.metric.mapped(error)
            lost[block] = np.einsum("nd,nd->n", error, error) / 2
        return lost

    def _moving(
        self, tier: int, ids: NDArray[np.int64], shares: Floats, now: Floats
    ) -> list[Candidates]:
        """Rows of a tier whose frequency has another tier today, if ids may change their tiers."""
        if not isinstance(self.base, TieredField) or self.base.index is None:
            return []
        sizes = np.diff(self.base.layout.bounds)
        wanted = tiers_by_frequency(self.field, sizes, shares * self.field.census.total)
        bits = np.array(self.coder.row_bits)
        weighed = self.worth.saving * now
        rising = (wanted < tier) & (weighed > self.least * bits[wanted]) & (now > 0)
        worth = (wanted > tier) | rising
        found = Candidates(ids, np.full(len(ids), tier), wanted, shares, now)
        return [found.only(worth)]

    def _changed(
        self, tier: int, ids: NDArray[np.int64], rows: NDArray[Any], shares: Floats, now: Floats
    ) -> ChangedIds:
        """Rows of a tier that may save their bits."""
        cost = self.least * self.coder.row_bits[tier]
        saving = self.worth.saving
        worth = (saving * now > cost) & (now > 0)
        worth &= self.coder.row_bits[tier] > 0
        codes, lost = self.coder.code(tier, rows[worth])
        found = ChangedIds(ids[worth], codes, now[worth], shares[worth] * lost)
        return found.only(saving * found.now - found.coded > cost)

    def _by_tier(self, ids: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """The positions among consecutive ``ids`` of those of each tier."""
        tiers = np.full(len(ids), len(self.coder.row_bits) - 1, np.int8)
        old = self._tiers[ids[0] : ids[-1] + 1] if len(ids) else self._tiers[:0]
        tiers[: len(old)] = old
        for tier in values_of(tiers):
            yield tier, np.flatnonzero(tiers == tier)

    @cached_property
    def _tiers(self) -> NDArray[np.int8]:
        return tiers_of_ids(self.base)

    @cached_property
    def _mean_of_new(self) -> NDArray[Any]:
        """The mean of new rows (dim,), weighted by frequency; zeros if none occurs."""
        first = self.base.vocab_size
        sums, weight = np.zeros(self.field.dim), 0.0
        for part in self.field.parts:
            start = max(first - part.start, 0)
            if part.stop <= first:
                continue
            shares = (part.frequencies() / self.field.census.total)[start:]
            sums += shares @ part.weights()[start:].astype(np.float64)
            weight += float(shares.sum())
        return (sums / weight if weight else sums).astype(self.field.dtype)

    def _sampled(self) -> Iterator[tuple[NDArray[np.int64], NDArray[Any], Floats]]:
        """Ids of blocks of old rows, these rows and their shares."""
        count = self.base.vocab_size
        starts = np.unique(np.linspace(0, max(count - _BLOCK_ROWS, 0), _BLOCKS).astype(np.int64))
        end = 0
        for start in starts.tolist():
            start, stop = max(start, end), min(start + _BLOCK_ROWS, count)
            end = stop
            if start < stop:
                counts = self.field.counts.read(start, stop).astype(np.float64)
                rows = self.field.rows.read(start, stop)
                check_finite(self.field.name, rows, start)
                yield np.arange(start, stop), rows, counts / self.field.census.total
