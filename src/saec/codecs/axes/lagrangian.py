"""One Lagrangian over the tiers and axes of a field: the best layout at every price of a bit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from saec.codecs.axes.candidates import Offer, TierOffers
from saec.codecs.axes.quantizer import Coder

__all__ = ["Layered", "Way", "sweep"]

# Prices of a bit: as many for each decade between the dearest and the cheapest, of which there are
# more where some rows lie far from all others.
_PRICES_PER_DECADE = 28
_LEAST_DECADES, _MOST_DECADES = 9, 18

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Way:
    """A way to code a tier: its coders, the bits that they take for all rows with their values, the
    nats that are left. Moves and ``by_slopes`` are as of an offer, the moves of all axes."""

    coders: tuple[Coder, ...]
    bits: int
    nats: float
    moves: NDArray[np.float64]
    by_slopes: float

    @property
    def axes(self) -> int:
        """Number of axes that are coded."""
        return sum(coder.part.axes for coder in self.coders)


@dataclass(frozen=True, eq=False)
class Layered:
    """A way for every tier. Each of the leading axes in use takes ``axis_bits``; nats of ``rest``
    are lost in any case."""

    ways: tuple[Way, ...]
    axis_bits: int
    rest: float

    @property
    def tiers(self) -> tuple[tuple[Coder, ...], ...]:
        """The coders of every tier."""
        return tuple(way.coders for way in self.ways)

    @property
    def bits(self) -> int:
        """Bits of codes, values and axes."""
        axes = max((way.axes for way in self.ways), default=0)
        return axes * self.axis_bits + sum(way.bits for way in self.ways)

    @property
    def nats(self) -> float:
        """Nats that are left."""
        return self.rest + sum(way.nats for way in self.ways)

    @property
    def by_slopes(self) -> float:
        """Those of them that slopes on unseen rows add to the second-order ones."""
        return sum(way.by_slopes for way in self.ways)


def sweep(tiers: Sequence[TierOffers], axis_bits: int, rest: float) -> list[Layered]:
    """All layouts that minimise nats + price x bits for some price of a bit.

    At one price the tiers are independent but for the axes: an axis costs ``axis_bits`` once, so a
    layout uses the leading ones up to some number, which is tried from 0 to all.

    Args:
        tiers: what each tier may spend; all have the same number of axes.
        axis_bits: bits that one more axis takes in the artifact.
        rest: nats lost in any case.
    """
    rank = len(tiers[0].scalar)
    prices = _prices(tiers)
    chosen = [_TierOptions(tier, prices) for tier in tiers]
    total = prices[:, None] * axis_bits * np.arange(rank + 1)
    for tier in chosen:
        total = total + tier.cost
    used = total.argmin(axis=1)
    found: dict[tuple[tuple[Offer, ...], ...], None] = {}
    for place, axes in enumerate(used.tolist()):
        found[tuple(tier.offers(place, axes) for tier in chosen)] = None
    ways = {pair: _way(tiers[pair[0]], pair[1]) for offers in found for pair in enumerate(offers)}
    return [
        Layered(tuple(ways[pair] for pair in enumerate(offers)), axis_bits, rest)
        for offers in found
    ]


class _TierOptions:
    """The best offers of a tier at every price: alone on each axis, or some of them jointly."""

    def __init__(self, tier: TierOffers, prices: Floats) -> None:
        self._tier = tier
        rank = len(tier.scalar)
        self._scalar = [_cheapest(offers, prices) for offers in tier.scalar]
        # Of the first axes, each coded alone: for each price and number of axes in use.
        self._sums = np.zeros((len(prices), rank + 1))
        for axis, (_, cost) in enumerate(self._scalar):
            self._sums[:, axis + 1] = self._sums[:, axis] + cost
        self._joint = {m: _cheapest(offers, prices) for m, offers in tier.joint.items() if offers}
        # How many leading axes go jointly, for each price and number of axes in use.
        self._together = np.zeros((len(prices), rank + 1), dtype=np.int64)
        best = self._sums.copy()
        for axes, (_, cost) in self._joint.items():
            jointly = cost[:, None] + self._sums - self._sums[:, axes : axes + 1]
            better = jointly < best
            better[:, :axes] = False
            best = np.where(better, jointly, best)
            self._together[better] = axes
        unused = np.array([offers[0].nats for offers in tier.scalar])
        self.cost = best + np.append(np.cumsum(unused[::-1])[::-1], 0.0)

    def offers(self, place: int, axes: int) -> tuple[Offer, ...]:
        """What is chosen at a price if ``axes`` axes are in use, up to the last that is coded."""
        together = int(self._together[place, axes])
        result = []
        if together:
            result.append(self._tier.joint[together][self._joint[together][0][place]])
        for axis in range(together, axes):
            result.append(self._tier.scalar[axis][self._scalar[axis][0][place]])
        while result and result[-1].coders[-1].part.kind == "none":
            result.pop()
        return tuple(result)


def _cheapest(offers: Sequence[Offer], prices: Floats) -> tuple[NDArray[np.int64], Floats]:
    """The best of ``offers`` at every price, and what it costs."""
    bits = np.array([offer.bits for offer in offers], dtype=np.float64)
    nats = np.array([offer.nats for offer in offers])
    cost = nats + prices[:, None] * bits
    best = cost.argmin(axis=1)
    return best, cost[np.arange(len(prices)), best]


def _prices(tiers: Sequence[TierOffers]) -> Floats:
    """From the price at which no bit is worth it, downwards."""
    steepest = max((slope for tier in tiers for slope in _first_slopes(tier)), default=0.0)
    steepest = max(steepest, np.finfo(np.float64).tiny)
    flattest = min((slope for tier in tiers for slope in _last_slopes(tier)), default=steepest)
    decades = np.log10(steepest / flattest).clip(_LEAST_DECADES, _MOST_DECADES)
    return steepest * 10.0 ** -np.linspace(0.0, decades, round(_PRICES_PER_DECADE * decades))


def _last_slopes(tier: TierOffers) -> Iterator[float]:
    """For each axis the nats per bit that its best offer saves over the one before."""
    for offers in tier.scalar:
        falling = sorted(offers, key=lambda offer: -offer.nats)
        for before, best in pairwise(falling[-2:]):
            if best.bits > before.bits and best.nats < before.nats:
                yield (before.nats - best.nats) / (best.bits - before.bits)


def _first_slopes(tier: TierOffers) -> Iterator[float]:
    """The nats per bit that each offer saves over nothing at all."""
    zero = [offers[0].nats for offers in tier.scalar]
    alone = [
        (unused, offer)
        for unused, offers in zip(zero, tier.scalar, strict=True)
        for offer in offers[1:]
    ]
    jointly = [(sum(zero[:axes]), offer) for axes, offers in tier.joint.items() for offer in offers]
    for unused, offer in alone + jointly:
        yield (unused - offer.nats) / offer.bits


def _way(tier: TierOffers, offers: Sequence[Offer]) -> Way:
    covered = sum(coder.part.axes for offer in offers for coder in offer.coders)
    unused = [alone[0] for alone in tier.scalar[covered:]]
    every = [*offers, *unused]
    return Way(
        tuple(coder for offer in offers for coder in offer.coders),
        sum(offer.bits for offer in offers),
        sum(offer.nats for offer in offers) + sum(offer.nats for offer in unused),
        np.concatenate([offer.moves for offer in every]) if every else np.zeros((0, 3)),
        sum(offer.by_slopes for offer in every),
    )
