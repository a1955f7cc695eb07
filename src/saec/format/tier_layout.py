"""The layout of a field's rows in tiers: runs of rows of similar frequency, coded alike.

Rows are in their own order, frequent ones first, cut at the ranks 64, 256, 1024, ...
A tier's parts describe its row's coordinates axis by axis, the leading axis first. Each part takes
its code from the row and its values from the tier. If the rows of a tier are sorted by the codes
of its first parts, these codes are not stored: they follow from a row's rank.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from saec.artifact import ByteReader, number_bytes, number_size
from saec.bits.elias_fano import starts_bytes
from saec.bits.packing import packed_bytes
from saec.errors import ArtifactError
from saec.format.code_part import MAX_BITS, CodePart

__all__ = [
    "FIRST_TIER",
    "MOST_AXES",
    "MOST_ROWS",
    "Layout",
    "code_bytes",
    "layout_bytes",
    "tier_bounds",
    "tier_bytes",
]

FIRST_TIER = 64
_GROWTH_BITS = 2  # each cut is four times the one before

# Rows of tiers without bits take no bytes, so the size of a file does not limit their number.
MOST_ROWS = 1 << 42
MOST_AXES = 4096  # largest number of axes of a tier's parts

_MOST_TIERS = 19
_LONGEST_PART = len("o16j99 ")


def tier_bounds(count: int, most: int | None = None) -> NDArray[np.int64]:
    """First rank of each tier of ``count`` rows, and ``count`` itself: 0, 64, 256, ..., count.

    most: largest number of tiers; the last one then has all further rows.
    """
    bounds, cut = [0], FIRST_TIER
    while cut < count and (most is None or len(bounds) < most):
        bounds.append(cut)
        cut <<= _GROWTH_BITS
    return np.array([*bounds, count], dtype=np.int64)


def tier_bytes(rows: Sequence[int], widths: Sequence[int]) -> list[int]:
    """Bytes of the codes of each tier, from its number of rows and the bits per row."""
    return [-(-count * width // 8) for count, width in zip(rows, widths, strict=True)]


def code_bytes(tiers: Iterable[int]) -> int:
    """Bytes of all codes from those of each tier, plus the padding that lets a reader overshoot."""
    return sum(tiers) + packed_bytes(0, 1)


def layout_bytes(tiers: Iterable[tuple[int, int]]) -> int:
    """Bytes of :meth:`Layout.packed`, from the number of parts of each tier and the bytes of the
    parts."""
    return sum(number_size(parts) + named for parts, named in tiers)


def _check_count(count: int) -> None:
    if type(count) is not int or not 0 < count <= MOST_ROWS:  # a bool is not a count
        raise ArtifactError(f"a field has 1 to {MOST_ROWS} rows, not {count!r}")


@dataclass(frozen=True)
class Layout:
    """The parts of every tier of ``count`` rows; a tier's parts cover at most ``rank`` axes.

    If there are fewer tiers than cuts, the last one has all further rows. Axes
    after a tier's last part have the coordinate 0 there.
    """

    count: int
    tiers: tuple[tuple[CodePart, ...], ...]

    def __post_init__(self) -> None:
        _check_count(self.count)
        if not 0 < len(self.tiers) == len(self.bounds) - 1:
            most = len(tier_bounds(self.count)) - 1
            raise ArtifactError(f"{self.count} rows make 1 to {most} tiers, not {len(self.tiers)}")
        for tier, parts in enumerate(self.tiers):
            ordered = [part.ordered for part in parts]
            if ordered != sorted(ordered, reverse=True):
                text = self.texts[tier]
                raise ArtifactError(f"ordered parts must come first, not as in {text!r}")
            if sum(part.bits for part in parts if part.ordered) > MAX_BITS:
                text = self.texts[tier]
                raise ArtifactError(f"ordered parts have more than {MAX_BITS} bits in {text!r}")
        if self.rank > MOST_AXES:
            raise ArtifactError(f"a tier's parts cover {self.rank} axes; the limit is {MOST_AXES}")

    @classmethod
    def parse(cls, count: int, texts: Sequence[str]) -> Layout:
        """Parse one text per tier, with its parts separated by blanks."""
        tiers = []
        if len(texts) > _MOST_TIERS:
            raise ArtifactError(f"{len(texts)} tiers; {MOST_ROWS} rows have {_MOST_TIERS}")
        for text in texts:
            if not isinstance(text, str):
                raise ArtifactError(f"a tier is described by text, not by {text!r}")
            if len(text) > MOST_AXES * _LONGEST_PART:
                raise ArtifactError(f"a tier has a text of {len(text)} letters for its parts")
            tiers.append(tuple(CodePart.parse(part) for part in text.split()))
        return cls(count, tuple(tiers))

    def packed(self) -> bytes:
        """The parts of every tier, for :meth:`unpacked`."""
        return b"".join(
            number_bytes(len(parts)) + b"".join(part.packed() for part in parts)
            for parts in self.tiers
        )

    @classmethod
    def unpacked(cls, count: int, reader: ByteReader) -> Layout:
        """Read a layout of ``count`` rows that :meth:`packed` wrote, up to the end.

        Raises:
            ArtifactError: there are no such rows or parts, or the bytes end early.
        """
        _check_count(count)
        tiers: list[tuple[CodePart, ...]] = []
        while reader.left:
            if len(tiers) == _MOST_TIERS:
                raise ArtifactError(f"more than {_MOST_TIERS} tiers")
            parts = reader.number()
            if parts > MOST_AXES:
                raise ArtifactError(f"a tier has {parts} parts; the limit is {MOST_AXES}")
            tiers.append(tuple(CodePart.unpacked(reader) for _ in range(parts)))
        return cls(count, tuple(tiers))

    @property
    def texts(self) -> list[str]:
        """One text per tier, for :meth:`parse`."""
        return [" ".join(map(str, parts)) for parts in self.tiers]

    @cached_property
    def bounds(self) -> NDArray[np.int64]:
        """See :func:`tier_bounds`."""
        return tier_bounds(self.count, len(self.tiers))

    @property
    def rank(self) -> int:
        """Number of axes in use."""
        return max((sum(part.axes for part in parts) for parts in self.tiers), default=0)

    def widths(self, tier: int) -> tuple[int, ...]:
        """Bits that a row stores for each of its codes."""
        return tuple(part.width for part in self.tiers[tier])

    def bits(self, tier: int) -> tuple[int, ...]:
        """Bits of each of a row's codes, stored or not."""
        return tuple(part.bits for part in self.tiers[tier])

    def ordered_bits(self, tier: int) -> int:
        """Bits of the codes by which the tier's rows are sorted; 0 if they are not sorted."""
        return sum(part.bits for part in self.tiers[tier] if part.ordered)

    @property
    def any_ordered(self) -> bool:
        """Whether rows of a tier are sorted by their codes."""
        return self.first_starts[-1] > 0

    @cached_property
    def first_starts(self) -> tuple[int, ...]:
        """Where each tier's starts begin among all of them, and their number.

        A start is the first rank of an ordered code; the first code needs none.
        """
        return tuple(_starts((1 << bits) - 1 for bits in self._all_ordered_bits))

    @cached_property
    def first_start_bytes(self) -> tuple[int, ...]:
        """The same for the bytes in which they are stored."""
        sizes = (
            starts_bytes((1 << bits) - 1, rows) if bits else 0
            for bits, rows in zip(
                self._all_ordered_bits, np.diff(self.bounds).tolist(), strict=True
            )
        )
        return tuple(_starts(sizes))

    def ordered_codes(
        self, tier: int, ranks: NDArray[np.int64], starts: NDArray[np.int64]
    ) -> Iterator[NDArray[np.uint32]]:
        """The codes (m,) of ``ranks`` (m,) of a tier for each of its ordered parts.

        starts: (starts,) of all tiers.
        """
        own = starts[self.first_starts[tier] : self.first_starts[tier + 1]]
        left = np.searchsorted(own, ranks, side="right").astype(np.uint32)
        for part in self.tiers[tier]:
            if part.ordered:
                yield left & np.uint32((1 << part.bits) - 1)
                left = left >> np.uint32(part.bits)

    @property
    def _all_ordered_bits(self) -> list[int]:
        return [self.ordered_bits(tier) for tier in range(len(self.tiers))]

    @cached_property
    def first_bytes(self) -> tuple[int, ...]:
        """First byte of each tier's codes; tiers follow each other, each from a whole byte
        on."""
        return tuple(_starts(self._tier_bytes)[:-1])

    @property
    def code_bytes(self) -> int:
        """Bytes of all codes; see :func:`code_bytes`."""
        return code_bytes(self._tier_bytes)

    @cached_property
    def first_values(self) -> tuple[tuple[int, ...], ...]:
        """Where the values of each tier's parts start."""
        starts = iter(_starts(part.values for parts in self.tiers for part in parts))
        return tuple(tuple(islice(starts, len(parts))) for parts in self.tiers)

    @property
    def value_count(self) -> int:
        """Number of values of all tiers."""
        return sum(part.values for parts in self.tiers for part in parts)

    @cached_property
    def grids(self) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Which of the values (value_count,) are steps of grids, and the bits of each grid
        (grids,)."""
        steps = np.zeros(self.value_count, dtype=bool)
        bits = []
        for parts, firsts in zip(self.tiers, self.first_values, strict=True):
            for part, first in zip(parts, firsts, strict=True):
                if part.kind == "grid":
                    steps[first + 1] = True
                    bits.append(part.bits)
        return steps, np.array(bits, dtype=np.int64)

    def tier_of(self, ranks: NDArray[np.int64]) -> NDArray[np.int64]:
        """The tier of each rank (m,) in [0, count), int64."""
        return np.searchsorted(self.bounds[1:-1], ranks, side="right")

    @property
    def _tier_bytes(self) -> list[int]:
        widths = [sum(self.widths(tier)) for tier in range(len(self.tiers))]
        return tier_bytes(np.diff(self.bounds).tolist(), widths)


def _starts(sizes: Iterable[int]) -> list[int]:
    """Running sums of ``sizes`` from 0 on, the total last."""
    starts = [0]
    for size in sizes:
        starts.append(starts[-1] + size)
    return starts
