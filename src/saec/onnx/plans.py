"""How a compressed table is written into an ONNX graph: distinct rows, and codes that find them.

Two layouts. *Whole* codes are bytes, or pairs of bytes, and take few operators. *Packed* codes have
the width that each tier needs and take bit operators: smaller, and slower (docs/onnx.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saec.codes import PackedRows, bits_for
from saec.onnx.words import WORD_BITS, pack_words, words_for
from saec.stored.clustered import ClusteredField
from saec.stored.field import CompressedField
from saec.stored.tiered import TieredField, part_coordinates

__all__ = ["CODE_DTYPES", "Group", "Packed", "Segment", "Whole", "packed_plan", "whole_plans"]

CODE_DTYPES = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.int32))

BLOCK_ROWS = 64  # tiers start at multiples of it

_MOST_GROUPS = 4  # each costs a gather of rows per id
_GROUP_BITS = range(4, 13)


@dataclass(frozen=True, eq=False)
class Whole:
    """Row of id i: ``rows[i]`` before ``cut``, from there on ``rows[cut + codes[i - cut]]``.

    ``codes[0]`` is 0. With ``places`` (count,) int32, i is the place of the id that is looked up.
    """

    rows: NDArray[np.float32]
    cut: int
    codes: NDArray[Any]
    places: NDArray[np.int32] | None = None

    @property
    def count(self) -> int:
        """Number of ids."""
        return self.cut + len(self.codes)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        places = 0 if self.places is None else self.places.nbytes
        return self.rows.nbytes + self.codes.nbytes + places


@dataclass(frozen=True)
class Group:
    """Bits of a code, ``width`` from ``shift`` on, and the first of the rows that they choose."""

    shift: int
    width: int
    first_row: int


@dataclass(frozen=True, eq=False)
class Segment:
    """Ids from ``first`` on whose codes have ``bits`` bits, in words from ``first_word`` on."""

    first: int
    bits: int
    first_word: int
    groups: tuple[Group, ...]


@dataclass(frozen=True, eq=False)
class Packed:
    """Row of an id: the sum of one row for each group of its segment.

    The first two of ``rows`` are zeros, for groups that a segment has not. ``segment_of`` (blocks,)
    tells the segment of each 64 ids. With ``places``, a ``Packed`` of its own without rows, ids are
    the places that it gives.
    """

    count: int
    rows: NDArray[np.float32]
    words: NDArray[np.uint64]
    segments: tuple[Segment, ...]
    segment_of: NDArray[np.uint8]
    places: NDArray[np.uint64] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        places = 0 if self.places is None else self.places.nbytes
        return self.rows.nbytes + self.words.nbytes + self.segment_of.nbytes + places

    @property
    def groups(self) -> int:
        """The most that a segment has."""
        return max(len(segment.groups) for segment in self.segments)

    @property
    def place_bits(self) -> int:
        """Width of a place."""
        return bits_for(self.count)


@dataclass(frozen=True, eq=False)
class _Tier:
    """Rows of a tier as numbers, of those that are alike only one."""

    first: int
    keys: NDArray[np.uint64] | None  # all parts' codes as one number; None beyond 64 bits
    codes: NDArray[np.int64]  # (rows,) which of the distinct rows
    samples: NDArray[np.int64]  # (distinct,) a rank with each of them


def whole_plans(field: CompressedField, alone: bool) -> dict[np.dtype[Any], Whole]:
    """The smallest plan with codes of each dtype that does; the widest always does.

    Without ``places``, unless the table is ``alone``: those can not be shared with others.
    """
    if isinstance(field, ClusteredField):
        rows, codes = _first_is_zero(field.codebook.values, field.codes.unpack())
        return {
            dtype: Whole(rows, 0, codes.astype(dtype))
            for dtype in CODE_DTYPES
            if len(rows) - 1 <= np.iinfo(dtype).max
        }
    if isinstance(field, TieredField):
        return _whole_tiers(field, alone)
    return {dtype: _as_they_are(field, dtype) for dtype in CODE_DTYPES}


def packed_plan(field: CompressedField, alone: bool) -> Packed:
    """The smallest plan with codes of any width; ``alone`` as of :func:`whole_plans`."""
    if isinstance(field, ClusteredField):
        return _one_segment(field.codebook.values, field.codes.unpack().astype(np.uint64))
    if not isinstance(field, TieredField):
        return _one_segment(field.decode(), np.arange(field.vocab_size, dtype=np.uint64))
    tiers = list(_tiers(field))
    if field.vectors is None:
        return _packed_tiers(field, tiers)
    ranks = _ranks(field)
    rows, codes = _distinct(field, tiers, ranks)
    alike = _one_segment(rows, codes.astype(np.uint64))
    if not alone:
        return alike
    base = _packed_tiers(field, tiers)
    places = pack_words(ranks.astype(np.uint64), base.place_bits)
    by_place = Packed(base.count, base.rows, base.words, base.segments, base.segment_of, places)
    return min(alike, by_place, key=lambda plan: plan.nbytes)


def _as_they_are(field: CompressedField, dtype: np.dtype[Any]) -> Whole:
    return Whole(field.decode(), field.vocab_size - 1, np.zeros(1, dtype))


def _first_is_zero(
    rows: NDArray[np.float32], codes: NDArray[Any]
) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Rows in such an order that the first code is 0."""
    swap = np.arange(len(rows))
    swap[[0, codes[0]]] = swap[[codes[0], 0]]
    return rows[swap], swap[codes]


