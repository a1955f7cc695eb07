"""Rows of a tier in order of their first codes: how many have each, and where they go.

Rows that share their first codes stand side by side, and what is stored of these codes is the rank
at which each starts. What the codes say of a row is then in the row's rank, which the owner of the
vocabulary keeps anyway.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saec.bits.elias_fano import pack_starts
from saec.clustering.rowmap import RowMap
from saec.codecs.axes.principal_axes import Frame
from saec.codecs.axes.quantizer import Coder
from saec.format.tier_layout import Layout
from saec.streaming.chunks import Chunk
from saec.streaming.map_reduce import Passes
from saec.streaming.strata import Placing, RowGroup

__all__ = ["Ordering", "code_columns", "order_rows"]


@dataclass(frozen=True, eq=False)
class Ordering:
    """Where the rows of each part go, by tier and ordered code.

    Args:
        layout: of the tiers.
        starts: (bytes,) uint8, see :class:`~saec.format.tiered_field.TieredField`.
        places: (parts + 1, codes) integers, for the codes of all ordered tiers one after the other:
            the place in its tier of a part's first row with a code, and of the next part's.
        first_codes: (tiers,) where each tier's codes begin among them.
    """

    layout: Layout
    starts: NDArray[np.uint8]
    places: NDArray[np.integer]
    first_codes: tuple[int, ...]

    def placed(
        self, part: Chunk, group: RowGroup, codes: Sequence[NDArray[np.uint32]]
    ) -> tuple[RowGroup, NDArray[np.int64]]:
        """The rows of a group with their places in order of their ``codes``, and that order (m,).

        Rows whose ordered codes are the same stay in order of their ids.
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
    """Count the rows of each ordered code in one pass over a field's rows.

    Args:
        passes: over the rows.
        frame: of the field.
        placing: of its rows into tiers.
        layout: of the tiers.
        tiers: the coders of each.
        row_map: says as how near rows count.
    """
    bits = [layout.ordered_bits(tier) for tier in range(len(tiers))]
    first_codes = (0, *np.cumsum([1 << own if own else 0 for own in bits]).tolist())
    task = _Counting(frame, placing, layout, tuple(map(tuple, tiers)), first_codes, row_map)
    counts = passes.run(task, np.concatenate, counter=placing)
    # Of a table of 10^8 rows some 10^8 numbers, too.
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
    """The ordered codes of rows as one (m,), the first part's bits lowest; no others are read."""
    joined, shift = np.zeros(1, dtype=np.uint32), 0
    ordered = (part for part in layout.tiers[tier] if part.ordered)
    for part, code in zip(ordered, codes, strict=False):
        joined = joined | (code << np.uint32(shift))
        shift += part.bits
    return joined


def code_columns(
    frame: Frame, rows: NDArray[Any], coders: Sequence[Coder]
) -> Iterator[NDArray[np.uint32]]:
    """Codes (m,) of ``rows`` (m, dim) by each coder, made as they are asked for.

    The same to the last digit, however many are asked for.
    """
    coordinates = frame.coordinates(rows, sum(coder.part.axes for coder in coders))
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
