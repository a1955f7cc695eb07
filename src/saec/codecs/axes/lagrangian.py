"""One Lagrangian over the tiers and axes of a field: the best layout at every price of a bit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from saec.codecs.axes.quantizer import Coder, Offer, OfferNumbers, TierOffers

__all__ = ["Layered", "Way", "sweep"]

# Prices of a bit in each decade between the highest and the lowest. Fields with a few rows far
# from all others need more decades.
_PRICES_PER_DECADE = 28
_LEAST_DECADES, _MOST_DECADES = 9, 18

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Way:
    """One way to code a tier: a candidate for the leading axes jointly, if any, and one for each
    axis after these.

    bits: of the codes of all rows and of the values; nats: the loss; axes: number of coded axes;
    width: stored bits of a row; values: number of stored values; parts: number of codes of a row;
    named: bytes that describe these parts in the layout; tier: the candidates of the tier; joint:
    the candidate that codes the leading axes together, or None; picks: for each axis after these,
    the position of its candidate in ``tier.scalar``.
    """

    bits: int
    nats: float
    axes: int
    width: int
    values: int
    parts: int
    named: int
    tier: TierOffers
    joint: Offer | None
    picks: NDArray[np.int64]

    @cached_property
    def offers(self) -> tuple[Offer, ...]:
        """The candidates in use, those of the leading axes first."""
        lead = () if self.joint is None else (self.joint,)
        alone = self.tier.scalar[self.axes - len(self.picks) : self.axes]
        picked = zip(alone, self.picks.tolist(), strict=True)
        return (*lead, *(offers[place] for offers, place in picked))

    @property
    def coders(self) -> tuple[Coder, ...]:
        """The coders of the axes that are coded."""
        return tuple(coder for offer in self.offers for coder in offer.coders)

    @property
    def moves(self) -> NDArray[np.float64]:
        """``Offer.moves`` of all axes, coded or not."""
        every = self._every
        return np.concatenate([offer.moves for offer in every]) if every else np.zeros((0, 3))

    @property
    def by_slopes(self) -> float:
        """The part of :attr:`nats` that comes from slopes on unseen rows."""
        return sum(offer.by_slopes for offer in self._every)

    @property
    def first_order(self) -> float:
        """What slopes on unseen rows are expected to add to the loss."""
        return sum(offer.first_order for offer in self._every)

    @cached_property
    def _every(self) -> tuple[Offer, ...]:
        unused = (alone[0] for alone in self.tier.scalar[self.axes :])
        return (*self.offers, *unused)


@dataclass(frozen=True, eq=False)
class Layered:
    """A layout of a field: one way to code each tier.

    axis_bits: bits of each axis that is in use; rest: loss in nats that does not depend on codes.
    """

    ways: tuple[Way, ...]
    axis_bits: int
    rest: float

    @property
    def tiers(self) -> tuple[tuple[Coder, ...], ...]:
        """The coders of every tier."""
        return tuple(way.coders for way in self.ways)

    @cached_property
    def axes(self) -> int:
        """Number of axes in use."""
        return max((way.axes for way in self.ways), default=0)

    @cached_property
    def bits(self) -> int:
        """Bits of codes, values and axes."""
        return self.axes * self.axis_bits + sum(way.bits for way in self.ways)

    @cached_property
    def nats(self) -> float:
        """The loss in nats."""
        return self.rest + sum(way.nats for way in self.ways)

    @property
    def by_slopes(self) -> float:
        """The part of :attr:`nats` that comes from slopes on unseen rows."""
        return sum(way.by_slopes for way in self.ways)

    @property
    def first_order(self) -> float:
        """What slopes on unseen rows are expected to add to the loss."""
        return sum(way.first_order for way in self.ways)


def sweep(tiers: Sequence[TierOffers], axis_bits: int, rest: float) -> list[Layered]:
    """All layouts that minimise nats + price x bits for some price of a bit.

    At a fixed price the tiers depend on each other only through the axes: each axis costs
    ``axis_bits`` once for all tiers. So every number of leading axes is tried, from 0 to all.

    Args:
        tiers: the candidates of each tier; all have the same number of axes.
        axis_bits: bits of one axis in the artifact.
        rest: loss in nats that does not depend on codes.

    Returns:
        Distinct layouts, from the highest price (fewest bits) to the lowest.
    """
    rank = len(tiers[0].scalar)
    prices = _prices(tiers)
    chosen = [_TierOptions(tier, prices) for tier in tiers]
    total = prices[:, None] * axis_bits * np.arange(rank + 1)
    for tier in chosen:
        total = total + tier.cost
    used = total.argmin(axis=1)
    found = dict.fromkeys(zip(*(tier.ways(used) for tier in chosen), strict=True))
    return [Layered(ways, axis_bits, rest) for ways in found]


class _TierOptions:
    """The best candidates of a tier at every price, with leading axes coded alone or jointly."""

    def __init__(self, tier: TierOffers, prices: Floats) -> None:
        self._tier = tier
        rank = len(tier.scalar)
        self._best, cost = _cheapest_alone(tier.numbers, prices)
        # Cost of the first axes if each is coded alone, (prices, number of axes in use).
        self._sums = np.zeros((len(prices), rank + 1))
        np.cumsum(cost, axis=1, out=self._sums[:, 1:])
        # Candidate 0 of an axis codes nothing. For each number of axes in use: one more than the
        # last of them that is coded.
        self._coded = np.zeros((len(prices), rank + 1), dtype=np.int64)
        coded = np.where(self._best > 0, np.arange(1, rank + 1), 0)
        np.maximum.accumulate(coded, axis=1, out=self._coded[:, 1:])
        self._leads = {m: OfferNumbers.of(offers) for m, offers in tier.joint.items() if offers}
        self._joint = {m: _cheapest(leads, prices) for m, leads in self._leads.items()}
        # Number of leading axes that are coded jointly, (prices, number of axes in use).
        self._together = np.zeros((len(prices), rank + 1), dtype=np.int64)
        best = self._sums.copy()
        for axes, (_, each) in self._joint.items():
            jointly = each[:, None] + self._sums - self._sums[:, axes : axes + 1]
            better = jointly < best
            better[:, :axes] = False
            best = np.where(better, jointly, best)
            self._together[better] = axes
        unused = tier.numbers.nats[:, 0]
        self.cost = best + np.append(np.cumsum(unused[::-1])[::-1], 0.0)

    def ways(self, used: NDArray[np.int64]) -> list[Way]:
        """The way chosen at each price if ``used`` (prices,) axes are in use; it ends with the
        last axis that is coded."""
        every = np.arange(len(used))
        together = self._together[every, used]
        last = np.maximum(together, self._coded[every, used])
        joint = np.zeros_like(together)
        for count, (best, _) in self._joint.items():
            joint = np.where(together == count, best, joint)
        axes = np.arange(self._best.shape[1])
        alone = (axes >= together[:, None]) & (axes < last[:, None])
        chosen = np.column_stack([together, joint, last, np.where(alone, self._best, 0)])
        # Neighbouring prices mostly choose the same way, so it is made once; others may choose it,
        # too.
        new = np.append(True, (chosen[1:] != chosen[:-1]).any(axis=1))
        different: dict[bytes, Way] = {}
        made = zip(chosen[new], self._made(chosen[new], alone[new]), strict=True)
        ways = [different.setdefault(choice.tobytes(), way) for choice, way in made]
        return [ways[place] for place in (np.cumsum(new) - 1).tolist()]

    def _made(self, chosen: NDArray[np.int64], alone: NDArray[np.bool_]) -> list[Way]:
        """Ways of ``chosen`` (m, 3 + axes): the number of leading axes that are coded jointly and
        the candidate for these, the end of the coded axes, and candidates of the axes that are
        coded ``alone`` (m, axes)."""
        numbers, picks = self._tier.numbers, chosen[:, 3:]
        axes, (together, joint, last) = np.arange(picks.shape[1]), chosen[:, :3].T
        bits = np.where(alone, numbers.bits[axes, picks], 0).sum(axis=1)
        sizes = np.where(alone[..., None], numbers.sizes[axes, picks], 0).sum(axis=1)
        nats = np.where(alone, numbers.nats[axes, picks], 0.0).sum(axis=1)
        nats += np.where(axes >= last[:, None], numbers.nats[:, 0], 0.0).sum(axis=1)
        leads: list[Offer | None] = [None] * len(chosen)
        for count, own in self._leads.items():
            mine = np.flatnonzero(together == count)
            first = joint[mine]
            bits[mine], nats[mine] = bits[mine] + own.bits[first], nats[mine] + own.nats[first]
            sizes[mine] += own.sizes[first]
            for place, number in zip(mine.tolist(), first.tolist(), strict=True):
                leads[place] = self._tier.joint[count][number]
        ways = []
        for place, (start, end) in enumerate(zip(together.tolist(), last.tolist(), strict=True)):
            width, values, parts, named = sizes[place].tolist()
            ways.append(
                Way(
                    int(bits[place]),
                    float(nats[place]),
                    end,
                    width,
                    values,
                    parts,
                    named,
                    self._tier,
                    leads[place],
                    picks[place, start:end],
                )
            )
        return ways


def _cheapest_alone(numbers: OfferNumbers, prices: Floats) -> tuple[NDArray[np.int64], Floats]:
    """The best candidate for each price and axis, and its cost; both (prices, axes)."""
    shape = len(prices), len(numbers.bits)
    best, least = np.zeros(shape, np.int64), np.full(shape, np.inf)
    for place, (bits, nats) in enumerate(zip(numbers.bits.T, numbers.nats.T, strict=True)):
        cost = nats + prices[:, None] * bits
        better = cost < least
        best[better], least[better] = place, cost[better]
    return best, least


def _cheapest(offers: OfferNumbers, prices: Floats) -> tuple[NDArray[np.int64], Floats]:
    """The best of ``offers`` at every price, and its cost; both (prices,)."""
    cost = offers.nats + prices[:, None] * offers.bits
    best = cost.argmin(axis=1)
    return best, cost[np.arange(len(prices)), best]


def _prices(tiers: Sequence[TierOffers]) -> Floats:
    """Prices in nats per bit, descending; at the first, no bit is worth its price."""
    steepest = max((slope for tier in tiers for slope in _first_slopes(tier)), default=0.0)
    steepest = max(steepest, np.finfo(np.float64).tiny)
    flattest = min((slope for tier in tiers for slope in _last_slopes(tier)), default=steepest)
    decades = np.log10(steepest / flattest).clip(_LEAST_DECADES, _MOST_DECADES)
    return steepest * 10.0 ** -np.linspace(0.0, decades, round(_PRICES_PER_DECADE * decades))


def _last_slopes(tier: TierOffers) -> Iterator[float]:
    """For each axis the nats per bit that its best candidate saves over the second best."""
    numbers = tier.numbers
    if numbers.bits.shape[1] < 2:
        return
    order = np.argsort(numbers.nats, axis=1, kind="stable")[:, :2]
    nats = np.take_along_axis(numbers.nats, order, axis=1)
    bits = np.take_along_axis(numbers.bits, order, axis=1)
    saves = np.isfinite(nats[:, 1]) & (nats[:, 1] > nats[:, 0]) & (bits[:, 0] > bits[:, 1])
    yield from ((nats[saves, 1] - nats[saves, 0]) / (bits[saves, 0] - bits[saves, 1])).tolist()


def _first_slopes(tier: TierOffers) -> Iterator[float]:
    """The nats per bit that each candidate saves over not coding its axes."""
    numbers = tier.numbers
    unused = numbers.nats[:, :1]
    yield from ((unused - numbers.nats[:, 1:]) / numbers.bits[:, 1:]).ravel().tolist()
    for axes, offers in tier.joint.items():
        together = OfferNumbers.of(offers)
        yield from ((unused[:axes].sum() - together.nats) / together.bits).tolist()
