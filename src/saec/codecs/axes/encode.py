"""Coding the rows of a field in tiers, part by part: codes, where they are, and what is lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from saec.clustering.rowmap import RowMap
from saec.codecs.axes.principal_axes import Frame
from saec.codecs.axes.quantizer import Coder
from saec.codecs.axes.sort_by_code import Ordering, code_columns
from saec.format.tier_index import index_pieces
from saec.format.tier_layout import Layout
from saec.streaming.bit_writes import Piece, Scattered, run_of_codes, scattered_codes
from saec.streaming.chunks import Chunk
from saec.streaming.strata import ByRank, Placing, RowGroup

__all__ = ["CODES", "INDEX", "PERMUTATION", "STARTS", "EncodeTiers", "keeps_ids"]

# Roles of tensors.
CODES, INDEX, STARTS, PERMUTATION = "codes", "tiers", "starts", "permutation"


def keeps_ids(placing: Placing) -> TypeGuard[ByRank]:
    """Whether rows go to tiers by frequency while their ids, which are no ranks, stay."""
    return isinstance(placing, ByRank) and placing.order == "keep"


@dataclass(frozen=True, eq=False)
class EncodeTiers:
    """A task that codes a part: what it loses, and the pieces of tensors that it makes.

    frame: of the field; placing: of its rows into tiers; layout: of the tiers; tiers: the coders of
    each; total: of all frequencies; ordering: of tiers in order of their codes, if there are;
    row_map: says as how near rows count.
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
            # No dot product: its last digits depend on the number of threads.
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
        """Codes of rows (m, dim) from where they count as lying, (m,) for each coder, and the
        squared errors (m,) of ``rows`` as they are.
        """
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
            yield run_of_codes(CODES, first + group.first * sum(widths), codes, widths)
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
