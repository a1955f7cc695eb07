"""Rows and bags decoded slowly as docs/format.md describes, and calls of the native core.

Tables here decode their tensors row by row, with bits as Python integers and numpy arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike, NDArray

from saec import _native
from saec.format.native_lookup import ELEMENTS, LookupTable, RowRun, run_table, tier_table
from saec.format.tier_index import TierIndex
from saec.format.tier_layout import Layout

Floats = NDArray[np.float32]
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
ISAS = ("scalar", "avx2", "avx512")
GUARD = 5  # guard columns in each row, which no field may write
IDS_PER_THREAD = 1 << 13


def runs_here(isa: str) -> bool:
    try:
        _native.pool([], 0, 1, isa)
    except ValueError:
        return False
    return True


HERE = tuple(isa for isa in ISAS if runs_here(isa))


def bits_at(data: NDArray[np.uint8], bit: int, width: int) -> int:
    """``width`` bits from ``bit`` on, lowest first."""
    used = data[bit // 8 : (bit + width + 7) // 8].tobytes()
    return int.from_bytes(used, "little") >> bit % 8 & ((1 << width) - 1)


@dataclass(frozen=True, eq=False)
class Runs:
    """A table of runs: the code of a row selects one of the stored rows."""

    count: int
    runs: Sequence[RowRun]
    codes: NDArray[np.uint8]
    stored: NDArray[Any]
    grid: Floats | None = None
    axes: NDArray[np.float64] | None = None
    pads: dict[int, int] = field(default_factory=dict)

    @cached_property
    def table(self) -> LookupTable:
        pieces = self.codes, self.stored, self.grid, self.axes, self.pads
        return run_table(self.count, self.runs, *pieces)

    @property
    def dim(self) -> int:
        return int(self.stored.shape[1] if self.axes is None else self.axes.shape[1])

    def number_of_stored_row(self, row: int) -> int:
        if row in self.pads:
            return self.pads[row]
        run = max((run for run in self.runs if run.first_row <= row), key=lambda r: r.first_row)
        place = row - run.first_row
        if run.code_bits == 0:
            return run.first_stored + place
        first = 8 * run.first_byte + place * run.code_bits
        return run.first_stored + bits_at(self.codes, first, run.code_bits)

    def row(self, row: int) -> Floats:
        stored = self.stored[self.number_of_stored_row(row)].astype(np.float32)
        if self.grid is not None:
            stored = stored * self.grid[0] + self.grid[1]
        if self.axes is None:
            return stored
        total = np.zeros(self.dim)
        for coordinate, axis in zip(stored.astype(np.float64), self.axes[:-1], strict=True):
            total += coordinate * axis
        return (total + self.axes[-1]).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Tiers:
    """A table in tiers.

    tier_of: (count,) if ids are not ranks; code_starts: if rows are sorted by code."""

    count: int
    texts: Sequence[str]
    codes: NDArray[np.uint8]
    values: Floats
    axes: Floats
    tier_of: NDArray[np.int8] | None = None
    pads: dict[int, Floats] = field(default_factory=dict)
    code_starts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    @cached_property
    def table(self) -> LookupTable:
        layout = Layout.parse(self.count, self.texts)
        index = None
        if self.tier_of is not None:
            index = TierIndex.of(self.tier_of, len(self.texts))
        return tier_table(
            layout, self.codes, self.values, self.axes, index, self.pads, self.code_starts
        )

    @property
    def dim(self) -> int:
        return self.axes.shape[1]

    @cached_property
    def firsts(self) -> list[int]:
        """First rank of each tier."""
        return [0, *(64 * 4**i for i in range(len(self.texts) - 1))]

    def place(self, row: int) -> tuple[int, int]:
        """Tier of a row, and its number within it."""
        if self.tier_of is None:
            tier = max(i for i, first in enumerate(self.firsts) if first <= row)
            return tier, row - self.firsts[tier]
        tier = int(self.tier_of[row])
        return tier, int(np.count_nonzero(self.tier_of[:row] == tier))

    def row(self, row: int) -> Floats:
        if row in self.pads:
            return self.pads[row]
        tier, place = self.place(row)
        first_byte, first_value = self.starts[tier]
        total: Floats = self.axes[-1].copy()
        bit, axis = 8 * first_byte + place * widths(self.texts[tier]), 0
        ordered = self.ordered_code(tier, self.firsts[tier] + place)
        for part in ordered_parts_of(self.texts[tier]):
            code, ordered = ordered & ((1 << part[0]) - 1), ordered >> part[0]
            total, axis, first_value = self.added(total, axis, first_value, code, part)
        for part in parts_of(self.texts[tier]):
            code, bit = bits_at(self.codes, bit, part[0]), bit + part[0]
            total, axis, first_value = self.added(total, axis, first_value, code, part)
        return total

    def added(
        self, total: Floats, axis: int, first_value: int, code: int, part: tuple[int, int, str]
    ) -> tuple[Floats, int, int]:
        """The row with what a part adds, and the next axis and value."""
        width, axes, kind = part
        values = self.values[first_value:]
        for j in range(axes):
            if kind == "g":
                coordinate = values[0] + np.float32(code) * values[1]
            else:
                coordinate = np.float32(0) if kind == "-" else values[axes * code + j]
            total += coordinate * self.axes[axis + j]
        return total, axis + axes, first_value + value_count(width, axes, kind)

    def ordered_code(self, tier: int, rank: int) -> int:
        """The number of the tier's starts that are at most the rank."""
        counts = [(1 << ordered_width(text)) - 1 for text in self.texts]
        first = sum(counts[:tier])
        return int(np.count_nonzero(self.code_starts[first : first + counts[tier]] <= rank))

    @cached_property
    def starts(self) -> list[tuple[int, int]]:
        """Byte and value at which each tier starts."""
        byte = value = 0
        starts = []
        ends = [*self.firsts[1:], self.count]
        for text, first, end in zip(self.texts, self.firsts, ends, strict=True):
            starts.append((byte, value))
            byte += -(-(end - first) * widths(text) // 8)
            value += sum(value_count(*part) for part in [*ordered_parts_of(text), *parts_of(text)])
        return starts


def ordered_parts_of(text: str) -> list[tuple[int, int, str]]:
    """The same of ordered parts."""
    return parts_of(" ".join(part[1:] for part in text.split() if part.startswith("o")))


def ordered_width(text: str) -> int:
    return sum(width for width, _, _ in ordered_parts_of(text))


def parts_of(text: str) -> list[tuple[int, int, str]]:
    """Bits, axes and kind (``g``, ``j``, ``-`` or nothing) of a tier's parts with codes to read."""
    parts = []
    for part in text.split():
        if part.startswith("o"):
            continue
        number, joint, axes = part.rstrip("g").partition("j")
        kind = part[-1] if part[-1] in "g-" else joint
        parts.append((0 if part == "-" else int(number), int(axes or 1), kind))
    return parts


def widths(text: str) -> int:
    return sum(width for width, _, _ in parts_of(text))


def value_count(width: int, axes: int, kind: str) -> int:
    return {"g": 2, "-": 0}.get(kind, axes << width)


def random_tiers(
    count: int, texts: Sequence[str], dim: int, seed: int = 0, shuffled: bool = False
) -> Tiers:
    """Tiers with random bytes as codes, also in place of the padding: any bits are valid codes."""
    rng = np.random.default_rng(seed)
    firsts = [0, *(64 * 4**i for i in range(len(texts) - 1))]
    sizes = np.diff([*firsts, count])
    code_bytes = sum(-(-int(n) * widths(t) // 8) for n, t in zip(sizes, texts, strict=True))
    parts = [[*ordered_parts_of(text), *parts_of(text)] for text in texts]
    values = sum(value_count(*part) for own in parts for part in own)
    rank = max(sum(axes for _, axes, _ in own) for own in parts)
    starts = [
        np.sort(rng.integers(first, first + size, (1 << ordered_width(text)) - 1, endpoint=True))
        for first, size, text in zip(firsts, sizes.tolist(), texts, strict=True)
    ]
    tier_of = None
    if shuffled:
        tier_of = rng.permutation(np.repeat(np.arange(len(texts), dtype=np.int8), sizes))
    return Tiers(
        count,
        texts,
        rng.integers(0, 256, code_bytes + 7, dtype=np.uint8),
        rng.standard_normal(values).astype(np.float16).astype(np.float32),
        rng.standard_normal((rank + 1, dim)).astype(np.float16).astype(np.float32),
        tier_of,
        code_starts=np.concatenate(starts),
    )


Slow = Runs | Tiers


def decoded(slow: Slow, ids: NDArray[np.integer]) -> Floats:
    """Rows of ``ids``, (m, dim)."""
    different, places = np.unique(ids, return_inverse=True)
    rows = [slow.row(row) for row in different.tolist()]
    return np.array(rows, np.float32).reshape(-1, slow.dim)[places]


@dataclass(frozen=True, eq=False)
class Ask:
    """One field of a call, as the core takes it."""

    slow: Slow
    ids: NDArray[np.integer]
    offsets: NDArray[np.int64] | None = None
    weights: Floats | None = None
    mode: str = "sum"
    skipped: int = -1

    @property
    def bags(self) -> int:
        return len(self.ids if self.offsets is None else self.offsets)

    def request(self, out: int, stride: int) -> tuple[Any, ...]:
        given = self.offsets, self.weights
        offsets, weights = (0 if a is None else a.ctypes.data for a in given)
        mode = ("sum", "mean", "max").index(self.mode)
        step = self.ids.strides[0] // self.ids.itemsize
        ids = self.ids.ctypes.data, self.ids.itemsize == 8, step, len(self.ids)
        places = offsets, self.bags, weights, mode, self.skipped, out, stride
        return self.slow.table, *ids, *places

    def with_ids(self, dtype: DTypeLike) -> Ask:
        return replace(self, ids=self.ids.astype(dtype))

    @cached_property
    def expected(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The bags in float64, and the largest error of float32, both (bags, dim)."""
        rows = decoded(self.slow, self.ids).astype(np.float64)
        if self.weights is not None:
            rows *= self.weights[:, None]
        offsets = np.arange(len(self.ids)) if self.offsets is None else self.offsets
        out = np.zeros((2, self.bags, self.slow.dim))
        for i, (first, last) in enumerate(zip(offsets, [*offsets[1:], len(rows)], strict=True)):
            bag = rows[first:last][self.ids[first:last] != self.skipped]
            if len(bag):
                reduce = {"sum": np.sum, "mean": np.mean, "max": np.max}[self.mode]
                out[0, i] = reduce(bag, axis=0)
                scale = 1 if self.mode == "sum" else len(bag)
                # Rounding errors grow with the number of additions.
                out[1, i] = np.abs(bag).sum(axis=0) / scale + np.abs(bag).max()
                out[1, i] *= 2e-6 * (1 + len(bag) / 100)
        return out[0], out[1]


def call(
    asks: Sequence[Ask], dtype: DTypeLike = np.float32, threads: int = 1, isa: str = "auto"
) -> tuple[tuple[int, int, int], list[NDArray[Any]]]:
    """The failure and the rows of each field, in one array with guard columns on the right."""
    dims = [ask.slow.dim for ask in asks]
    out = np.zeros((asks[0].bags, sum(dims) + GUARD), dtype=dtype)
    out.view(np.uint8)[:] = 0xA5
    guard = out[:, -GUARD:].copy()
    address = out.ctypes.data
    requests = []
    for ask, dim in zip(asks, dims, strict=True):
        requests.append(ask.request(address, out.strides[0]))
        address += dim * out.itemsize
    failure = _native.pool(requests, ELEMENTS.index(out.dtype), threads, isa)
    assert out[:, -GUARD:].tobytes() == guard.tobytes()
    return failure, np.split(out[:, :-GUARD], np.cumsum(dims)[:-1], axis=1)


def pooled(
    ask: Ask, dtype: DTypeLike = np.float32, threads: int = 1, isa: str = "auto"
) -> NDArray[Any]:
    """The rows of one field, which must not fail."""
    failure, (rows,) = call([ask], dtype, threads, isa)
    assert failure[0] == 0, failure
    return rows


def everywhere(ask: Ask, dtype: DTypeLike = np.float32) -> NDArray[Any]:
    """The rows of one field; checks that all instruction sets and types of ids give equal bits."""
    first, *others = (
        pooled(with_ids, dtype, isa=isa)
        for isa in HERE
        for with_ids in (ask, ask.with_ids(np.int64 if ask.ids.itemsize == 4 else np.int32))
    )
    for other in others:
        assert first.tobytes() == other.tobytes()
    return first


def check_rows(slow: Slow, ids: NDArray[np.integer]) -> None:
    """Rows equal the format's to the last bit."""
    found = everywhere(Ask(slow, ids))
    assert np.ascontiguousarray(found).tobytes() == decoded(slow, ids).tobytes()


def check_bags(ask: Ask) -> None:
    """Bags equal the format's sums within the rounding of float32."""
    wanted, tolerance = ask.expected
    assert (np.abs(everywhere(ask) - wanted) <= tolerance).all()


def random_offsets(rng: np.random.Generator, count: int, longest: int) -> NDArray[np.int64]:
    """Starts of bags of 0 to ``longest`` ids, many of them empty; at least ``count`` ids in all."""
    lengths = rng.integers(0, rng.integers(1, longest, count + 9, endpoint=True), endpoint=True)
    starts = np.cumsum([0, *lengths])
    return starts[starts < count]
