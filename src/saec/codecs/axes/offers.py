"""What may code the axes of a tier: coders, the bits that they take and the nats they leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import overload

import numpy as np
from numpy.typing import NDArray

from saec.clustering.columns import MeasuredColumn
from saec.codecs.axes.quantizer import Coder
from saec.format.code_part import CodePart

__all__ = ["ColumnOffers", "Offer", "OfferNumbers", "TierOffers", "no_moves", "sizes_of"]


def no_moves() -> NDArray[np.float64]:
    """The moves of an offer without unseen rows."""
    return np.zeros((0, 3))


@dataclass(frozen=True, eq=False)
class Offer:
    """Coders of neighbouring axes, one or some.

    bits: that they take for all of a tier's rows with their values; nats: that they leave, with
    those that slopes on unseen rows add; moves: (axes, 3 for each tier), what
    :meth:`.tier_slopes.Moves.by` gives, or none without unseen rows; by_slopes: the nats that
    slopes add.
    """

    bits: int
    nats: float
    coders: tuple[Coder, ...]
    moves: NDArray[np.float64] = field(default_factory=no_moves)
    by_slopes: float = 0.0

    @property
    def axes(self) -> int:
        """Axes that are covered."""
        return sum(coder.part.axes for coder in self.coders)


@dataclass(frozen=True, eq=False)
class OfferNumbers:
    """Numbers of several offers: bits (k,), nats (k,), and :attr:`sizes` (k, 4)."""

    bits: NDArray[np.int64]
    nats: NDArray[np.float64]
    sizes: NDArray[np.int64]

    @classmethod
    def of(cls, offers: Sequence[Offer]) -> OfferNumbers:
        """Of ``offers``, without making coders that only measured columns have."""
        if isinstance(offers, ColumnOffers):
            return offers.numbers
        return cls(
            np.array([offer.bits for offer in offers], np.int64),
            np.array([offer.nats for offer in offers]),
            sizes_of([[coder.part for coder in offer.coders] for offer in offers]),
        )


def sizes_of(parts: Sequence[Sequence[CodePart]]) -> NDArray[np.int64]:
    """For each group of parts (groups, 4): bits that a row stores, values, parts, and the bytes
    that name them."""
    sizes = [
        (
            sum(part.width for part in own),
            sum(part.values for part in own),
            len(own),
            sum(len(part.packed()) for part in own),
        )
        for own in parts
    ]
    return np.array(sizes, np.int64).reshape(len(parts), 4)


@dataclass(frozen=True, eq=False)
class ColumnOffers(Sequence[Offer]):
    """Offers for one axis, whose coders are made when they are asked for: of the thousands that a
    wide table has, few are used.

    parts: of all that was measured: none, the mean, tables, grids; numbers: of those ``kept``,
    whose positions among the parts these are; column: as it was measured.
    """

    parts: Sequence[CodePart]
    kept: NDArray[np.int64]
    numbers: OfferNumbers
    column: MeasuredColumn

    def __len__(self) -> int:
        return len(self.kept)

    @overload
    def __getitem__(self, place: int) -> Offer: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Offer]: ...
    def __getitem__(self, place: int | slice) -> Offer | Sequence[Offer]:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(place)  # ends a loop
        return Offer(
            int(self.numbers.bits[place]),
            float(self.numbers.nats[place]),
            (self._coder(int(self.kept[place])),),
        )

    def _coder(self, number: int) -> Coder:
        part, column = self.parts[number], self.column
        if part.kind == "none":
            return Coder.none()
        if part.kind == "grid":
            grid = column.grids[number - len(self.parts)]
            return Coder(part, grid.astype(np.float16))
        if part.bits == 0:
            return Coder.table(np.array([column.mean]), 0)
        return Coder.table(column.tables[number - 2], part.bits)


@dataclass(frozen=True, eq=False)
class TierOffers:
    """scalar: for each axis, what may code it alone, nothing first; joint: by number of leading
    axes, what may code them together, or in order of their codes."""

    scalar: tuple[Sequence[Offer], ...]
    joint: dict[int, tuple[Offer, ...]]

    @cached_property
    def numbers(self) -> OfferNumbers:
        """Of each axis's offers (axes, k), and (axes, k, 4); where an axis has fewer than k,
        infinite nats for a bit."""
        each = [OfferNumbers.of(offers) for offers in self.scalar]
        shape = len(each), max((len(own.bits) for own in each), default=1)
        bits, nats = np.ones(shape, np.int64), np.full(shape, np.inf)
        sizes = np.zeros((*shape, 4), np.int64)
        for axis, own in enumerate(each):
            count = len(own.bits)
            bits[axis, :count], nats[axis, :count] = own.bits, own.nats
            sizes[axis, :count] = own.sizes
        return OfferNumbers(bits, nats, sizes)
