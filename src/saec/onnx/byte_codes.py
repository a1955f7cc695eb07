"""Whole codes: bytes, or pairs of bytes, that take few operators to read.

Frequent rows, which hardly ever are equal, are stored as they are; rare ones, of which many are
equal, by a narrow code each. Those between have more that differ: they take wider codes. Most are
sums of few parts, and stored as sums of two rows they take a fraction, and one more lookup
(docs/onnx.md).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from saec.format.clustered_field import ClusteredField
from saec.format.compressed_field import CompressedField
from saec.format.tiered_field import TieredField
from saec.onnx.tiers import DistinctRows, by_rank, distinct_rows, partial_rows, ranks_of, tiers_of

__all__ = ["KINDS", "Kind", "Whole", "whole_plans"]

CODE_DTYPES = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.int32))

_CODE_BYTES = 2  # of each code of a pair, and of rows before; 4 of those beyond the 65,536th
_MOST_BITS = 16  # of each


class Kind(NamedTuple):
    """What tables that are looked up together have in common.

    dtype: of codes.
    most: rows of which an id between head and tail may be the sum; 0 if none lies between.
    """

    dtype: np.dtype[Any]
    most: int


KINDS = [Kind(dtype, most) for most in (0, 1, 2) for dtype in CODE_DTYPES]


def _no_pairs() -> NDArray[np.int64]:
    return np.zeros((0, 2), dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Whole:
    """Row of id i: ``rows[i]`` before ``cut``; then, for the ids of ``pairs``, the sum of
    ``rows[cut + first]`` and, unless ``second`` is 0, ``seconds[second - 1]``; from there on
    ``rows[cut + code]``.

    pairs: (p, 2), first and second.
    codes: (c,), at least one; the first is 0.
    places: (count,) int32; if given, i is the place of the id that is looked up.
    """

    rows: NDArray[np.float32]
    cut: int
    codes: NDArray[Any]
    places: NDArray[np.int32] | None = None
    pairs: NDArray[np.int64] = field(default_factory=_no_pairs)
    seconds: NDArray[np.float32] | None = None

    @property
    def count(self) -> int:
        """Number of ids."""
        return self.cut + len(self.pairs) + len(self.codes)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, codes of pairs counted with 16 bits."""
        places = 0 if self.places is None else self.places.nbytes
        seconds = 0 if self.seconds is None else self.seconds.nbytes
        pairs = 0
        if len(self.pairs):
            pairs = _CODE_BYTES * (self.cut + len(self.pairs) + 1) * (2 if seconds else 1)
        return self.rows.nbytes + self.codes.nbytes + places + pairs + seconds


def whole_plans(field: CompressedField, alone: bool) -> dict[Kind, Whole]:
    """The smallest plan of each kind that does; those of the widest dtype always do.

    Without ``places``, unless the table is ``alone``: those can not be shared with others.
    """
    if isinstance(field, ClusteredField):
        rows, codes = _first_is_zero(field.codebook.values, field.codes.unpack())
        return {
            kind: Whole(rows, 0, codes.astype(kind.dtype))
            for kind in KINDS
            if len(rows) - 1 <= np.iinfo(kind.dtype).max
        }
    if isinstance(field, TieredField):
        return _of_tiers(field, alone)
    return {kind: _as_they_are(field, kind.dtype) for kind in KINDS}


def _as_they_are(field: CompressedField, dtype: np.dtype[Any]) -> Whole:
    return Whole(field.decode(), field.vocab_size - 1, np.zeros(1, dtype))


