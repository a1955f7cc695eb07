"""Triton's part of :mod:`saec.torch.triton_lookup`, which alone imports this.

A program decodes a block of rows, or of bags. Ids that are out of range are read as 0, so that
nothing else needs a mask, and end as NaN. Tensors are contiguous.

These names mean the same in all functions: ``layout``, ``codes`` and so on are the table's tensors;
``columns`` is the length of the layout's rows, of which ``STEPS`` bisections find one. Of a row
``DIM`` numbers are worked on at a time, ``left`` the first. Blocks are powers of two; in bags, a
lane is an entry, and ``BAGS * ENTRIES`` are worked on at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from saec.errors import require

__all__ = ["clustered_pool", "clustered_rows", "tiered_max", "tiered_pool", "tiered_rows"]

# Found by the compiler among a kernel's globals. PyTorch's builds for CUDA bring the package.
triton: Any = require("triton", "torch")
tl: Any = require("triton.language", "torch")
jit: Callable[[Callable[..., Any]], Any] = triton.jit


@jit
def _part(
    ids: tl.tensor, starts: tl.tensor, stride: tl.tensor, count: tl.tensor, STEPS: tl.constexpr
) -> Any:
    """The last of ``count`` ascending ``starts`` that is not above the id."""
    part = tl.zeros_like(ids)
    for step in tl.static_range(STEPS):
        further = part + (1 << (STEPS - 1 - step))
        start = tl.load(starts + further * stride, mask=further < count, other=0)
        part = tl.where((further < count) & (start <= ids), further, part)
    return part


@jit
def _codes(codes: tl.tensor, bits: tl.tensor, masks: tl.tensor) -> Any:
    """Codes of up to 32 bits that start at ``bits``."""
    # Two aligned words hold a code, and end within the seven bytes behind the last one.
    words = codes.to(tl.pointer_type(tl.uint32)) + (bits >> 5)
    low = tl.load(words, mask=masks > 0, other=0).to(tl.int64)
    high = tl.load(words + 1, mask=masks > 0, other=0).to(tl.int64)
    return ((low | (high << 32)) >> (bits & 31)) & masks


@jit
def _wanted(ids: tl.tensor, positions: tl.tensor, live: tl.tensor, vocab_size: tl.tensor) -> Any:
    """Ids at live positions, those out of range and all others 0, and which are in range."""
    found = tl.load(ids + positions, mask=live, other=0).to(tl.int64)
    known = (found >= 0) & (found < vocab_size)
    return tl.where(known, found, 0), known


@jit
def _bags(
    bag: tl.tensor,
    bounds: tl.tensor,
    bags: tl.tensor,
    count: tl.tensor,
    BAGS: tl.constexpr,
    ENTRIES: tl.constexpr,
) -> Any:
    """Where each lane starts, where its bag ends, and the longest bag's length."""
    lane = tl.arange(0, BAGS * ENTRIES)
    bag += lane // ENTRIES
    first = tl.load(bounds + bag, mask=bag < bags, other=0)
    last = tl.load(bounds + bag + 1, mask=bag < bags, other=0)
    first, last = tl.maximum(first, 0), tl.minimum(last, count)
    return first + lane % ENTRIES, last, tl.max(last - first, axis=0)


@jit
def _weighted(
    ids: tl.tensor,
    weights: tl.tensor,
    positions: tl.tensor,
    last: tl.tensor,
    vocab_size: tl.tensor,
    padding: tl.tensor,
) -> Any:
    """Ids of a bag's positions, and their weights: NaN out of range, 0 for what is left out."""
    live = positions < last
    found, known = _wanted(ids, positions, live, vocab_size)
    live = live & ((found != padding) | ~known)
    if weights is None:
        weight = tl.full(found.shape, 1, tl.float32)
    else:
        weight = tl.load(weights + positions, mask=live, other=0).to(tl.float32)
    return found, tl.where(live, tl.where(known, weight, float("nan")), 0)


