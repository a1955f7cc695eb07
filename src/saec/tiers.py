"""How a field's rows are stored in tiers: runs of rows of similar frequency, coded alike.

Rows stand in an order of their own, frequent ones first, cut at the ranks 64, 256, 1024, ...
A tier's parts describe its row's coordinates axis by axis, the leading axis first. Each part takes
its code from the row and its values from the tier.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from saec.codes import packed_bytes
from saec.errors import ArtifactError

__all__ = ["FIRST_TIER", "Layout", "Part", "tier_bounds"]

FIRST_TIER = 64
_GROWTH_BITS = 2  # each cut is four times the one before

MAX_BITS = 16
_PART = re.compile(r"(\d{1,2})(?:(g)|j(\d{1,2}))?", re.ASCII)


def tier_bounds(count: int) -> NDArray[np.int64]:
    """First rank of each tier of ``count`` rows, and ``count`` itself: 0, 64, 256, ..., count."""
    bounds, cut = [0], FIRST_TIER
    while cut < count:
        bounds.append(cut)
        cut <<= _GROWTH_BITS
    return np.array([*bounds, count], dtype=np.int64)


@dataclass(frozen=True)
class Part:
    """One code of a row and the coordinates that it stands for.

    Args:
        kind: ``"none"`` is a coordinate of 0 and takes nothing; ``"table"`` looks ``axes``
            coordinates up by the code; ``"grid"`` is offset + code * step, one coordinate.
        bits: width of the code.
        axes: coordinates that the part covers.
    """

    kind: Literal["none", "table", "grid"] = "none"
    bits: int = 0
    axes: int = 1

    @property
    def values(self) -> int:
        """How many float16 values the tier keeps for it."""
        if self.kind == "none":
            return 0
        return 2 if self.kind == "grid" else self.axes << self.bits

    def __str__(self) -> str:
        if self.kind == "none":
            return "-"
        if self.kind == "grid":
            return f"{self.bits}g"
        return f"{self.bits}" if self.axes == 1 else f"{self.bits}j{self.axes}"

    @classmethod
    def parse(cls, text: str) -> Part:
        """Read what ``str`` wrote: ``-``, ``5`` (table), ``7g`` (grid), ``6j3`` (three axes)."""
        if text == "-":
            return cls()
        match = _PART.fullmatch(text)
        if match is None:
            raise ArtifactError(f"{text!r} describes no part of a tier")
        bits, grid, axes = int(match[1]), match[2] is not None, int(match[3] or 1)
        part = cls("grid" if grid else "table", bits, axes)
        if bits > MAX_BITS or axes < 1 or (grid and bits == 0) or str(part) != text:
            raise ArtifactError(f"{text!r} describes no part of a tier")
        return part


@dataclass(frozen=True)
class Layout:
    """The parts of every tier of ``count`` rows; a tier's parts cover at most ``rank`` axes.

    Axes after a tier's last part have the coordinate 0 there.
    """

    count: int
    tiers: tuple[tuple[Part, ...], ...]

    def __post_init__(self) -> None:
        if type(self.count) is not int or self.count < 1:  # True is no count
            raise ArtifactError(f"a field has one or more rows, not {self.count!r}")
        if len(self.tiers) != len(self.bounds) - 1:
            raise ArtifactError(
                f"{self.count} rows make {len(self.bounds) - 1} tiers, not {len(self.tiers)}"
            )

    @classmethod
    def parse(cls, count: int, texts: Sequence[str]) -> Layout:
        """Read one text per tier, its parts separated by blanks."""
        tiers = []
        for text in texts:
            if not isinstance(text, str):
                raise ArtifactError(f"a tier is described by text, not by {text!r}")
            tiers.append(tuple(Part.parse(part) for part in text.split()))
        return cls(count, tuple(tiers))

    @property
    def texts(self) -> list[str]:
        """One text per tier, for :meth:`parse`."""
        return [" ".join(map(str, parts)) for parts in self.tiers]

    @cached_property
    def bounds(self) -> NDArray[np.int64]:
        """See :func:`tier_bounds`."""
        return tier_bounds(self.count)

    @property
    def rank(self) -> int:
        """Number of axes in use."""
        return max((sum(part.axes for part in parts) for parts in self.tiers), default=0)

    def widths(self, tier: int) -> tuple[int, ...]:
        """Bits of each code of a row."""
        return tuple(part.bits for part in self.tiers[tier])

    @cached_property
    def first_bytes(self) -> tuple[int, ...]:
        """Where each tier's codes start; tiers follow each other, each from a whole byte on."""
        return tuple(_starts(self._tier_bytes)[:-1])

    @property
    def code_bytes(self) -> int:
        """Bytes of all codes, and those that let a reader overshoot."""
        return sum(self._tier_bytes) + packed_bytes(0, 1)

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
        """Which of the values are steps of grids (value_count,), and the bits of each (grids,)."""
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
        rows = np.diff(self.bounds).tolist()
        return [-(-count * sum(self.widths(tier)) // 8) for tier, count in enumerate(rows)]


def _starts(sizes: Iterable[int]) -> list[int]:
    """Running sums of ``sizes`` from 0 on, the total last."""
    starts = [0]
    for size in sizes:
        starts.append(starts[-1] + size)
    return starts
