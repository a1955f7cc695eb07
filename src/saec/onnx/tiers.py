"""Tiers of a compressed table for an ONNX graph: the distinct rows of each, and codes by rank."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from saec.format.tiered_field import TieredField, part_coordinates
from saec.onnx.word_packing import WORD_BITS

__all__ = ["DistinctRows", "by_rank", "distinct_rows", "partial_rows", "ranks_of", "tiers_of"]


@dataclass(frozen=True, eq=False)
class DistinctRows:
    """The rows of a tier from rank ``first`` on, each as the number of a distinct row."""

    first: int
    keys: NDArray[np.uint64] | None  # (rows,) codes of all parts in one number; None over 63 bits
    codes: NDArray[np.int64]  # (rows,) which of the distinct rows
    samples: NDArray[np.int64]  # (distinct,) the rank of one row with each value


def ranks_of(field: TieredField) -> NDArray[np.int64]:
    """The rank (vocab_size,) int64 of each id."""
    ids = np.arange(field.vocab_size, dtype=np.int64)
    if field.index is None:
        return ids
    tiers, places = field.index.locate(ids)
    return field.layout.bounds[tiers] + places


def by_rank(field: TieredField) -> TieredField:
    """The field with its rows in order of rank, so that ids are ranks."""
    if field.index is None:
        return field
    return TieredField(
        field.name, field.layout, field.codes, field.values, field.axes, None, field.dtype
    )


def tiers_of(field: TieredField) -> Iterator[DistinctRows]:
    """The distinct rows of each tier, in order."""
    layout = field.layout
    for tier, (first, stop) in enumerate(zip(layout.bounds[:-1], layout.bounds[1:], strict=True)):
        widths = layout.bits(tier)
        ranks = np.arange(first, stop)
        if sum(widths) > WORD_BITS - 1:
            yield DistinctRows(int(first), None, ranks - first, ranks)
            continue
        parts = field.tier_codes(tier)
        keys = np.zeros(len(ranks), dtype=np.uint64)
        for part, shift in zip(parts.T, accumulate(widths, initial=0), strict=False):
            np.bitwise_or(keys, part.astype(np.uint64) << np.uint64(shift), out=keys)
        _, samples, codes = np.unique(keys, return_index=True, return_inverse=True)
        yield DistinctRows(int(first), keys, codes, first + samples)


def distinct_rows(
    field: TieredField, tiers: list[DistinctRows], ranks: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The distinct rows (distinct, dim) of consecutive ``tiers``, and the number of the row (m,)
    at each of ``ranks`` (m,), all within these tiers."""
    sizes = [len(tier.samples) for tier in tiers]
    firsts = accumulate(sizes[:-1], initial=0)
    codes = np.concatenate([t.codes + first for t, first in zip(tiers, firsts, strict=True)])
    rows = by_rank(field).lookup(np.concatenate([tier.samples for tier in tiers]))
    return rows, codes[ranks - tiers[0].first]


def partial_rows(field: TieredField, tier: int, start: int, stop: int) -> NDArray[np.float32]:
    """What each code of the parts from ``start`` to before ``stop`` adds to a row, (codes, dim).

    The mean is added if ``start`` is 0.
    """
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
