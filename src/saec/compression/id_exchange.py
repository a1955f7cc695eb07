"""Rows that change places with rows of a richer tier.

Tiers keep their sizes. A row that became frequent, or is new and frequent, gets the codes of the
tier that its frequency has today if one of the rarest rows there takes its place, and both together
save more nats than the bits of their codes cost.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saec.codecs.frozen_ids import FrozenIds
from saec.format.id_patch import CodedIds
from saec.tables.field import Field
from saec.util.row_arrays import RowArrays

__all__ = ["Candidates", "TierExchange", "exchanges_of", "tiers_by_frequency"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TierExchange(RowArrays):
    """Pairs (k,): ids ``risen`` of tier ``low`` get codes of tier ``high``, ids ``fallen`` of that
    get codes of ``low``.

    rows: the new codes of both; now, coded: nats that each pair loses by lookups as they are now,
    and with these codes.
    """

    high: int
    low: int
    risen: NDArray[np.int64]
    fallen: NDArray[np.int64]
    rows: tuple[NDArray[Any], NDArray[Any]]
    now: Floats
    coded: Floats

    @property
    def ids(self) -> NDArray[np.int64]:
        """All that change their tier."""
        return np.concatenate([self.risen, self.fallen])

    def of_tier(self, tier: int) -> list[CodedIds]:
        """The ids that come into a tier."""
        found = []
        for number, ids, rows in zip(
            (self.high, self.low), (self.risen, self.fallen), self.rows, strict=True
        ):
            if number == tier:
                found.append(CodedIds(ids, rows))
        return found


def tiers_by_frequency(
    field: Field, sizes: NDArray[np.int64], frequencies: Floats
) -> NDArray[np.int64]:
    """The tier that rows with these frequencies (m,) would have today, if tiers of ``sizes`` were
    made in order of frequency."""
    ranks = np.cumsum(field.census.counts)
    ends = np.searchsorted(ranks, np.cumsum(sizes)[:-1])  # the value of each tier's last row
    least = field.census.values[np.minimum(ends, len(ranks) - 1)]
    return np.searchsorted(-least, -frequencies, side="left")


@dataclass(frozen=True, eq=False)
class Candidates(RowArrays):
    """Rows (m,) whose frequency has another tier today: ids, the tiers that they have and would
    have, their shares, and the nats that they lose now."""

    ids: NDArray[np.int64]
    tiers: NDArray[np.int64]
    wanted: NDArray[np.int64]
    shares: Floats
    now: Floats


def exchanges_of(
    field: Field, coder: FrozenIds, found: Candidates, saving: float
) -> Iterator[TierExchange]:
    """Pairs in which both rows have new codes, those that save most first; ``saving``: of nats
    that rows lose now, as :class:`~saec.compression.field_worth.FieldWorth` has it."""
    risen = found.only(found.wanted < found.tiers)
    fallen = found.only(found.wanted > found.tiers)
    fallen = fallen.only(np.argsort(fallen.shares, kind="stable"))
    rows, _ = _rows_of(field, risen.ids)
    for high in np.unique(risen.wanted).tolist():
        left = fallen.only(fallen.tiers == high)
        for low in np.unique(risen.tiers[risen.wanted == high]).tolist():
            own = np.flatnonzero((risen.wanted == high) & (risen.tiers == low))
            codes, lost = coder.code(high, rows[own])
            up = risen.shares[own] * lost
            best = np.argsort(up - saving * risen.now[own], kind="stable")[: len(left.ids)]
            down, left = left.only(slice(0, len(best))), left.only(slice(len(best), None))
            if not len(best):
                continue
            other, coded = _coded_down(field, coder, low, down)
            cheap = np.argsort(coded - saving * down.now, kind="stable")
            yield TierExchange(
                high,
                low,
                risen.ids[own[best]],
                down.ids[cheap],
                (codes[best], other[cheap]),
                risen.now[own[best]] + down.now[cheap],
                up[best] + coded[cheap],
            )


def _coded_down(
    field: Field, coder: FrozenIds, low: int, down: Candidates
) -> tuple[NDArray[Any], Floats]:
    """Codes of rows (k,) in the tier ``low``, and the nats that they lose with these."""
    order = np.argsort(down.ids)
    rows, shares = _rows_of(field, down.ids[order])
    back = np.argsort(order)
    codes, lost = coder.code(low, rows[back])
    return codes, shares[back] * lost


def _rows_of(field: Field, ids: NDArray[np.int64]) -> tuple[NDArray[Any], Floats]:
    """The rows (k, dim) of ascending ``ids`` (k,), and their shares."""
    rows = [np.zeros((0, field.dim), field.dtype)]
    shares = [np.zeros(0)]
    for part in field.parts:
        first, last = np.searchsorted(ids, (part.start, part.stop))
        if first < last:
            places = ids[first:last] - part.start
            rows.append(part.weights()[places])
            shares.append(part.frequencies()[places] / field.census.total)
    return np.concatenate(rows), np.concatenate(shares)
