"""Coders of a tier's axes, and candidates for coding them, with their bits and their loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from saec.clustering.points import ArrayPoints
from saec.clustering.scalar import MeasuredColumn, nearest_scalars
from saec.format.code_part import CodePart
from saec.format.tiered_field import part_coordinates

__all__ = [
    "Coder",
    "ColumnOffers",
    "Offer",
    "OfferNumbers",
    "TierOffers",
    "evenly_spaced",
    "no_moves",
    "sizes_of",
    "within_float16",
]

_LARGEST = float(np.finfo(np.float16).max)
_LEAST_STEP = float(np.finfo(np.float16).tiny)  # smaller ones lose digits


@dataclass(frozen=True, eq=False)
class Coder:
    """A part of a tier's layout and its values.

    values: float16, as stored: (2**bits * axes,) of a table, (2,) offset and step of a grid, or
    (0,) of an axis that is not coded.
    """

    part: CodePart
    values: NDArray[np.float16]

    @property
    def bits(self) -> int:
        """Bits of the values; the code of each row takes ``part.bits`` in addition."""
        return 16 * self.part.values

    @cached_property
    def ordered(self) -> Coder:
        """The same for a tier whose rows are sorted by this code."""
        return replace(self, part=replace(self.part, ordered=True))

    @classmethod
    def none(cls) -> Coder:
        """The coder that decodes every row to coordinate 0."""
        return cls(CodePart(), np.zeros(0, dtype=np.float16))

    @classmethod
    def table(cls, centers: NDArray[np.floating[Any]], bits: int) -> Coder:
        """A table of up to ``2**bits`` centers: (k,) ascending, or (k, axes)."""
        rows = within_float16(centers.reshape(len(centers), -1))
        if rows.shape[1] == 1:
            rows = np.unique(rows)[:, None]  # rounding may have made neighbours equal
        missing = (1 << bits) - len(rows)
        padded = np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)])
        return cls(CodePart("table", bits, rows.shape[1]), padded.ravel())

    def assign(
        self, coordinates: NDArray[np.float32], scale: NDArray[np.float64]
    ) -> NDArray[np.uint32]:
        """The code (m,) of the nearest value for each row of ``coordinates`` (m, axes).

        ``scale`` (axes,) float64 multiplies coordinates so that all axes have the same unit.
        """
        if self.part.bits == 0:
            return np.zeros(len(coordinates), dtype=np.uint32)
        if self.part.axes > 1:
            table = (self.values.reshape(-1, self.part.axes) * scale).astype(np.float32)
            scaled = (coordinates * scale).astype(np.float32)
            return ArrayPoints(scaled).assign(table).astype(np.uint32)
        column = np.ascontiguousarray(coordinates[:, 0])
        if self.part.kind == "table":
            return nearest_scalars(column, self.values.astype(np.float32))
        offset, step = self.values.astype(np.float32)
        steps = np.rint((column - offset) / step).clip(0, (1 << self.part.bits) - 1)
        codes: NDArray[np.uint32] = steps.astype(np.uint32)
        return codes

    def decode(self, codes: NDArray[np.uint32]) -> NDArray[np.float32]:
        """Coordinates of ``codes`` (m,), as (m, axes)."""
        return part_coordinates(self.part, self.values, codes)


def within_float16(values: NDArray[np.floating[Any]]) -> NDArray[np.float16]:
    """``values`` rounded to float16; values outside its range become its largest value. That
    happens only to rows that hardly ever occur."""
    return values.clip(-_LARGEST, _LARGEST).astype(np.float16)


def evenly_spaced(low: float, step: float) -> NDArray[np.float16] | None:
    """Offset and step of a grid, (2,) float16; None if float16 cannot hold them with all its
    digits."""
    if abs(low) > _LARGEST or not _LEAST_STEP <= step <= _LARGEST:
        return None
    return np.array([low, step], dtype=np.float16)


def no_moves() -> NDArray[np.float64]:
    """The moves of a candidate without unseen rows: (0, 3)."""
    return np.zeros((0, 3))


@dataclass(frozen=True, eq=False)
class Offer:
    """A candidate: coders of one axis or of several neighbouring axes.

    bits: of the codes of all rows of a tier and of the values; nats: the loss, including what
    slopes on unseen rows add; moves: (axes, 3 for each tier), from
    :meth:`.tier_slopes.Moves.by`, or (0, 3) without unseen rows; by_slopes: the part of ``nats``
    that slopes add; first_order: what they are expected to add.
    """

    bits: int
    nats: float
    coders: tuple[Coder, ...]
    moves: NDArray[np.float64] = field(default_factory=no_moves)
    by_slopes: float = 0.0
    first_order: float = 0.0

    @property
    def axes(self) -> int:
        """Number of axes that the coders cover."""
        return sum(coder.part.axes for coder in self.coders)


@dataclass(frozen=True, eq=False)
class OfferNumbers:
    """Several candidates as arrays: bits (k,), nats (k,), and sizes (k, 4) from
    :func:`sizes_of`."""

    bits: NDArray[np.int64]
    nats: NDArray[np.float64]
    sizes: NDArray[np.int64]

    @classmethod
    def of(cls, offers: Sequence[Offer]) -> OfferNumbers:
        """The arrays of ``offers``; makes no coders."""
        if isinstance(offers, ColumnOffers):
            return offers.numbers
        return cls(
            np.array([offer.bits for offer in offers], np.int64),
            np.array([offer.nats for offer in offers]),
            sizes_of([[coder.part for coder in offer.coders] for offer in offers]),
        )


def sizes_of(parts: Sequence[Sequence[CodePart]]) -> NDArray[np.int64]:
    """Four sizes of each group of parts, (groups, 4): stored bits of a row, number of values,
    number of parts, and bytes that describe these parts in a layout."""
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
    """The candidates of one axis. Coders are made on access: a wide table has thousands of
    candidates and uses few.

    parts: of all measured candidates: none, the mean, tables, grids; kept: positions in ``parts``
    of the usable candidates; numbers: of these; column: the measurement.
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
            raise IndexError(place)  # iteration over a Sequence ends by it
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
    """All candidates of a tier.

    scalar: for each axis, those that code it alone; the first codes nothing. joint: by number of
    leading axes, those that code them jointly or sort rows by their codes.
    """

    scalar: tuple[Sequence[Offer], ...]
    joint: dict[int, tuple[Offer, ...]]

    @cached_property
    def numbers(self) -> OfferNumbers:
        """The candidates in ``scalar`` as arrays (axes, k) and (axes, k, 4).

        Axes with fewer than k candidates are padded with candidates of infinite loss.
        """
        each = [OfferNumbers.of(offers) for offers in self.scalar]
        shape = len(each), max((len(own.bits) for own in each), default=1)
        bits, nats = np.ones(shape, np.int64), np.full(shape, np.inf)
        sizes = np.zeros((*shape, 4), np.int64)
        for axis, own in enumerate(each):
            count = len(own.bits)
            bits[axis, :count], nats[axis, :count] = own.bits, own.nats
            sizes[axis, :count] = own.sizes
        return OfferNumbers(bits, nats, sizes)