def _ranks(field: TieredField) -> NDArray[np.int64]:
    """Where the tiers have the row of each id."""
    ids = np.arange(field.vocab_size, dtype=np.int64)
    if field.vectors is None:
        return ids
    tiers, places = field.vectors.locate(ids)
    return field.layout.bounds[tiers] + places


def _by_rank(field: TieredField) -> TieredField:
    """The same rows in the order of the tiers."""
    if field.vectors is None:
        return field
    return TieredField(
        field.name, field.layout, field.codes, field.values, field.axes, None, field.dtype
    )


def _tiers(field: TieredField) -> Iterator[_Tier]:
    layout = field.layout
    for tier, (first, stop) in enumerate(zip(layout.bounds[:-1], layout.bounds[1:], strict=True)):
        widths = layout.widths(tier)
        ranks = np.arange(first, stop)
        if sum(widths) > WORD_BITS - 1:
            yield _Tier(int(first), None, ranks - first, ranks)
            continue
        parts = PackedRows(field.codes, layout.first_bytes[tier], len(ranks), widths).unpack()
        keys = np.zeros(len(ranks), dtype=np.uint64)
        for part, shift in zip(parts.T, accumulate(widths, initial=0), strict=False):
            np.bitwise_or(keys, part.astype(np.uint64) << np.uint64(shift), out=keys)
        _, samples, codes = np.unique(keys, return_index=True, return_inverse=True)
        yield _Tier(int(first), keys, codes, first + samples)


