"""Rows of a day on their way into a patch: what is known of them before and after coding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saec.util.row_arrays import RowArrays

__all__ = ["ChangedRows", "CodedDay", "DayRows", "DaySurvey", "LookedUpSums", "PartSurvey"]

Floats = NDArray[np.float64]

_MOST_SAMPLED = 1 << 13  # rows of a band


@dataclass(frozen=True, eq=False)
class ChangedRows(RowArrays):
    """Rows of one class of the base, as coded (k,).

    number: of the class; positions: in the table; hashes: of their keys; shares: of all
    occurrences; now, coded, default: nats if lookups give the row that they give now, the coded
    one, or the default row; known: whether the key has a row now; symbols: of each part;
    later_bits: of all parts but the first; harm: nats per occurrence if another key got this row.
    """

    number: int
    positions: NDArray[np.int64]
    hashes: NDArray[np.uint64]
    shares: Floats
    now: Floats
    coded: Floats
    default: Floats
    known: NDArray[np.bool_]
    symbols: list[NDArray[np.int32]]
    later_bits: NDArray[np.int32]
    harm: Floats


@dataclass(frozen=True, eq=False)
class CodedDay:
    """Rows of a day as coded, by class in ascending order of classes.

    Some rows may be left out. saved: each of these saves at most so many nats; share: each has at
    most this share of all occurrences; 0 if no row was left out.
    """

    rows: Sequence[ChangedRows]
    saved: float
    share: float


@dataclass(frozen=True, eq=False)
class DayRows(RowArrays):
    """Rows (m, dim) of a part that may be worth coding, and of each (m,) what
    :class:`ChangedRows` has of it; forced: whether it is looked at whatever it saves."""

    positions: NDArray[np.int64]
    rows: NDArray[Any]
    hashes: NDArray[np.uint64]
    shares: Floats
    now: Floats
    default: Floats
    forced: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class LookedUpSums:
    """Of rows in the metric that lookups give: the sum of their shares, and the sums of the rows
    (dim,) and of their squared lengths, weighted by these."""

    weight: float
    sums: Floats
    squares: float

    @classmethod
    def of(cls, rows: Floats, shares: Floats) -> LookedUpSums:
        """Rows (m, dim) in the metric with these shares (m,)."""
        squares = float(shares @ np.einsum("nd,nd->n", rows, rows))
        return cls(float(shares.sum()), shares @ rows, squares)


@dataclass(frozen=True, eq=False)
class PartSurvey:
    """What the first pass finds in a part; see :class:`DaySurvey`.

    looked_up: of each block of rows; samples: by band.
    """

    now: float
    looked_up: Sequence[LookedUpSums]
    positions: NDArray[np.int64]
    gains: Floats
    samples: Mapping[int, tuple[NDArray[Any], Floats]]


@dataclass
class DaySurvey:
    """What the first pass finds.

    now: nats that all rows lose by the rows that lookups give now; weight, sums, squares: of looked
    up rows in the metric, weighted by share; positions: ascending numbers of rows that may be
    coded; gains: nats that each of these saves at most, infinite for those that are looked at
    whatever they save; samples: some rows of each band of frequencies, and their shares.
    """

    now: float = 0.0
    weight: float = 0.0
    squares: float = 0.0
    sums: Floats | float = 0.0
    positions: list[NDArray[np.int64]] = field(default_factory=list)
    gains: list[Floats] = field(default_factory=list)
    samples: dict[int, tuple[NDArray[Any], Floats]] = field(default_factory=dict)

    @classmethod
    def of(cls, parts: Iterable[PartSurvey]) -> DaySurvey:
        """What was found in all ``parts``. Their sums are added up in the order of blocks, so that
        they have the same last digits whichever part was ready first."""
        found = cls()
        samples: dict[int, list[tuple[NDArray[Any], Floats]]] = {}
        for part in parts:
            found.now += part.now
            for own in part.looked_up:
                found.add(own)
            found.positions.append(part.positions)
            found.gains.append(part.gains)
            for band, picked in part.samples.items():
                samples.setdefault(band, []).append(picked)
        found.samples = {band: _thinned(own) for band, own in samples.items()}
        return found

    def add(self, own: LookedUpSums) -> None:
        """Further rows."""
        self.weight += own.weight
        self.sums = self.sums + own.sums
        self.squares += own.squares

    def harm(self, rows: Floats) -> Floats:
        """Nats per occurrence (m,) if a random key got each of these ``rows`` (m, dim)."""
        mean = self.sums / self.weight
        spread = self.squares / self.weight - float(np.square(mean).sum())
        harm: Floats = (np.square(rows - mean).sum(axis=1) + max(spread, 0.0)) / 2
        return harm


def _thinned(parts: Sequence[tuple[NDArray[Any], Floats]]) -> tuple[NDArray[Any], Floats]:
    """Rows and their shares of all parts, but not more of them than are needed."""
    rows, shares = (np.concatenate(own) for own in zip(*parts, strict=True))
    step = -(-len(rows) // _MOST_SAMPLED)
    return rows[::step], shares[::step]