@jit
def _by_bag(values: tl.tensor, BAGS: tl.constexpr, ENTRIES: tl.constexpr) -> Any:
    """(lanes, n) to (bags, entries, n)."""
    return tl.reshape(values, (BAGS, ENTRIES, values.shape[1]))


@jit
def _store_rows(
    out: tl.tensor,
    rows: tl.tensor,
    first: tl.tensor,
    count: tl.tensor,
    left: tl.tensor,
    dim: tl.tensor,
) -> Any:
    """Write the numbers from ``left`` on of rows (n, DIM) that are those from ``first`` on."""
    row = first + tl.arange(0, rows.shape[0])[:, None]
    column = left + tl.arange(0, rows.shape[1])[None, :]
    rows = rows.to(out.dtype.element_ty)
    tl.store(out + row * dim + column, rows, mask=(row < count) & (column < dim))


@jit
def _reduced(rows: tl.tensor, total: tl.tensor, MODE: tl.constexpr) -> Any:
    """Bags (BAGS, DIM), of whose ``total`` (BAGS,) entries the sums or the largest are ``rows``."""
    total = total[:, None]
    if MODE == "mean":
        rows = tl.div_rn(rows, tl.maximum(total, 1).broadcast_to(rows.shape))
    if MODE != "sum":
        rows = tl.where(total > 0, rows, total)  # 0 in empty bags, NaN where an id is out of range
    return rows


@jit
def _centroid(
    ids: tl.tensor,
    codes: tl.tensor,
    layout: tl.tensor,
    segments: tl.tensor,
    centroids: tl.tensor,
    STEPS: tl.constexpr,
) -> Any:
    """The codebook's row of each id, 0 for a code beyond it, and which are not."""
    segment = layout + _part(ids, layout, 1, segments, STEPS)
    local = ids - tl.load(segment)
    bits = tl.load(segment + 2 * segments) + local * tl.load(segment + segments)
    code = _codes(codes, bits, tl.load(segment + 3 * segments))
    raw = tl.load(segment + 5 * segments)
    found = tl.load(segment + 4 * segments) + code + local * raw
    known = (found >= 0) & (found < centroids)
    return tl.where(known, found, 0), known


