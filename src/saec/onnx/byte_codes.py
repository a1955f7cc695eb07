"""Plans with codes of whole bytes (uint8, uint16 or int32), which few operators can read.

Frequent rows hardly ever equal each other and are stored uncoded. Many rare rows equal each other,
so each has a narrow code. Rows between these have more distinct values and need wider codes; most
are sums of few parts, so storing them as sums of two rows takes a fraction of the bytes and one
more lookup (docs/onnx.md).
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

_CODE_BYTES = 2  # of each code of a pair and of rows before; codes from 65,536 on take 4
_MOST_BITS = 16  # of each code of a pair


class Kind(NamedTuple):
    """Properties that tables must share to be looked up together.

    dtype: of codes.
    most: the most rows that are added for an id between head and tail; 0 if no id is between.
    """

    dtype: np.dtype[Any]
    most: int


KINDS = [Kind(dtype, most) for most in (0, 1, 2) for dtype in CODE_DTYPES]


def _no_pairs() -> NDArray[np.int64]:
    return np.zeros((0, 2), dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Whole:
    """A plan of one table: head, pairs and tail.

    The row of id i is ``rows[i]`` if i < cut. For the next p ids, with (first, second) from
    ``pairs``, it is ``rows[cut + first]``, plus ``seconds[second - 1]`` unless ``second`` is 0. For
    all other ids it is ``rows[cut + code]``.

    rows: (m, dim) float32.
    cut: number of ids in the head.
    codes: (c,) of the tail's ids, at least one; the first is 0.
    places: (count,) int32 or None; if given, i is ``places[id]`` in place of the id.
    pairs: (p, 2) int64, first and second.
    seconds: (s, dim) float32 or None.
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
        """Bytes of all arrays; each code of a pair counts 16 bits."""
        places = 0 if self.places is None else self.places.nbytes
        seconds = 0 if self.seconds is None else self.seconds.nbytes
        pairs = 0
        if len(self.pairs):
            pairs = _CODE_BYTES * (self.cut + len(self.pairs) + 1) * (2 if seconds else 1)
        return self.rows.nbytes + self.codes.nbytes + places + pairs + seconds


def whole_plans(field: CompressedField, alone: bool) -> dict[Kind, Whole]:
    """The smallest plan of each possible kind; kinds with the widest dtype are always possible.

    Plans have ``places`` only if the table is ``alone``, as arrays shared with other tables cannot
    have them.
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
    """Rows and codes, with two rows swapped so that the first code is 0."""
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
    """A plan with one code for each id, in all tiers; None if ``dtype`` is too narrow."""
    if sum(len(tier.samples) for tier in tiers) - 1 > np.iinfo(dtype).max:
        return None
    rows, codes = _first_is_zero(*distinct_rows(field, tiers, ranks_of(field)))
    return Whole(rows, 0, codes.astype(dtype))


@dataclass(frozen=True, eq=False)
class _Halves:
    """A split of a tier's rows into sums of two rows.

    parts: number of parts that the first row covers; 0 if it is the whole row and there is no
    second.
    shift: number of bits of these parts' codes.
    firsts, seconds: (distinct,) codes of the first and the second row that occur.
    """

    parts: int
    shift: int
    firsts: NDArray[np.uint64]
    seconds: NDArray[np.uint64]

    @classmethod
    def of(cls, field: TieredField, number: int, tier: DistinctRows, most: int) -> _Halves | None:
        """The split with the fewest rows that adds at most ``most``; None if that is 0 or codes
        are too wide."""
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
        """The first rows (firsts, dim) and the second rows (seconds, dim)."""
        if not self.parts:
            return by_rank(field).lookup(tier.samples), np.zeros((0, field.dim), np.float32)
        last = len(field.layout.bits(number))
        low = partial_rows(field, number, 0, self.parts)[self.firsts]
        return low, partial_rows(field, number, self.parts, last)[self.seconds]

    def pairs(self, tier: DistinctRows) -> NDArray[np.int64]:
        """(ids, 2) int64: the index of the first row, and 1 + the index of the second row, or 0 if
        there is none."""
        if not self.parts or tier.keys is None:
            return np.stack([tier.codes, np.zeros_like(tier.codes)], axis=1)
        shift = np.uint64(self.shift)
        low = tier.keys & ((np.uint64(1) << shift) - np.uint64(1))
        first = np.searchsorted(self.firsts, low)
        return np.stack([first, 1 + np.searchsorted(self.seconds, tier.keys >> shift)], axis=1)


def _smallest_cut(
    field: TieredField, tiers: list[DistinctRows], halves: list[_Halves | None], kind: Kind
) -> Whole:
    """The smallest plan that stores the first tiers uncoded, the next ones as pairs and the last
    ones as codes."""
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
    """Bytes if tiers from ``start`` on are pairs and from ``tail`` on codes; None if codes are too
    wide."""
    between, distinct = halves[start:tail], sum(len(tier.samples) for tier in tiers[tail:])
    if distinct - 1 > np.iinfo(kind.dtype).max or None in between:
        return None
    found = [half for half in between if half is not None]
    rows = tiers[start].first + distinct + sum(half.row_count for half in found)
    pairs = tiers[tail].first if found else 0  # ids of the head have entries, too
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
