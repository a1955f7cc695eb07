"""Functions shared by Triton's kernels: blocks of ids and bags, codes, reduction and output.

A program decodes a block of rows, or of bags. Ids that are out of range are read as 0, so that
no other operation needs a mask, and their results are NaN. Tensors are contiguous.

These names mean the same in all functions of the kernels: ``layout``, ``codes`` and so on are the
table's tensors; ``columns`` is the length of the layout's rows, and ``STEPS`` bisections find
one row. ``DIM`` values of a row are processed at a time, starting with value ``left``. Blocks are
powers of two; in bags, a lane is an entry, and ``BAGS * ENTRIES`` lanes are processed at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from saec.errors import require

__all__ = [
    "bags_of",
    "by_bag",
    "codes_at",
    "jit",
    "part_of",
    "reduced",
    "store_rows",
    "tl",
    "wanted",
    "weighted",
]

# The compiler needs this among a kernel's globals. PyTorch's CUDA builds include the package.
triton: Any = require("triton", "torch")
tl: Any = require("triton.language", "torch")
jit: Callable[[Callable[..., Any]], Any] = triton.jit


@jit
def part_of(
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
def codes_at(codes: tl.tensor, bits: tl.tensor, masks: tl.tensor) -> Any:
    """Codes of up to 32 bits that start at ``bits``."""
    # Two aligned words contain a code, and end within the seven bytes behind the last one.
    words = codes.to(tl.pointer_type(tl.uint32)) + (bits >> 5)
    low = tl.load(words, mask=masks > 0, other=0).to(tl.int64)
    high = tl.load(words + 1, mask=masks > 0, other=0).to(tl.int64)
    return ((low | (high << 32)) >> (bits & 31)) & masks


@jit
def wanted(ids: tl.tensor, positions: tl.tensor, live: tl.tensor, vocab_size: tl.tensor) -> Any:
    """Ids at live positions, with 0 for those out of range and all others; and which are in
    range."""
    found = tl.load(ids + positions, mask=live, other=0).to(tl.int64)
    known = (found >= 0) & (found < vocab_size)
    return tl.where(known, found, 0), known


@jit
def bags_of(
    bag: tl.tensor,
    bounds: tl.tensor,
    bags: tl.tensor,
    count: tl.tensor,
    BAGS: tl.constexpr,
    ENTRIES: tl.constexpr,
) -> Any:
    """The start of each lane, the end of its bag, and the length of the longest bag."""
    lane = tl.arange(0, BAGS * ENTRIES)
    bag += lane // ENTRIES
    first = tl.load(bounds + bag, mask=bag < bags, other=0)
    last = tl.load(bounds + bag + 1, mask=bag < bags, other=0)
    first, last = tl.maximum(first, 0), tl.minimum(last, count)
    return first + lane % ENTRIES, last, tl.max(last - first, axis=0)


@jit
def weighted(
    ids: tl.tensor,
    weights: tl.tensor,
    positions: tl.tensor,
    last: tl.tensor,
    vocab_size: tl.tensor,
    padding: tl.tensor,
) -> Any:
    """Ids of a bag's positions, and their weights: NaN out of range, 0 for ids that are left
    out."""
    live = positions < last
    found, known = wanted(ids, positions, live, vocab_size)
    live = live & ((found != padding) | ~known)
    if weights is None:
        weight = tl.full(found.shape, 1, tl.float32)
    else:
        weight = tl.load(weights + positions, mask=live, other=0).to(tl.float32)
    return found, tl.where(live, tl.where(known, weight, float("nan")), 0)


@jit
def by_bag(values: tl.tensor, BAGS: tl.constexpr, ENTRIES: tl.constexpr) -> Any:
    """(lanes, n) to (bags, entries, n)."""
    return tl.reshape(values, (BAGS, ENTRIES, values.shape[1]))


@jit
def store_rows(
    out: tl.tensor,
    rows: tl.tensor,
    first: tl.tensor,
    count: tl.tensor,
    left: tl.tensor,
    dim: tl.tensor,
) -> Any:
    """Write the values from ``left`` on of rows (n, DIM), the first of which is row ``first``."""
    row = first + tl.arange(0, rows.shape[0])[:, None]
    column = left + tl.arange(0, rows.shape[1])[None, :]
    rows = rows.to(out.dtype.element_ty)
    tl.store(out + row * dim + column, rows, mask=(row < count) & (column < dim))


@jit
def reduced(rows: tl.tensor, total: tl.tensor, MODE: tl.constexpr) -> Any:
    """Bags (BAGS, DIM) from ``rows``, the sums or maxima of their ``total`` (BAGS,) entries."""
    total = total[:, None]
    if MODE == "mean":
        rows = tl.div_rn(rows, tl.maximum(total, 1).broadcast_to(rows.shape))
    if MODE != "sum":
        rows = tl.where(total > 0, rows, total)  # 0 in empty bags, NaN where an id is out of range
    return rows
