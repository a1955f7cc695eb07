"""Triton's kernels for tables in tiers; :mod:`saec.torch.lookup.triton.blocks` defines the
names."""

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

__all__ = ["tiered_pool", "tiered_rows"]


@jit
def _placed(
    ids: tl.tensor,
    positions: tl.tensor,
    live: tl.tensor,
    tiers_of: tl.tensor,
    places_of: tl.tensor,
    layout: tl.tensor,
    columns: tl.tensor,
    tiers: tl.tensor,
    STEPS: tl.constexpr,
) -> Any:
    """The layout's row for each id, and the bit at which the id's codes start."""
    if tiers_of is None:
        tier = part_of(ids, layout, columns, tiers, STEPS)
        place = ids - tl.load(layout + tier * columns)
    else:
        tier = tl.load(tiers_of + positions, mask=live, other=0)
        place = tl.load(places_of + positions, mask=live, other=0)
    tier_layout = layout + tier * columns
    return tier_layout, tl.load(tier_layout + 1) + place * tl.load(tier_layout + 2)


@jit
def _ordered(
    ids: tl.tensor,
    tier_layout: tl.tensor,
    code_starts: tl.tensor,
    starts: tl.tensor,
    ORDERED: tl.constexpr,
) -> Any:
    """The number of ``starts`` of its tier at or before each id's rank."""
    passed = tl.zeros_like(ids)
    if ORDERED > 0:
        for step in tl.static_range(ORDERED):
            further = passed + (1 << (ORDERED - 1 - step))
            start = tl.load(code_starts + further - 1, mask=further <= starts, other=0)
            passed = tl.where((further <= starts) & (start <= ids), further, passed)
        passed -= tl.load(tier_layout + 3).to(passed.dtype)
    return passed


@jit
def _coordinates(
    tier_layout: tl.tensor,
    start: tl.tensor,
    ordered: tl.tensor,
    axis: tl.tensor,
    rank: tl.tensor,
    codes: tl.tensor,
    values: tl.tensor,
    extents: tl.tensor,
) -> Any:
    """Coordinates on ``axis``, which broadcasts; 0 beyond the rank."""
    cell, used = tier_layout + 4 + axis, axis < rank
    mask = tl.load(cell + rank, mask=used, other=0)
    value = tl.load(cell + 2 * rank, mask=used, other=-1)
    stride = tl.load(cell + 3 * rank, mask=used, other=0)
    grid = tl.load(cell + 4 * rank, mask=used, other=0)
    in_order = tl.load(cell + 5 * rank, mask=used, other=0) > 0
    shift = tl.load(cell, mask=used, other=0)
    code = codes_at(codes, start + shift, mask)
    code = tl.where(in_order, (ordered >> shift) & mask, code)
    found = tl.load(values + value + code * stride, mask=value >= 0, other=0)
    extent = tl.load(extents + grid - 1, mask=grid > 0, other=0).to(tl.float32)
    step = tl.div_rn(extent, (mask + 1).to(tl.float32))
    return found.to(tl.float32) + code.to(tl.float32) * step


@jit
def _added(
    rows: tl.tensor,
    coordinates: tl.tensor,
    axis: tl.tensor,
    axes: tl.tensor,
    left: tl.tensor,
    dim: tl.tensor,
) -> Any:
    """Rows (n, DIM) with coordinates (n,) times the numbers from ``left`` on of an axis added."""
    column = left + tl.arange(0, rows.shape[1])
    direction = tl.load(axes + axis * dim + column, mask=column < dim, other=0).to(tl.float32)
    return rows + coordinates[:, None] * direction[None, :]


@jit
def _decoded(
    tier_layout: tl.tensor,
    start: tl.tensor,
    ordered: tl.tensor,
    rank: tl.tensor,
    codes: tl.tensor,
    values: tl.tensor,
    extents: tl.tensor,
    axes: tl.tensor,
    mean: tl.tensor,
    left: tl.tensor,
    dim: tl.tensor,
    DIM: tl.constexpr,
) -> Any:
    """Values from ``left`` on of rows, (n, DIM) float32, added in the order of the format."""
    column = left + tl.arange(0, DIM)
    centre = tl.load(mean + column, mask=column < dim, other=0).to(tl.float32)
    rows = tl.zeros((start.shape[0], DIM), tl.float32) + centre[None, :]
    for axis in range(rank):
        found = _coordinates(tier_layout, start, ordered, axis, rank, codes, values, extents)
        rows = _added(rows, found, axis, axes, left, dim)
    return rows


@jit
def tiered_rows(
    out: tl.tensor,
    ids: tl.tensor,
    count: tl.tensor,
    tiers_of: tl.tensor,
    places_of: tl.tensor,
    vocab_size: tl.tensor,
    codes: tl.tensor,
    layout: tl.tensor,
    values: tl.tensor,
    extents: tl.tensor,
    axes: tl.tensor,
    mean: tl.tensor,
    code_starts: tl.tensor,
    starts: tl.tensor,
    tiers: tl.tensor,
    columns: tl.tensor,
    rank: tl.tensor,
    dim: tl.tensor,
    STEPS: tl.constexpr,
    ORDERED: tl.constexpr,
    ROWS: tl.constexpr,
    DIM: tl.constexpr,
) -> None:
    """Write ``out`` (count, dim)."""
    first = tl.program_id(0).to(tl.int64) * ROWS
    position = first + tl.arange(0, ROWS)
    live = position < count
    found, inside = wanted(ids, position, live, vocab_size)
    tier_layout, start = _placed(
        found, position, live, tiers_of, places_of, layout, columns, tiers, STEPS
    )
    ordered = _ordered(found, tier_layout, code_starts, starts, ORDERED)
    for left in range(0, dim, DIM):
        rows = _decoded(
            tier_layout, start, ordered, rank, codes, values, extents, axes, mean, left, dim, DIM
        )
        rows = tl.where(inside[:, None], rows, float("nan"))
        store_rows(out, rows, first, count, left, dim)


