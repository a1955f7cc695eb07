"""Synthetic ids and compressed tables for timing lookups: what is read is real, the numbers random.

Codes are stored as compression stores them, in a saved artifact that is memory-mapped again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import saec
from saec.bits.elias_fano import pack_starts
from saec.bits.packing import PackedCodes, bits_for
from saec.format.clustered_field import ClusteredField
from saec.format.code_part import CodePart
from saec.format.codebook import Codebook
from saec.format.compressed_field import CompressedField
from saec.format.tier_index import TierIndex
from saec.format.tier_layout import Layout, tier_bounds
from saec.format.tiered_field import TieredField

__all__ = [
    "CROSSES",
    "DISTRIBUTIONS",
    "KEPT_TIERS",
    "SIMILAR",
    "USERS",
    "clustered",
    "draw_ids",
    "float_table",
    "scattered",
    "stored",
    "tiered",
]

Ids = NDArray[np.int64]

DISTRIBUTIONS = ("uniform", "zipf")
ZIPF_EXPONENT = 1.05

# What compression by axes made of fields of globo at a ratio of 100: of the crosses of user and
# article, the largest of all, three bits a row and fewer; of users, whose frequent rows have many.
CROSSES = (
    "11g 3 2 2",
    "6g 3 2 2",
    "5g 2 1 1",
    "5 2 1",
    "5j2 0",
    "4j2 0",
    "3 - 0",
    "3 0 - 0",
    "3 - 0",
)
USERS = (
    "8g 6g 7g 6g 6g 5g 5g 5g 4g 4g 4g 4g 4g 3g 3g 3g",
    "7g 6g 7g 5g 5g 5g 5g 4g 4g 4g 3 3 3g 2 2 2",
    "6g 6g 6g 5g 5g 4 4 3 3 3 3 2 2 2 2 1",
    "6 5 5 4 4 4 3 3 3 3 2 2 2 1 1 1",
    "5 5 4 4 4 3 3 2 2 2 1 1 1",
    "10j3 3 3 2 1 1 1 - 0",
    "6j6 0 - - - 0 - 0",
)
# The same crosses at a ratio of 500 with order="code": ordered codes are not stored row by row.
SIMILAR = (
    "12g 2 3g 2 1 2",
    "o7g 2 2 1 1 1",
    "o6g o2 o2 1",
    "o6g o2 o2",
    "o6 o2 o2",
    "o6 o3 o2",
    "o9j3 o2",
    "o10j3 o2",
    "o9j3 o2",
)

# Of crosses with ids in no order, at a ratio of 100; the last takes all further rows.
KEPT_TIERS = 7

_BLOCK_ROWS = 1 << 16


def draw_ids(rng: np.random.Generator, distribution: str, rows: int, shape: tuple[int, ...]) -> Ids:
    """Ids in [0, rows) in order of frequency: uniform, or P(id) ~ (id + 1) ** -1.05."""
    if distribution == "uniform":
        return rng.integers(0, rows, shape)
    cumulative = np.cumsum(np.arange(1, rows + 1, dtype=np.float64) ** -ZIPF_EXPONENT)
    return np.searchsorted(cumulative, rng.random(shape) * cumulative[-1], side="right")


def float_table(rng: np.random.Generator, rows: int, dim: int) -> Tensor:
    """A float32 table in memory that PyTorch allocated, as for any model."""
    table = torch.empty(rows, dim)
    block = torch.from_numpy(rng.standard_normal((_BLOCK_ROWS, dim), dtype=np.float32))
    for part in torch.split(table, _BLOCK_ROWS):
        part.copy_(block[: len(part)])
    return table


def clustered(rng: np.random.Generator, rows: int, dim: int, clusters: int) -> ClusteredField:
    """A table as ``saec.Clusters`` stores it by default: an int8 codebook on the table's axes."""
    codes = rng.integers(0, clusters, rows, dtype=np.uint32)
    centroids = rng.standard_normal((clusters, dim), dtype=np.float32)
    packed = PackedCodes.pack(codes, bits_for(clusters))
    return ClusteredField("table", packed, Codebook.round(centroids, "int8"), "float32")


def tiered(
    rng: np.random.Generator,
    rows: int,
    dim: int,
    tiers: Sequence[str] = CROSSES,
    places: Ids | None = None,
    number: int | None = None,
) -> TieredField:
    """A table as ``saec.Axes`` stores it, on at most ``dim`` axes.

    ``tiers``: how the first ones are stored; those that follow are like the last.
    ``places``: the id of each rank, as of :func:`scattered`; None if ids are ranks.
    ``number``: of tiers, the last of which takes all further rows; None for all that there can be.
    """
    bounds = tier_bounds(rows, number)
    texts = [*tiers, *[tiers[-1]] * len(bounds)]
    layout = Layout(rows, tuple(_parts(text, dim) for text in texts[: len(bounds) - 1]))
    axes = rng.standard_normal((layout.rank + 1, dim)).astype(np.float16)
    index = None
    if places is not None:
        numbers = np.empty(rows, dtype=np.int8)
        for tier, (first, last) in enumerate(pairwise(bounds.tolist())):
            numbers[places[first:last]] = tier
        index = TierIndex.of(numbers, len(layout.tiers))
    return TieredField(
        "table",
        layout,
        # Every code of every width is in use, so random bytes are random codes.
        np.frombuffer(rng.bytes(layout.code_bytes), dtype=np.uint8),
        rng.standard_normal(layout.value_count).astype(np.float16),
        axes,
        index,
        "float32",
        renumbered=layout.any_ordered,
        starts=_starts(rng, layout),
    )


def _starts(rng: np.random.Generator, layout: Layout) -> NDArray[np.uint8] | None:
    """Where the codes of tiers in order of them start: anywhere."""
    packed = []
    for tier, (first, last) in enumerate(pairwise(layout.bounds.tolist())):
        if bits := layout.ordered_bits(tier):
            starts = np.sort(rng.integers(0, last - first, (1 << bits) - 1, endpoint=True))
            packed.append(pack_starts(starts, last - first))
    return np.concatenate(packed) if packed else None


def scattered(rng: np.random.Generator, rows: int) -> Ids:
    """The id of each rank where the owner's ids say nothing about frequency, (rows,)."""
    return rng.permutation(rows)


def stored(field: CompressedField, path: Path) -> CompressedField:
    """The field as a lookup service has it: saved, and memory-mapped."""
    saec.Compressed([field]).save(path)
    return saec.load(path)[field.name]


def _parts(text: str, dim: int) -> tuple[CodePart, ...]:
    return tuple(_fitting(map(CodePart.parse, text.split()), dim))


def _fitting(parts: Iterable[CodePart], axes: int) -> Iterable[CodePart]:
    """The first parts, as far as there are axes."""
    for part in parts:
        if part.axes > axes:
            return
        axes -= part.axes
        yield part
