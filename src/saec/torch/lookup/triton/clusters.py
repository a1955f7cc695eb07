"""Triton kernels for tables in clusters; their arguments are named in :mod:`.blocks`."""

from __future__ import annotations

from typing import Any

from saec.torch.lookup.triton.blocks import (
    bags_of,
    by_bag,
    codes_at,
    jit,
    part_of,
    reduced,
    store_rows,
    tl,
    wanted,
    weighted,
)

__all__ = ["clustered_pool", "clustered_rows"]


@jit
def _centroid(
    ids: tl.tensor,
    codes: tl.tensor,
    layout: tl.tensor,
    segments: tl.tensor,
    centroids: tl.tensor,
    STEPS: tl.constexpr,
) -> Any:
    """The codebook's row of each id, 0 for a code beyond it; and which codes are valid."""
    segment = layout + part_of(ids, layout, 1, segments, STEPS)
    local = ids - tl.load(segment)
    bits = tl.load(segment + 2 * segments) + local * tl.load(segment + segments)
    code = codes_at(codes, bits, tl.load(segment + 3 * segments))
    raw = tl.load(segment + 5 * segments)
    found = tl.load(segment + 4 * segments) + code + local * raw
    known = (found >= 0) & (found < centroids)
    return tl.where(known, found, 0), known


@jit
def _read(
    matrix: tl.tensor, rows: tl.tensor, left: tl.tensor, dim: tl.tensor, DIM: tl.constexpr
) -> Any:
    """Values from ``left`` on of rows (n,) of a matrix, (n, DIM) float32."""
    column = left + tl.arange(0, DIM)[None, :]
    read = tl.load(matrix + rows[:, None] * dim + column, mask=column < dim, other=0)
    return read.to(tl.float32)


@jit
def clustered_rows(
    out: tl.tensor,
    ids: tl.tensor,
    count: tl.tensor,
    vocab_size: tl.tensor,
    codes: tl.tensor,
    layout: tl.tensor,
    codebook: tl.tensor,
    segments: tl.tensor,
    centroids: tl.tensor,
    dim: tl.tensor,
    STEPS: tl.constexpr,
    ROWS: tl.constexpr,
    DIM: tl.constexpr,
) -> None:
    """Write ``out`` (count, dim)."""
    first = tl.program_id(0).to(tl.int64) * ROWS
    position = first + tl.arange(0, ROWS)
    found, inside = wanted(ids, position, position < count, vocab_size)
    centroid, known = _centroid(found, codes, layout, segments, centroids, STEPS)
    known = (inside & known)[:, None]
    for left in range(0, dim, DIM):
        rows = tl.where(known, _read(codebook, centroid, left, dim, DIM), float("nan"))
        store_rows(out, rows, first, count, left, dim)


@jit
def clustered_pool(
    out: tl.tensor,
    ids: tl.tensor,
    count: tl.tensor,
    bounds: tl.tensor,
    bags: tl.tensor,
    weights: tl.tensor,
    padding: tl.tensor,
    vocab_size: tl.tensor,
    codes: tl.tensor,
    layout: tl.tensor,
    codebook: tl.tensor,
    segments: tl.tensor,
    centroids: tl.tensor,
    dim: tl.tensor,
    MODE: tl.constexpr,
    STEPS: tl.constexpr,
    BAGS: tl.constexpr,
    ENTRIES: tl.constexpr,
    DIM: tl.constexpr,
) -> None:
    """Write ``out`` (bags, dim)."""
    bag = tl.program_id(0).to(tl.int64) * BAGS
    first, last, longest = bags_of(bag, bounds, bags, count, BAGS, ENTRIES)
    for left in range(0, dim, DIM):
        total = tl.zeros((BAGS * ENTRIES, 1), tl.float32)
        pooled = tl.full((BAGS * ENTRIES, DIM), float("-inf") if MODE == "max" else 0.0, tl.float32)
        for step in range(0, longest, ENTRIES):
            found, weight = weighted(ids, weights, first + step, last, vocab_size, padding)
            centroid, known = _centroid(found, codes, layout, segments, centroids, STEPS)
            weight = tl.where(known, weight, float("nan"))[:, None]
            rows = _read(codebook, centroid, left, dim, DIM)
            if MODE == "max":
                pooled = tl.maximum(pooled, tl.where(weight > 0, rows, float("-inf")))
            else:
                pooled += weight * rows
            total += weight
        pooled = by_bag(pooled, BAGS, ENTRIES)
        pooled = tl.max(pooled, axis=1) if MODE == "max" else tl.sum(pooled, axis=1)
        entries = tl.sum(tl.reshape(total, (BAGS, ENTRIES)), axis=1)
        store_rows(out, reduced(pooled, entries, MODE), bag, bags, left, dim)