@jit
def _entries(
    ids: tl.tensor,
    weights: tl.tensor,
    position: tl.tensor,
    last: tl.tensor,
    padding: tl.tensor,
    tiers_of: tl.tensor,
    places_of: tl.tensor,
    vocab_size: tl.tensor,
    layout: tl.tensor,
    code_starts: tl.tensor,
    starts: tl.tensor,
    tiers: tl.tensor,
    columns: tl.tensor,
    STEPS: tl.constexpr,
    ORDERED: tl.constexpr,
) -> Any:
    """For the bags' entries at ``position``: weights, the layout's rows, bits and ranks of
    codes."""
    found, weight = weighted(ids, weights, position, last, vocab_size, padding)
    tier_layout, start = _placed(
        found, position, position < last, tiers_of, places_of, layout, columns, tiers, STEPS
    )
    ordered = _ordered(found, tier_layout, code_starts, starts, ORDERED)
    return weight[:, None], tier_layout, start, ordered


@jit
def tiered_pool(
    out: tl.tensor,
    ids: tl.tensor,
    count: tl.tensor,
    bounds: tl.tensor,
    bags: tl.tensor,
    weights: tl.tensor,
    padding: tl.tensor,
    tiers_of: tl.tensor,
    places_of: tl.tensor,
    vocab_size: tl.tensor,
    codes: tl.tensor,
    layout: tl.tensor,
    values: tl.tensor,
    extents: tl.tensor,
    axes: tl.tensor,
    mean: tl.tensor,
    code_starts: tl.tensor,
    starts: tl.tensor,
    tiers: tl.tensor,
    columns: tl.tensor,
    rank: tl.tensor,
    dim: tl.tensor,
    MODE: tl.constexpr,
    STEPS: tl.constexpr,
    ORDERED: tl.constexpr,
    BAGS: tl.constexpr,
    ENTRIES: tl.constexpr,
    RANK: tl.constexpr,
    DIM: tl.constexpr,
) -> None:
    """Write ``out`` (bags, dim): sums, means or maxima of each bag's rows.

    Coordinates are summed, and the sums multiplied by the axes once for each bag; ``RANK`` is the
    size of the block of coordinates. For maxima every entry's row is decoded.
    """
    bag = tl.program_id(0).to(tl.int64) * BAGS
    first, last, longest = bags_of(bag, bounds, bags, count, BAGS, ENTRIES)
    if MODE == "max":
        for left in range(0, dim, DIM):
            total = tl.zeros((BAGS * ENTRIES, 1), tl.float32)
            largest = tl.full((BAGS * ENTRIES, DIM), float("-inf"), tl.float32)
            for step in range(0, longest, ENTRIES):
                weight, tier_layout, start, ordered = _entries(
                    ids,
                    weights,
                    first + step,
                    last,
                    padding,
                    tiers_of,
                    places_of,
                    vocab_size,
                    layout,
                    code_starts,
                    starts,
                    tiers,
                    columns,
                    STEPS,
                    ORDERED,
                )
                rows = _decoded(
                    tier_layout,
                    start,
                    ordered,
                    rank,
                    codes,
                    values,
                    extents,
                    axes,
                    mean,
                    left,
                    dim,
                    DIM,
                )
                largest = tl.maximum(largest, tl.where(weight > 0, rows, float("-inf")))
                total += weight
            largest = tl.max(by_bag(largest, BAGS, ENTRIES), axis=1)
            entries = tl.sum(tl.reshape(total, (BAGS, ENTRIES)), axis=1)
            store_rows(out, reduced(largest, entries, MODE), bag, bags, left, dim)
    else:
        every_axis = tl.arange(0, RANK)[None, :]
        total = tl.zeros((BAGS * ENTRIES, 1), tl.float32)
        sums = tl.zeros((BAGS * ENTRIES, RANK), tl.float32)
        for step in range(0, longest, ENTRIES):
            weight, tier_layout, start, ordered = _entries(
                ids,
                weights,
                first + step,
                last,
                padding,
                tiers_of,
                places_of,
                vocab_size,
                layout,
                code_starts,
                starts,
                tiers,
                columns,
                STEPS,
                ORDERED,
            )
            found = _coordinates(
                tier_layout[:, None],
                start[:, None],
                ordered[:, None],
                every_axis,
                rank,
                codes,
                values,
                extents,
            )
            sums += weight * found
            total += weight
        entries = tl.sum(tl.reshape(total, (BAGS, ENTRIES)), axis=1)
        sums = tl.sum(by_bag(sums, BAGS, ENTRIES), axis=1)
        for left in range(0, dim, DIM):
            rows = _added(tl.zeros((BAGS, DIM), tl.float32), entries, 0, mean, left, dim)
            for axis in range(rank):
                coordinates = tl.sum(tl.where(every_axis == axis, sums, 0), axis=1)
                rows = _added(rows, coordinates, axis, axes, left, dim)
            store_rows(out, reduced(rows, entries, MODE), bag, bags, left, dim)
