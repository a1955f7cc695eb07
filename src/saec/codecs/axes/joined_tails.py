"""Tails of several tiers that are coded as one, for fields whose ids stay.

Their index tells the rows of the last tier from all others. The more rows this tier has, the fewer
ids are in the index; in return its rows are coded alike, whatever their frequency.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from saec.codecs.axes.candidates import TierOffers, TierRows, measure_tier, sampled_shares
from saec.codecs.axes.lagrangian import Layered, sweep
from saec.codecs.axes.mixed_layouts import mixed
from saec.codecs.axes.principal_axes import Frame
from saec.codecs.axes.slope_costs import FieldSlopes
from saec.format.tier_index import TierIndex
from saec.tables.field import Field

__all__ = ["joined_tails", "layouts"]

_SAMPLED_ROWS = 1 << 15  # of a joined tail


def joined_tails(
    rows: Sequence[TierRows],
    offers: Sequence[TierOffers],
    nats: NDArray[np.float64],
    rng: np.random.Generator,
    slopes: FieldSlopes | None = None,
) -> Iterator[list[TierOffers]]:
    """What tiers may spend if those from one on are a single tier, down to one for all rows.

    Args:
        rows: of each tier.
        offers: of each tier.
        nats: (rank,) nats per squared error of each coordinate.
        rng: draws the rows of which a tail is learned.
        slopes: on unseen rows, if there are any.
    """
    for first in range(len(rows) - 2, -1, -1):
        tail = _joined(rows[first:], rng)
        judged = None if slopes is None else slopes.of_tail(first)[1]
        yield [*offers[:first], measure_tier(tail, nats, rng, judged=judged)]


def _joined(tiers: Sequence[TierRows], rng: np.random.Generator) -> TierRows:
    """Samples of some tiers as one, an equal number of rows from each as far as it has them."""
    most = _SAMPLED_ROWS // len(tiers)
    coordinates, shares = [], []
    for tier in tiers:
        if len(tier.shares) <= most:
            coordinates.append(tier.coordinates)
            shares.append(tier.shares)
            continue
        chosen = np.sort(rng.choice(len(tier.shares), most, replace=False))
        coordinates.append(tier.coordinates[chosen])
        shares.append(sampled_shares(tier.shares, chosen))
    count = sum(tier.count for tier in tiers)
    return TierRows(np.concatenate(coordinates), np.concatenate(shares), count)


def layouts(
    field: Field, ways: Sequence[Sequence[TierOffers]], frame: Frame, indexed: bool
) -> list[Layered]:
    """The layouts of all ``ways`` to cut rows into tiers that are worth a plan."""
    found: list[tuple[Layered, int]] = []
    for tiers in ways:
        index_bits = 8 * TierIndex.planned_bytes(field.vocab_size, len(tiers)) if indexed else 0
        swept = sweep(tiers, 8 * field.dim * frame.stored.itemsize, frame.rest)
        # What takes more than the table itself is not.
        smaller = [layered for layered in swept if layered.bits < 8 * field.nbytes]
        found += [(layered, index_bits) for layered in mixed(smaller or swept[:1])]
    return [layered for layered, _ in (_undominated(found) if len(ways) > 1 else found)]


def _undominated(found: Iterable[tuple[Layered, int]]) -> list[tuple[Layered, int]]:
    """Layouts, each with the bits of its index, than which none is smaller and better."""
    kept: list[tuple[Layered, int]] = []
    for layered, index_bits in sorted(found, key=_size_and_nats):
        if not kept or layered.nats < kept[-1][0].nats:
            kept.append((layered, index_bits))
    return kept


def _size_and_nats(pair: tuple[Layered, int]) -> tuple[int, float]:
    return pair[0].bits + pair[1], pair[0].nats
