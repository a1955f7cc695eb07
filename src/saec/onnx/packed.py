"""Plans with packed codes, which bit operators read: smaller and slower than whole bytes.

Each tier has codes of its own width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from saec.bits.packing import bits_for
from saec.format.clustered_field import ClusteredField
from saec.format.compressed_field import CompressedField
from saec.format.tiered_field import TieredField
from saec.onnx.members import MOST_IDS, Members
from saec.onnx.tiers import DistinctRows, by_rank, distinct_rows, partial_rows, ranks_of, tiers_of
from saec.onnx.word_packing import pack_words, words_for

__all__ = ["BLOCK_ROWS", "Group", "Packed", "WordSegment", "packed_plan"]

BLOCK_ROWS = 64  # tiers start at multiples of this

_MOST_GROUPS = 4  # each group takes one gather of rows per id
_GROUP_BITS = range(4, 13)


@dataclass(frozen=True)
class Group:
    """A run of a code's bits that selects a row: ``width`` bits from bit ``shift`` on.

    first_row: index of the row for bits 0.
    """

    shift: int
    width: int
    first_row: int


@dataclass(frozen=True, eq=False)
class WordSegment:
    """Ids from ``first`` on, whose codes have ``bits`` bits and are in words from ``first_word``
    on."""

    first: int
    bits: int
    first_word: int
    groups: tuple[Group, ...]


@dataclass(frozen=True, eq=False)
class Packed:
    """A plan of one table; a row is the sum of one row for each group of the id's segment.

    count: number of ids.
    rows: (m, dim) float32; the first two are zeros, for segments with fewer groups than others.
    words: packed codes.
    segments: runs of ids with codes of one width.
    segment_of: (blocks,) the segment of each block of 64 ids.
    places: packed; if given, the place of an id is looked up in it and takes the id's part above.
    members: if given, the place of an id that it contains is looked up in it; other ids have place
        ``members_end`` + id.
    """

    count: int
    rows: NDArray[np.float32]
    words: NDArray[np.uint64]
    segments: tuple[WordSegment, ...]
    segment_of: NDArray[np.uint8]
    places: NDArray[np.uint64] | None = None
    members: Members | None = None
    members_end: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        places = 0 if self.places is None else self.places.nbytes
        places += 0 if self.members is None else self.members.nbytes
        return self.rows.nbytes + self.words.nbytes + self.segment_of.nbytes + places

    @property
    def groups(self) -> int:
        """The largest number of groups in a segment."""
        return max(len(segment.groups) for segment in self.segments)

    @property
    def place_bits(self) -> int:
        """Bits of a packed place."""
        return bits_for(self.count)


def packed_plan(field: CompressedField, alone: bool) -> Packed:
    """The smallest plan with codes of any width.

    It has ``places`` or ``members`` only if the table is ``alone``, as arrays shared with other
    tables cannot have them.
    """
    if isinstance(field, ClusteredField):
        return _one_segment(field.codebook.values, field.codes.unpack().astype(np.uint64))
    if not isinstance(field, TieredField):
        return _one_segment(field.decode(), np.arange(field.vocab_size, dtype=np.uint64))
    tiers = list(tiers_of(field))
    if field.index is None:
        return _packed_tiers(field, tiers)
    ranks = ranks_of(field)
    rows, codes = distinct_rows(field, tiers, ranks)
    alike = _one_segment(rows, codes.astype(np.uint64))
    if not alone:
        return alike
    base = _packed_tiers(field, tiers)
    places = pack_words(ranks.astype(np.uint64), base.place_bits)
    ways = [alike, replace(base, places=places)]
    if len(tiers) > 1 and field.vocab_size < MOST_IDS:
        ways.append(_by_members(field, tiers, ranks))
    return min(ways, key=lambda plan: plan.nbytes)


def _by_members(field: TieredField, tiers: list[DistinctRows], ranks: NDArray[np.int64]) -> Packed:
    """A plan with a hash table of the ids before the last tier; codes of the last tier are indexed
    by id."""
    *before, last = tiers
    end, in_tail = last.first, ranks >= last.first
    places = ranks[in_tail] - end
    codes, keys = np.zeros(len(ranks), np.int64), None
    codes[in_tail] = last.codes[places]
    if last.keys is not None:
        keys = np.zeros(len(ranks), np.uint64)
        keys[in_tail] = last.keys[places]
    plan = _packed_tiers(field, [*before, DistinctRows(end, keys, codes, last.samples)])
    members = Members.of(np.argsort(ranks)[:end], len(ranks))
    return replace(plan, members=members, members_end=end)


def _one_segment(rows: NDArray[np.float32], codes: NDArray[np.uint64]) -> Packed:
    bits = bits_for(len(rows))
    return Packed(
        len(codes),
        np.concatenate([_zeros(rows.shape[1]), rows]),
        pack_words(codes, bits),
        (WordSegment(0, bits, 0, (Group(0, bits, 2),)),),
        np.zeros(-(-len(codes) // BLOCK_ROWS), np.uint8),
    )


def _zeros(dim: int) -> NDArray[np.float32]:
    return np.zeros((2, dim), np.float32)


def _packed_tiers(field: TieredField, tiers: list[DistinctRows]) -> Packed:
    rows, words, segments = [_zeros(field.dim)], [], []
    row_count, word_count = 2, 0
    for number, tier in enumerate(tiers):
        groups, tables, codes, bits = _coded(field, number, tier)
        firsts = accumulate((len(table) for table in tables[:-1]), initial=row_count)
        placed = tuple(
            Group(shift, width, first) for (shift, width), first in zip(groups, firsts, strict=True)
        )
        segments.append(WordSegment(tier.first, bits, word_count, placed))
        words.append(pack_words(codes, bits))
        rows += tables
        row_count += sum(len(table) for table in tables)
        word_count += len(words[-1])
    blocks = -(-(tiers[-1].first + len(tiers[-1].codes)) // BLOCK_ROWS)
    segment_of = field.layout.tier_of(np.arange(blocks) * BLOCK_ROWS).astype(np.uint8)
    return Packed(
        field.vocab_size,
        np.concatenate(rows),
        np.concatenate(words),
        tuple(segments),
        segment_of,
    )


_Coded = tuple[list[tuple[int, int]], list[NDArray[np.float32]], NDArray[np.uint64], int]


def _coded(field: TieredField, number: int, tier: DistinctRows) -> _Coded:
    """The smallest coding of a tier: (shift, width) and rows of each group, the codes, and their
    width."""
    row_bytes, count = 4 * field.dim, len(tier.codes)
    bits = bits_for(len(tier.samples)) if len(tier.samples) > 1 else 0
    alike = len(tier.samples) * row_bytes + 8 * words_for(count, bits)
    widths = field.layout.bits(number)
    ways = [(alike, -1)]
    if tier.keys is not None:
        for most in _GROUP_BITS:
            groups = _grouped(widths, most)
            size = sum(row_bytes << sum(widths[a:b]) for a, b in groups)
            if len(groups) <= _MOST_GROUPS:
                ways.append((size + 8 * words_for(count, sum(widths)), most))
    most = min(ways)[1]
    if most < 0 or tier.keys is None:
        rows = by_rank(field).lookup(tier.samples)
        return [(0, bits)], [rows], tier.codes.astype(np.uint64), bits
    cuts, shifts = _grouped(widths, most), list(accumulate(widths, initial=0))
    groups = [(shifts[a], shifts[b] - shifts[a]) for a, b in cuts]
    tables = [partial_rows(field, number, a, b) for a, b in cuts]
    return groups, tables, tier.keys, sum(widths)


def _grouped(widths: tuple[int, ...], most: int) -> list[tuple[int, int]]:
    """Runs (start, stop) of parts with at most ``most`` bits together; a single part may have
    more."""
    runs, start = [], 0
    for part in range(1, len(widths)):
        if sum(widths[start : part + 1]) > most:
            runs.append((start, part))
            start = part
    return [*runs, (start, len(widths))]
