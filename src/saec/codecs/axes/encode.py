"""Codes the rows of a field in tiers, part by part: codes, their positions, and the loss.

A tier may be sorted by the first codes of its rows. Rows with the same first codes are then
neighbours, and only the rank at which each of these codes starts is stored. A row's first codes
follow from its rank, which its new id gives.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from saec.bits.elias_fano import pack_starts
from saec.bits.packing import PackedRows
from saec.clustering.rowmap import RowMap
from saec.codecs.axes.principal_axes import Frame
from saec.codecs.axes.quantizer import Coder
from saec.format.tier_index import index_pieces
from saec.format.tier_layout import Layout
from saec.streaming.bit_writes import Piece, Scattered, run_of_codes, scattered_codes
from saec.streaming.chunks import Chunk
from saec.streaming.map_reduce import Passes
from saec.streaming.strata import ByRank, Placing, RowGroup

__all__ = [
    "CODES",
    "INDEX",
    "PERMUTATION",
    "STARTS",
    "EncodeTiers",
    "Ordering",
    "code_columns",
    "codes_of",
    "keeps_ids",
    "order_rows",
]

# Roles of tensors.
CODES, INDEX, STARTS, PERMUTATION = "codes", "tiers", "starts", "permutation"


def keeps_ids(placing: Placing) -> TypeGuard[ByRank]:
    """Whether ids stay although tiers are by frequency, so that lookups need an index of the
    tiers."""
    return isinstance(placing, ByRank) and placing.order == "keep"


@dataclass(frozen=True, eq=False)
class EncodeTiers:
    """A task that codes a part and returns its loss in nats and its pieces of the tensors.

    frame: of the field; placing: of its rows into tiers; layout: of the tiers; tiers: the coders of
    each; total: sum of all frequencies; row_map: clips far rows; ordering: positions of rows in
    tiers that are sorted by code, None if there are none.
    """

    frame: Frame
    placing: Placing
    layout: Layout
    tiers: tuple[tuple[Coder, ...], ...]
    total: float
    row_map: RowMap
    ordering: Ordering | None = None

    def __call__(self, part: Chunk, before: NDArray[np.int64]) -> tuple[float, list[Piece]]:
        frequencies = part.frequencies()
        rows, shares = part.weights(), frequencies / self.total
        near = self.row_map.near(rows, frequencies)
        pieces: list[Piece] = []
        groups = []
        lost = 0.0
        for group in self.placing.groups(part, before):
            coders = self.tiers[group.stratum]
            codes, error = self._coded(near[group.rows], rows[group.rows], coders)
            # No dot product: the last digits of one depend on the number of threads.
            lost += float((shares[group.rows] * error).sum()) / 2
            if self.ordering is not None and self.layout.ordered_bits(group.stratum):
                group, order = self.ordering.placed(part, group, codes)
                codes = [code[order] for code in codes]
            groups.append(group)
            pieces += self._code_pieces(group, codes)
        pieces += self._order_pieces(part, groups, before)
        return lost, pieces

    def _coded(
        self, near: NDArray[Any], rows: NDArray[Any], coders: Sequence[Coder]
    ) -> tuple[list[NDArray[np.uint32]], NDArray[np.float64]]:
        """Codes (m,) by each coder of the clipped rows ``near`` (m, dim), and the squared errors
        (m,) of decoded rows against the unclipped ``rows`` (m, dim)."""
        codes = list(code_columns(self.frame, near, coders))
        decoded = [coder.decode(own) for coder, own in zip(coders, codes, strict=True)]
        return codes, self.frame.squared_errors(rows, decoded)

    def _code_pieces(self, group: RowGroup, codes: Sequence[NDArray[np.uint32]]) -> Iterator[Piece]:
        stored = [
            pair for pair in zip(self.layout.widths(group.stratum), codes, strict=True) if pair[0]
        ]
        if not stored:
            return
        widths, codes = zip(*stored, strict=True)
        first = 8 * self.layout.first_bytes[group.stratum]
        if group.contiguous:
            yield run_of_codes(
                CODES, first + group.first * sum(widths), PackedRows.pack(codes, widths)
            )
        else:
            yield from scattered_codes(CODES, first + group.places * sum(widths), codes, widths)

    def _order_pieces(
        self, part: Chunk, groups: Sequence[RowGroup], before: NDArray[np.int64]
    ) -> Iterator[Piece]:
        """What finds a row again: the tiers of ids, or the old ids of new ones."""
        placing = self.placing
        if keeps_ids(placing):
            tiers = np.empty(len(part), dtype=np.int8)
            for group in groups:
                tiers[group.rows] = group.stratum
            passed = placing.passed(before)
            yield from index_pieces(INDEX, tiers, passed, self.layout.count)
            return
        if not (isinstance(placing, ByRank) or self.ordering):
            return
        for group in groups:
            new = placing.bounds[group.stratum] + group.places
            old = np.arange(part.start, part.stop, dtype=np.uint64)[group.rows]
            yield Scattered(PERMUTATION, 8 * new, old)


@dataclass(frozen=True, eq=False)
class Ordering:
    """Positions of the rows of each part in tiers that are sorted by code.

    Args:
        layout: of the tiers.
        starts: (bytes,) uint8, see :class:`~saec.format.tiered_field.TieredField`.
        places: (parts + 1, codes) uint32 or int64: entry (p, c) is the position in its tier of
            the first row with code c in part p or later. The columns are the codes of all sorted
            tiers, one tier after the other.
        first_codes: (tiers,) the column at which each tier's codes begin.
    """

    layout: Layout
    starts: NDArray[np.uint8]
    places: NDArray[np.integer]
    first_codes: tuple[int, ...]

    def placed(
        self, part: Chunk, group: RowGroup, codes: Sequence[NDArray[np.uint32]]
    ) -> tuple[RowGroup, NDArray[np.int64]]:
        """The rows of a group, sorted by their ``codes``, with their positions, and the order (m,)
        that sorts them.

        Rows with equal ordered codes stay in order of their ids.
        """
        rows = np.arange(len(part))[group.rows]
        ordered = _joined(codes, self.layout, group.stratum)
        order = np.lexsort((rows, ordered))
        found, firsts, counts = np.unique(ordered[order], return_index=True, return_counts=True)
        columns = self.first_codes[group.stratum] + found
        here, after = self.places[part.number : part.number + 2, columns].astype(np.int64)
        assert np.array_equal(after - here, counts), "a row has another code than when counted"
        places = np.repeat(here - firsts, counts) + np.arange(len(rows))
        return RowGroup(group.stratum, rows[order], places), order


def order_rows(
    passes: Passes,
    frame: Frame,
    placing: Placing,
    layout: Layout,
    tiers: Sequence[Sequence[Coder]],
    row_map: RowMap,
) -> Ordering:
    """Find the positions of rows sorted by code, by counting the rows of each code in one pass.

    Args:
        passes: over the rows.
        frame: of the field.
        placing: of its rows into tiers.
        layout: of the tiers.
        tiers: the coders of each.
        row_map: clips far rows.
    """
    bits = [layout.ordered_bits(tier) for tier in range(len(tiers))]
    first_codes = (0, *np.cumsum([1 << own if own else 0 for own in bits]).tolist())
    task = _Counting(frame, placing, layout, tuple(map(tuple, tiers)), first_codes, row_map)
    counts = passes.run(task, np.concatenate, counter=placing)
    # A table of 10^8 rows has about 10^8 of these numbers.
    narrow = np.uint32 if layout.count < 1 << 32 else np.int64
    places = np.zeros((len(counts) + 1, counts.shape[1]), dtype=narrow)
    np.cumsum(counts, axis=0, out=places[1:])
    starts = []
    for tier, rows in enumerate(np.diff(layout.bounds).tolist()):
        own = places[:, first_codes[tier] : first_codes[tier + 1]]
        if own.size:
            runs = np.cumsum(own[-1], dtype=np.int64)
            own[:, 1:] += runs[:-1].astype(narrow)
            starts.append(pack_starts(runs[:-1], rows))
    return Ordering(layout, np.concatenate(starts), places, first_codes[:-1])


def _joined(codes: Iterable[NDArray[np.uint32]], layout: Layout, tier: int) -> NDArray[np.uint32]:
    """The ordered codes of each row as one number (m,), the first part in the lowest bits.

    Later codes are not read from the iterator.
    """
    joined, shift = np.zeros(1, dtype=np.uint32), 0
    ordered = (part for part in layout.tiers[tier] if part.ordered)
    for part, code in zip(ordered, codes, strict=False):
        joined = joined | (code << np.uint32(shift))
        shift += part.bits
    return joined


def code_columns(
    frame: Frame, rows: NDArray[Any], coders: Sequence[Coder]
) -> Iterator[NDArray[np.uint32]]:
    """Codes (m,) of ``rows`` (m, dim) by each coder, computed one after the other.

    Codes do not depend, to the last digit, on how many of them the caller reads.
    """
    coordinates = frame.coordinates(rows, sum(coder.part.axes for coder in coders))
    return codes_of(frame, coordinates, coders)


def codes_of(
    frame: Frame, coordinates: NDArray[np.float32], coders: Sequence[Coder]
) -> Iterator[NDArray[np.uint32]]:
    """Codes (m,) of rows with these ``coordinates`` (m, axes); see :func:`code_columns`."""
    first = 0
    for coder in coders:
        span = slice(first, first + coder.part.axes)
        scale = np.sqrt(frame.nats[span] / frame.nats[span.start])
        yield coder.assign(coordinates[:, span], scale)
        first = span.stop


@dataclass(frozen=True, eq=False)
class _Counting:
    """A task that counts a part's rows by their ordered codes, (1, codes) uint32."""

    frame: Frame
    placing: Placing
    layout: Layout
    tiers: tuple[tuple[Coder, ...], ...]
    first_codes: tuple[int, ...]
    row_map: RowMap

    def __call__(self, part: Chunk, before: NDArray[np.int64]) -> NDArray[np.uint32]:
        weights = self.row_map.near(part.weights(), part.frequencies())
        counts = np.zeros((1, self.first_codes[-1]), dtype=np.uint32)
        for group in self.placing.groups(part, before):
            first, last = self.first_codes[group.stratum : group.stratum + 2]
            if first == last:
                continue
            columns = code_columns(self.frame, weights[group.rows], self.tiers[group.stratum])
            ordered = _joined(columns, self.layout, group.stratum)
            counts[0, first:last] = np.bincount(ordered, minlength=last - first)
        return counts