@jit
def _read(
    matrix: tl.tensor, rows: tl.tensor, left: tl.tensor, dim: tl.tensor, DIM: tl.constexpr
) -> Any:
    """Numbers from ``left`` on of rows (n,) of a matrix, (n, DIM) float32."""
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
    found, inside = _wanted(ids, position, position < count, vocab_size)
    centroid, known = _centroid(found, codes, layout, segments, centroids, STEPS)
    known = (inside & known)[:, None]
    for left in range(0, dim, DIM):
        rows = tl.where(known, _read(codebook, centroid, left, dim, DIM), float("nan"))
        _store_rows(out, rows, first, count, left, dim)


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
    first, last, longest = _bags(bag, bounds, bags, count, BAGS, ENTRIES)
    for left in range(0, dim, DIM):
        total = tl.zeros((BAGS * ENTRIES, 1), tl.float32)
        pooled = tl.full((BAGS * ENTRIES, DIM), float("-inf") if MODE == "max" else 0.0, tl.float32)
        for step in range(0, longest, ENTRIES):
            found, weight = _weighted(ids, weights, first + step, last, vocab_size, padding)
            centroid, known = _centroid(found, codes, layout, segments, centroids, STEPS)
            weight = tl.where(known, weight, float("nan"))[:, None]
            rows = _read(codebook, centroid, left, dim, DIM)
            if MODE == "max":
                pooled = tl.maximum(pooled, tl.where(weight > 0, rows, float("-inf")))
            else:
                pooled += weight * rows
            total += weight
        pooled = _by_bag(pooled, BAGS, ENTRIES)
        pooled = tl.max(pooled, axis=1) if MODE == "max" else tl.sum(pooled, axis=1)
        entries = tl.sum(tl.reshape(total, (BAGS, ENTRIES)), axis=1)
        _store_rows(out, _reduced(pooled, entries, MODE), bag, bags, left, dim)


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
        tier = _part(ids, layout, columns, tiers, STEPS)
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
    """How many of the ``starts`` of its tier each id has passed, which is its rank then."""
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
    code = _codes(codes, start + shift, mask)
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
    """Numbers from ``left`` on of rows, (n, DIM) float32, added up as the format prescribes."""
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
    found, inside = _wanted(ids, position, live, vocab_size)
    tier_layout, start = _placed(
        found, position, live, tiers_of, places_of, layout, columns, tiers, STEPS
    )
    ordered = _ordered(found, tier_layout, code_starts, starts, ORDERED)
    for left in range(0, dim, DIM):
        rows = _decoded(
            tier_layout, start, ordered, rank, codes, values, extents, axes, mean, left, dim, DIM
        )
        rows = tl.where(inside[:, None], rows, float("nan"))
        _store_rows(out, rows, first, count, left, dim)


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
    """Write ``out`` (bags, dim), sums or means: of coordinates, times the axes once for a bag."""
    bag = tl.program_id(0).to(tl.int64) * BAGS
    first, last, longest = _bags(bag, bounds, bags, count, BAGS, ENTRIES)
    every_axis = tl.arange(0, RANK)[None, :]
    total = tl.zeros((BAGS * ENTRIES, 1), tl.float32)
    sums = tl.zeros((BAGS * ENTRIES, RANK), tl.float32)
    for step in range(0, longest, ENTRIES):
        position = first + step
        found, weight = _weighted(ids, weights, position, last, vocab_size, padding)
        tier_layout, start = _placed(
            found, position, position < last, tiers_of, places_of, layout, columns, tiers, STEPS
        )
        ordered = _ordered(found, tier_layout, code_starts, starts, ORDERED)
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
        sums += weight[:, None] * found
        total += weight[:, None]
    entries = tl.sum(tl.reshape(total, (BAGS, ENTRIES)), axis=1)
    sums = tl.sum(_by_bag(sums, BAGS, ENTRIES), axis=1)
    for left in range(0, dim, DIM):
        rows = _added(tl.zeros((BAGS, DIM), tl.float32), entries, 0, mean, left, dim)
        for axis in range(rank):
            coordinates = tl.sum(tl.where(every_axis == axis, sums, 0), axis=1)
            rows = _added(rows, coordinates, axis, axes, left, dim)
        _store_rows(out, _reduced(rows, entries, MODE), bag, bags, left, dim)


@jit
def tiered_max(
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
    DIM: tl.constexpr,
) -> None:
    """Write ``out`` (bags, dim), the largest numbers of each bag's rows."""
    bag = tl.program_id(0).to(tl.int64) * BAGS
    first, last, longest = _bags(bag, bounds, bags, count, BAGS, ENTRIES)
    for left in range(0, dim, DIM):
        total = tl.zeros((BAGS * ENTRIES, 1), tl.float32)
        largest = tl.full((BAGS * ENTRIES, DIM), float("-inf"), tl.float32)
        for step in range(0, longest, ENTRIES):
            position = first + step
            found, weight = _weighted(ids, weights, position, last, vocab_size, padding)
            tier_layout, start = _placed(
                found, position, position < last, tiers_of, places_of, layout, columns, tiers, STEPS
            )
            ordered = _ordered(found, tier_layout, code_starts, starts, ORDERED)
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
            weight = weight[:, None]
            largest = tl.maximum(largest, tl.where(weight > 0, rows, float("-inf")))
            total += weight
        largest = tl.max(_by_bag(largest, BAGS, ENTRIES), axis=1)
        entries = tl.sum(tl.reshape(total, (BAGS, ENTRIES)), axis=1)
        _store_rows(out, _reduced(largest, entries, MODE), bag, bags, left, dim)
