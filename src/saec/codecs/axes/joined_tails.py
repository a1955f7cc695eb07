"""Tails of several tiers that are coded as one, for fields whose ids stay.

Their index tells the rows of the last tier from all others. The more rows this tier has, the fewer
ids are in the index; in return its rows are coded alike, whatever their frequency.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from saec.codecs.axes.candidates import TierOffers, TierRows, measure_tier, sampled_shares
from saec.codecs.axes.lagrangian import Layered

__all__ = ["joined_tails", "undominated"]

_SAMPLED_ROWS = 1 << 15  # of a joined tail


def joined_tails(
    rows: Sequence[TierRows],
    offers: Sequence[TierOffers],
    nats: NDArray[np.float64],
    rng: np.random.Generator,
) -> Iterator[list[TierOffers]]:
    """What tiers may spend if those from one on are a single tier, down to one for all rows.

    Args:
        rows: of each tier.
        offers: of each tier.
        nats: (rank,) nats per squared error of each coordinate.
        rng: draws the rows of which a tail is learned.
    """
    for first in range(len(rows) - 2, -1, -1):
        tail = _joined(rows[first:], rng)
        yield [*offers[:first], measure_tier(tail, nats, rng)]


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


def undominated(found: Iterable[tuple[Layered, int]]) -> list[tuple[Layered, int]]:
    """Layouts, each with the bits of its index, than which none is smaller and better."""
    kept: list[tuple[Layered, int]] = []
    for layered, index_bits in sorted(found, key=_size_and_nats):
        if not kept or layered.nats < kept[-1][0].nats:
            kept.append((layered, index_bits))
    return kept


def _size_and_nats(pair: tuple[Layered, int]) -> tuple[int, float]:
    return pair[0].bits + pair[1], pair[0].nats