def _distinct(
    field: TieredField, tiers: list[_Tier], ranks: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The distinct rows of ``tiers``, and by ``ranks`` (m,) less the first, which one each is."""
    sizes = [len(tier.samples) for tier in tiers]
    firsts = accumulate(sizes[:-1], initial=0)
    codes = np.concatenate([t.codes + first for t, first in zip(tiers, firsts, strict=True)])
    rows = _by_rank(field).lookup(np.concatenate([tier.samples for tier in tiers]))
    return rows, codes[ranks - tiers[0].first]


def _whole_tiers(field: TieredField, alone: bool) -> dict[np.dtype[Any], Whole]:
    tiers = list(_tiers(field))
    plans = {}
    for dtype in CODE_DTYPES:
        tail = field.vectors is None or alone
        ways = (
            _smallest_tail(field, tiers, dtype) if tail else None,
            _all_alike(field, tiers, dtype) if field.vectors is not None else None,
        )
        found = [plan for plan in ways if plan is not None]
        if found:
            plans[dtype] = min(found, key=lambda plan: plan.nbytes)
    return plans


def _all_alike(field: TieredField, tiers: list[_Tier], dtype: np.dtype[Any]) -> Whole | None:
    """Codes by id, whatever its tier."""
    if sum(len(tier.samples) for tier in tiers) - 1 > np.iinfo(dtype).max:
        return None
    rows, codes = _first_is_zero(*_distinct(field, tiers, _ranks(field)))
    return Whole(rows, 0, codes.astype(dtype))


def _smallest_tail(field: TieredField, tiers: list[_Tier], dtype: np.dtype[Any]) -> Whole:
    """Tiers from some on in codes, rows of those before as they are."""
    row_bytes, count = 4 * field.dim, field.vocab_size
    head = len(tiers)
    sizes = [(count * row_bytes + dtype.itemsize, head)]
    for start, tier in enumerate(tiers):
        distinct = sum(len(later.samples) for later in tiers[start:])
        code_bytes = (count - tier.first) * dtype.itemsize
        if distinct - 1 <= np.iinfo(dtype).max:
            sizes.append(((tier.first + distinct) * row_bytes + code_bytes, start))
    start = min(sizes)[1]
    places = None if field.vectors is None else _ranks(field).astype(np.int32)
    plain = _by_rank(field)
    if start == head:
        return _as_they_are(field, dtype)
    cut = tiers[start].first
    rows, codes = _first_is_zero(*_distinct(field, tiers[start:], np.arange(cut, count)))
    top = plain.lookup(np.arange(cut))
    return Whole(np.concatenate([top, rows]), cut, codes.astype(dtype), places)


def _one_segment(rows: NDArray[np.float32], codes: NDArray[np.uint64]) -> Packed:
    bits = bits_for(len(rows))
    return Packed(
        len(codes),
        np.concatenate([_zeros(rows.shape[1]), rows]),
        pack_words(codes, bits),
        (Segment(0, bits, 0, (Group(0, bits, 2),)),),
        np.zeros(-(-len(codes) // BLOCK_ROWS), np.uint8),
    )


def _zeros(dim: int) -> NDArray[np.float32]:
    return np.zeros((2, dim), np.float32)


def _packed_tiers(field: TieredField, tiers: list[_Tier]) -> Packed:
    rows, words, segments = [_zeros(field.dim)], [], []
    row_count, word_count = 2, 0
    for number, tier in enumerate(tiers):
        groups, tables, codes, bits = _coded(field, number, tier)
        firsts = accumulate((len(table) for table in tables[:-1]), initial=row_count)
        placed = tuple(
            Group(shift, width, first) for (shift, width), first in zip(groups, firsts, strict=True)
        )
        segments.append(Segment(tier.first, bits, word_count, placed))
        words.append(pack_words(codes, bits))
        rows += tables
        row_count += sum(len(table) for table in tables)
        word_count += len(words[-1])
    blocks = -(-field.vocab_size // BLOCK_ROWS)
    segment_of = field.layout.tier_of(np.arange(blocks) * BLOCK_ROWS).astype(np.uint8)
    return Packed(
        field.vocab_size,
        np.concatenate(rows),
        np.concatenate(words),
        tuple(segments),
        segment_of,
    )


_Coded = tuple[list[tuple[int, int]], list[NDArray[np.float32]], NDArray[np.uint64], int]


def _coded(field: TieredField, number: int, tier: _Tier) -> _Coded:
    """Groups, their rows, codes and their width: the smallest way."""
    row_bytes, count = 4 * field.dim, len(tier.codes)
    bits = bits_for(len(tier.samples)) if len(tier.samples) > 1 else 0
    alike = len(tier.samples) * row_bytes + 8 * words_for(count, bits)
    widths = field.layout.widths(number)
    ways = [(alike, -1)]
    if tier.keys is not None:
        for most in _GROUP_BITS:
            groups = _grouped(widths, most)
            size = sum(row_bytes << sum(widths[a:b]) for a, b in groups)
            if len(groups) <= _MOST_GROUPS:
                ways.append((size + 8 * words_for(count, sum(widths)), most))
    most = min(ways)[1]
    if most < 0 or tier.keys is None:
        rows = _by_rank(field).lookup(tier.samples)
        return [(0, bits)], [rows], tier.codes.astype(np.uint64), bits
    cuts, shifts = _grouped(widths, most), list(accumulate(widths, initial=0))
    groups = [(shifts[a], shifts[b] - shifts[a]) for a, b in cuts]
    tables = [_partial_rows(field, number, a, b) for a, b in cuts]
    return groups, tables, tier.keys, sum(widths)


def _grouped(widths: tuple[int, ...], most: int) -> list[tuple[int, int]]:
    """Runs of parts with at most so many bits together; one part may have more."""
    runs, start = [], 0
    for part in range(1, len(widths)):
        if sum(widths[start : part + 1]) > most:
            runs.append((start, part))
            start = part
    return [*runs, (start, len(widths))]


def _partial_rows(field: TieredField, tier: int, start: int, stop: int) -> NDArray[np.float32]:
    """What each code of the parts ``start`` to ``stop`` adds to a row; the first add the mean."""
    parts, axes = field.layout.tiers[tier], field.axes.astype(np.float32)
    width = sum(part.bits for part in parts[start:stop])
    codes = np.arange(1 << width, dtype=np.uint32)
    rows = np.repeat(axes[-1:] if start == 0 else np.zeros_like(axes[-1:]), len(codes), axis=0)
    axis = sum(part.axes for part in parts[:start])
    for number in range(start, stop):
        part, first = parts[number], field.layout.first_values[tier][number]
        values = field.values[first : first + part.values]
        coordinates = part_coordinates(part, values, codes & np.uint32((1 << part.bits) - 1))
        codes >>= np.uint32(part.bits)
        for coordinate in coordinates.T:
            rows += coordinate[:, None] * axes[axis]
            axis += 1
    return rows