def _first_is_zero(
    rows: NDArray[np.float32], codes: NDArray[Any]
) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Rows in such an order that the first code is 0."""
    swap = np.arange(len(rows))
    swap[[0, codes[0]]] = swap[[codes[0], 0]]
    return rows[swap], swap[codes]


def _of_tiers(field: TieredField, alone: bool) -> dict[Kind, Whole]:
    tiers = list(tiers_of(field))
    halves = {
        most: [_Halves.of(field, number, tier, most) for number, tier in enumerate(tiers)]
        for most in (0, 1, 2)
    }
    plans = {}
    for kind in KINDS:
        by_place = field.index is None or alone
        ways = (
            _smallest_cut(field, tiers, halves[kind.most], kind) if by_place else None,
            _all_alike(field, tiers, kind.dtype) if field.index is not None else None,
        )
        found = [plan for plan in ways if plan is not None]
        if found:
            plans[kind] = min(found, key=lambda plan: plan.nbytes)
    return plans


def _all_alike(field: TieredField, tiers: list[DistinctRows], dtype: np.dtype[Any]) -> Whole | None:
    """Codes by id, whatever its tier."""
    if sum(len(tier.samples) for tier in tiers) - 1 > np.iinfo(dtype).max:
        return None
    rows, codes = _first_is_zero(*distinct_rows(field, tiers, ranks_of(field)))
    return Whole(rows, 0, codes.astype(dtype))


@dataclass(frozen=True, eq=False)
class _Halves:
    """How the rows of a tier are sums of two, of those that are needed.

    parts: of the first; none if it is the whole row, and there is no second.
    firsts, seconds: (distinct,) the codes of the two that occur.
    """

    parts: int
    shift: int
    firsts: NDArray[np.uint64]
    seconds: NDArray[np.uint64]

    @classmethod
    def of(cls, field: TieredField, number: int, tier: DistinctRows, most: int) -> _Halves | None:
        """With the fewest rows, sums of at most so many; None if there are too many rows."""
        widths, keys = field.layout.bits(number), tier.keys
        if keys is None or most == 0 or sum(widths) > 2 * _MOST_BITS:
            return None
        ways = [cls(0, 0, keys[tier.samples - tier.first], np.zeros(0, np.uint64))]
        ends = list(accumulate(widths))
        fits = [n for n, end in enumerate(ends[:-1], 1) if end <= _MOST_BITS >= ends[-1] - end]
        if fits and most == 2:
            parts = min(fits, key=lambda n: (1 << ends[n - 1]) + (1 << ends[-1] - ends[n - 1]))
            shift = np.uint64(ends[parts - 1])
            low = np.unique(keys & ((np.uint64(1) << shift) - np.uint64(1)))
            ways.append(cls(parts, int(shift), low, np.unique(keys >> shift)))
        return min(ways, key=lambda way: way.row_count)

    @property
    def row_count(self) -> int:
        return len(self.firsts) + len(self.seconds)

    def rows(
        self, field: TieredField, number: int, tier: DistinctRows
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The rows of both."""
        if not self.parts:
            return by_rank(field).lookup(tier.samples), np.zeros((0, field.dim), np.float32)
        last = len(field.layout.bits(number))
        low = partial_rows(field, number, 0, self.parts)[self.firsts]
        return low, partial_rows(field, number, self.parts, last)[self.seconds]

    def pairs(self, tier: DistinctRows) -> NDArray[np.int64]:
        """(ids, 2): which of the first rows, and 0 or one more than which of the second."""
        if not self.parts or tier.keys is None:
            return np.stack([tier.codes, np.zeros_like(tier.codes)], axis=1)
        shift = np.uint64(self.shift)
        low = tier.keys & ((np.uint64(1) << shift) - np.uint64(1))
        first = np.searchsorted(self.firsts, low)
        return np.stack([first, 1 + np.searchsorted(self.seconds, tier.keys >> shift)], axis=1)


def _smallest_cut(
    field: TieredField, tiers: list[DistinctRows], halves: list[_Halves | None], kind: Kind
) -> Whole:
    """Tiers before some are as they are, those from another one on in codes, others in pairs."""
    size_of = partial(_size, field, tiers, halves, kind)
    last = len(tiers)
    ways = [(start, tail) for tail in range(last) for start in range(tail + 1)]
    sizes = {way: size_of(*way) for way in ways}
    best = min(sizes, key=lambda way: (sizes[way] or np.inf, way[0]))
    size = sizes[best]
    if size is None or size >= 4 * field.dim * field.vocab_size:
        return _as_they_are(field, kind.dtype)
    return _cut(field, tiers, halves, kind, *best)


def _size(
    field: TieredField,
    tiers: list[DistinctRows],
    halves: list[_Halves | None],
    kind: Kind,
    start: int,
    tail: int,
) -> int | None:
    """Bytes with tiers from ``start`` on in pairs and from ``tail`` on in codes; None if not."""
    between, distinct = halves[start:tail], sum(len(tier.samples) for tier in tiers[tail:])
    if distinct - 1 > np.iinfo(kind.dtype).max or None in between:
        return None
    found = [half for half in between if half is not None]
    rows = tiers[start].first + distinct + sum(half.row_count for half in found)
    pairs = tiers[tail].first if found else 0  # those before have entries, too
    code_bytes = (field.vocab_size - tiers[tail].first) * kind.dtype.itemsize
    return 4 * field.dim * rows + kind.most * _CODE_BYTES * pairs + code_bytes


def _cut(
    field: TieredField,
    tiers: list[DistinctRows],
    halves: list[_Halves | None],
    kind: Kind,
    start: int,
    tail: int,
) -> Whole:
    plain, first = by_rank(field), tiers[tail].first
    rows, codes = _first_is_zero(
        *distinct_rows(field, tiers[tail:], np.arange(first, field.vocab_size))
    )
    firsts, seconds, pairs = [rows], [np.zeros((0, field.dim), np.float32)], [_no_pairs()]
    for number in range(start, tail):
        half, tier = halves[number], tiers[number]
        assert half is not None, "such a cut has no size"
        sizes = [sum(map(len, firsts)), sum(map(len, seconds))]
        low, high = half.rows(field, number, tier)
        found = half.pairs(tier)
        found[:, 0] += sizes[0]
        found[:, 1] += np.where(found[:, 1] > 0, sizes[1], 0)
        firsts.append(low)
        seconds.append(high)
        pairs.append(found)
    return Whole(
        np.concatenate([plain.lookup(np.arange(tiers[start].first)), *firsts]),
        tiers[start].first,
        codes.astype(kind.dtype),
        None if field.index is None else ranks_of(field).astype(np.int32),
        np.concatenate(pairs),
        np.concatenate(seconds),
    )
