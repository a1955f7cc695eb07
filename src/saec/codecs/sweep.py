"""One Lagrangian over the tiers and axes of a field: the best layout at every price of a bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saec.codecs.coder import Coder
from saec.codecs.offers import Offer, TierOffers

__all__ = ["Layered", "sweep"]

_PRICES = 256
_DECADES = 9.0  # between the dearest price of a bit and the cheapest

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Layered:
    """A coder for every part of every tier, and the nats that they leave together."""

    tiers: tuple[tuple[Coder, ...], ...]
    nats: float


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
    chosen = [_Tier(tier, prices) for tier in tiers]
    total = prices[:, None] * axis_bits * np.arange(rank + 1)
    for tier in chosen:
        total = total + tier.cost
    used = total.argmin(axis=1)
    found: dict[tuple[tuple[Offer, ...], ...], None] = {}
    for place, axes in enumerate(used.tolist()):
        found[tuple(tier.offers(place, axes) for tier in chosen)] = None
    zero = [[offers[0].nats for offers in tier.scalar] for tier in tiers]
    return [_layered(offers, zero, rest) for offers in found]


class _Tier:
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
    steepest = max((_steepest(tier) for tier in tiers), default=0.0)
    steepest = max(steepest, np.finfo(np.float64).tiny)
    return steepest * 10.0 ** -np.linspace(0.0, _DECADES, _PRICES)


def _steepest(tier: TierOffers) -> float:
    """The most nats per bit that an offer saves."""
    zero = [offers[0].nats for offers in tier.scalar]
    alone = [
        (unused, offer)
        for unused, offers in zip(zero, tier.scalar, strict=True)
        for offer in offers[1:]
    ]
    jointly = [(sum(zero[:axes]), offer) for axes, offers in tier.joint.items() for offer in offers]
    return max(
        ((unused - offer.nats) / offer.bits for unused, offer in alone + jointly), default=0.0
    )


def _layered(
    offers: tuple[tuple[Offer, ...], ...], zero: list[list[float]], rest: float
) -> Layered:
    nats, tiers = rest, []
    for chosen, unused in zip(offers, zero, strict=True):
        coders = [coder for offer in chosen for coder in offer.coders]
        covered = sum(coder.part.axes for coder in coders)
        nats += sum(offer.nats for offer in chosen) + sum(unused[covered:])
        tiers.append(tuple(coders))
    return Layered(tuple(tiers), nats)
