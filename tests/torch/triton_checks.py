"""Triton's kernels: by hand, against plain operations, and their compiled code.

Run by test_torch_triton.py, once in Triton's interpreter and once without.
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import triton
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from saec.bits.packing import PackedCodes
from saec.format.clustered_field import ClusteredField
from saec.format.codebook import Codebook
from saec.format.compressed_field import CompressedField
from saec.format.tier_layout import Layout
from saec.format.tiered_field import TieredField
from saec.torch.lookup.operator import pool
from saec.torch.lookup.reader import plain
from saec.torch.lookup.tier_index import locate
from saec.torch.lookup.triton import clusters as triton_clusters
from saec.torch.lookup.triton import launch as triton_lookup
from saec.torch.lookup.triton import tiers as triton_tiers
from saec.torch.lookup.triton.launch import (
    ClusteredTensors,
    Reduction,
    TieredTensors,
    clustered_pool,
    clustered_rows,
    tiered_pool,
    tiered_rows,
)
from saec.torch.table.clustered import ClusteredTable
from saec.torch.table.tiered import TieredTable

Make = Callable[..., Any]

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

computing = pytest.mark.skipif(
    DEVICE == "cpu" and not INTERPRETED, reason="needs a CUDA device, or the interpreter"
)
slow = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Table:
    """Both ways to look up in a table of fields: plain operations, and Triton's kernels."""

    def __init__(self, *fields: CompressedField, dtype: torch.dtype = torch.float32) -> None:
        like = torch.zeros(1, device=DEVICE, dtype=dtype)
        self.plain: TieredTable | ClusteredTable
        if isinstance(fields[0], TieredField):
            self.plain = TieredTable(fields[0], {}, like)
            self.held: TieredTensors | ClusteredTensors = _held(TieredTensors, self.plain)
        else:
            self.plain = ClusteredTable(fields, {}, like)
            self.held = _held(ClusteredTensors, self.plain)

    @torch.no_grad()
    def reference(self, ids: Tensor) -> Tensor:
        """Rows by plain operations."""
        return plain(self.plain.reader, ids.to(DEVICE), None, None, self.plain.tensors, "sum", -1)

    def rows(self, ids: Tensor) -> Tensor:
        if isinstance(self.held, TieredTensors):
            return tiered_rows(self.held, ids.to(DEVICE), self._located(ids))
        return clustered_rows(self.held, ids.to(DEVICE))

    def pool(
        self,
        ids: Tensor,
        bounds: Sequence[int],
        mode: str,
        weights: Tensor | None = None,
        padding_idx: int | None = None,
    ) -> Tensor:
        weights = None if weights is None else weights.to(DEVICE)
        bags = Reduction(torch.tensor(bounds, device=DEVICE), mode, weights, padding_idx)
        if isinstance(self.held, TieredTensors):
            return tiered_pool(self.held, ids.to(DEVICE), bags, self._located(ids))
        return clustered_pool(self.held, ids.to(DEVICE), bags)

    def _located(self, ids: Tensor) -> tuple[Tensor, Tensor] | None:
        assert isinstance(self.plain, TieredTable)
        index, layout = self.plain.index, self.plain.parts
        if index is None:
            return None
        return locate(ids.long().to(DEVICE), layout.count, len(layout.tiers), index)


def _held(kind: Any, table: TieredTable | ClusteredTable) -> Any:
    tensors = {name: getattr(table, name) for name in kind._fields[1:]}
    if isinstance(table, TieredTable):  # empty tensors for parameters that are None
        learned = table.reader.learned(table.tensors)
        tensors |= dict(zip(("values", "extents", "axes", "mean"), learned, strict=True))
    # The interpreter confuses tensors of equal address, such as an empty one and its neighbour.
    detached = {
        name: None if tensor is None else tensor.detach().clone()
        for name, tensor in tensors.items()
    }
    return kind(vocab_size=table.vocab_size, **detached)


def tiered_by_hand() -> TieredField:
    """Three rows of a table code (10 or 20) and a grid code (1 + code / 2): 1 3, 0 2 and 1 0."""
    codes = np.zeros(9, dtype=np.uint8)
    codes[0] = 0b01_100_111
    values = np.array([10, 20, 1, 0.5], dtype=np.float16)
    axes = np.array([[1, 0], [0, 1], [100, 200]], dtype=np.float16)
    return TieredField("user", Layout.parse(3, ["1 2g"]), codes, values, axes, None, "float32")


def clustered_by_hand() -> ClusteredField:
    """Three rows, of the centroids 2, 0 and 1."""
    centroids = np.array([[1, 10], [2, 20], [3, 30]], dtype=np.float32)
    codes = PackedCodes.pack(np.array([2, 0, 1]), 2)
    return ClusteredField("user", codes, Codebook.round(centroids, "float32"), "float32")


@computing
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_a_tiered_table_by_hand(dtype: torch.dtype) -> None:
    table, ids = Table(tiered_by_hand()), torch.tensor([2, 0, 1], dtype=dtype)
    assert table.rows(ids).tolist() == [[120, 201], [120, 202.5], [110, 202]]
    bounds = [0, 2, 2, 3]
    assert table.pool(ids, bounds, "sum").tolist() == [[240, 403.5], [0, 0], [110, 202]]
    assert table.pool(ids, bounds, "mean").tolist() == [[120, 201.75], [0, 0], [110, 202]]
    assert table.pool(ids, bounds, "max").tolist() == [[120, 202.5], [0, 0], [110, 202]]
    weights = torch.tensor([2.0, -1.0, 0.0])
    assert table.pool(ids, [0, 3], "sum", weights).tolist() == [[120, 199.5]]
    assert table.pool(ids, [0, 3], "mean", padding_idx=0).tolist() == [[115, 201.5]]
    assert table.pool(ids, [0, 3], "max", padding_idx=0).tolist() == [[120, 202]]


@computing
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_a_clustered_table_by_hand(dtype: torch.dtype) -> None:
    table, ids = Table(clustered_by_hand()), torch.tensor([2, 0, 1], dtype=dtype)
    assert table.rows(ids).tolist() == [[2, 20], [3, 30], [1, 10]]
    bounds = [0, 2, 2, 3]
    assert table.pool(ids, bounds, "sum").tolist() == [[5, 50], [0, 0], [1, 10]]
    assert table.pool(ids, bounds, "mean").tolist() == [[2.5, 25], [0, 0], [1, 10]]
    assert table.pool(ids, bounds, "max").tolist() == [[3, 30], [0, 0], [1, 10]]
    weights = torch.tensor([2.0, -1.0, 0.0])
    assert table.pool(ids, [0, 3], "sum", weights).tolist() == [[1, 10]]
    assert table.pool(ids, [0, 3], "mean", padding_idx=0).tolist() == [[1.5, 15]]
    assert table.pool(ids, [0, 3], "max", padding_idx=0).tolist() == [[2, 20]]


@computing
def test_nothing_to_look_up() -> None:
    table, none = Table(tiered_by_hand()), torch.empty(0, dtype=torch.int64)
    assert table.rows(none).shape == (0, 2)
    assert table.pool(none, [0], "sum").shape == (0, 2)
    assert table.pool(none, [0, 0], "mean").tolist() == [[0, 0]]


@pytest.mark.exhaustive(keep=2)
@computing
@pytest.mark.parametrize(
    ("rows", "keep", "axes_dtype"),
    [
        (1, False, "float16"),
        (64, True, "float16"),
        (65, False, "float32"),
        (600, True, "float32"),
        (1500, False, "float16"),
    ],
)
def test_rows_of_every_tier_equal_the_plain_ones(
    tiered: Make, rows: int, keep: bool, axes_dtype: str
) -> None:
    table = Table(tiered("user", rows, 5, keep=keep, axes_dtype=axes_dtype))
    ids = torch.randperm(rows)
    assert torch.equal(table.rows(ids), table.reference(ids))


@computing
@pytest.mark.parametrize("rows", [1, 600, 1500])
def test_rows_in_order_of_their_codes_equal_the_plain_ones(in_order: Make, rows: int) -> None:
    table = Table(in_order("user", rows, 5))
    ids = torch.randperm(rows)[:300]
    assert torch.equal(table.rows(ids), table.reference(ids))


_PARTS = st.one_of(
    st.just("-"),
    st.integers(0, 12).map(str),
    st.integers(1, 16).map("{}g".format),
    st.tuples(st.integers(0, 8), st.integers(2, 4)).map(lambda pair: f"{pair[0]}j{pair[1]}"),
)


@pytest.mark.exhaustive
@computing
@slow
@given(
    texts=st.lists(st.lists(_PARTS, max_size=5).map(" ".join), min_size=3, max_size=3),
    keep=st.booleans(),
    dim=st.integers(1, 6),
)
def test_rows_of_every_kind_of_part_equal_the_plain_ones(
    tiered: Make, texts: list[str], keep: bool, dim: int
) -> None:
    table = Table(tiered("user", 700, dim, tuple(texts), keep))
    ids = torch.from_numpy(np.random.default_rng(dim).permutation(700)[:150])
    assert torch.equal(table.rows(ids), table.reference(ids))


@pytest.mark.exhaustive(keep=2)
@computing
@pytest.mark.parametrize("first", range(1, 32, 4))
def test_rows_of_every_code_width_equal_the_plain_ones(
    clustered: Make, raw: Make, first: int
) -> None:
    fields = [clustered(f"f{bits}", 40 + bits, 3, bits) for bits in range(first, first + 4)]
    for field in fields:
        table = Table(field)
        ids = torch.randperm(field.vocab_size)
        assert torch.equal(table.rows(ids), table.reference(ids))
    joint = Table(*fields[:2], raw("raw", 9, 3), *fields[2:], raw("last", 1, 3))
    ids = torch.randperm(joint.plain.vocab_size)
    assert torch.equal(joint.rows(ids), joint.reference(ids))


@computing
def test_raw_rows_alone(raw: Make) -> None:
    table = Table(raw("raw", 300, 3))
    ids = torch.randperm(300)
    assert torch.equal(table.rows(ids), table.reference(ids))


@pytest.mark.exhaustive(keep=1)
@computing
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_rounds_once_at_the_end(tiered: Make, clustered: Make, dtype: torch.dtype) -> None:
    for field in (tiered("user", 150), clustered("user", 150)):
        table, ids = Table(field, dtype=dtype), torch.randperm(150)[:12]
        rows = table.rows(ids)
        assert rows.dtype == dtype
        # The interpreter truncates bfloat16, whereas a GPU rounds.
        cut = INTERPRETED and dtype == torch.bfloat16
        expected = table.reference(ids)
        torch.testing.assert_close(rows, expected, rtol=2**-7 if cut else 0, atol=0)
        pooled = table.pool(ids, [0, 3, 12], "mean")
        exact = table.reference(ids).double()
        expected = torch.stack([exact[:3].mean(0), exact[3:].mean(0)])
        torch.testing.assert_close(pooled.double(), expected, rtol=0.02, atol=0.02)


@pytest.mark.exhaustive
@computing
@slow
@given(data=st.data())
def test_bags_equal_those_of_the_decoded_table(
    tiered: Make, clustered: Make, raw: Make, data: st.DataObject
) -> None:
    dim = data.draw(st.sampled_from([1, 5, 16, 40]))
    kind = data.draw(st.sampled_from(["ranks", "kept", "clusters", "joint"]))
    if kind in ("ranks", "kept"):
        table = Table(tiered("a", 300, dim, keep=kind == "kept"))
    else:
        more = [raw("b", 7, dim), clustered("c", 100, dim)] if kind == "joint" else []
        table = Table(clustered("a", 200, dim), *more)
    rows, vocab_size = table.reference(torch.arange(table.plain.vocab_size)), table.plain.vocab_size
    mode = data.draw(st.sampled_from(["sum", "mean", "max"]))
    padding = data.draw(st.none() | st.integers(0, vocab_size - 1))
    dtype = data.draw(st.sampled_from([torch.int32, torch.int64]))
    drawn = st.lists(st.integers(0, vocab_size - 1), max_size=60)
    ids = torch.tensor(data.draw(drawn), dtype=dtype)
    if padding is not None and data.draw(st.booleans()):
        ids[::2] = padding
    cuts = data.draw(st.lists(st.integers(0, len(ids)), max_size=9))
    weighted = mode == "sum" and data.draw(st.booleans())
    weights = torch.linspace(-2, 2, len(ids)) if weighted else None
    bounds = [0, *sorted(cuts), len(ids)]
    got = table.pool(ids, bounds, mode, weights, padding)
    exact = functional.embedding_bag(
        ids.to(DEVICE),
        rows.double(),
        torch.tensor(bounds, dtype=dtype, device=DEVICE),
        mode=mode,
        per_sample_weights=None if weights is None else weights.double().to(DEVICE),
        include_last_offset=True,
        padding_idx=padding,
    )
    summed = 2 * len(ids) if mode == "sum" else 1
    assert (got - exact).abs().max() <= 1e-6 * summed * rows.abs().max()


@pytest.mark.exhaustive(keep=1)
@computing
@pytest.mark.parametrize("kind", ["tiered", "clustered"])
def test_bags_over_many_programs(tiered: Make, clustered: Make, kind: str) -> None:
    table = Table({"tiered": tiered, "clustered": clustered}[kind]("a", 300))
    rows = table.reference(torch.arange(table.plain.vocab_size))
    for longest in (1, 30):
        ends = torch.randint(0, longest + 1, (20,)).cumsum(0).tolist()
        ids = torch.randint(0, 300, (ends[-1],))
        exact = [rows[ids[a:b]].double().sum(0) for a, b in itertools.pairwise([0, *ends])]
        got = table.pool(ids, [0, *ends], "sum")
        assert (got - torch.stack(exact)).abs().max() <= 1e-6 * longest * rows.abs().max()


@pytest.mark.exhaustive(keep=2)
@computing
@pytest.mark.parametrize("kind", ["ranks", "kept", "in order", "clusters", "padded"])
def test_the_operator_runs_the_kernels(
    tiered: Make, clustered: Make, in_order: Make, kind: str
) -> None:
    makers = {"clusters": clustered, "in order": in_order}
    field = makers[kind]("a", 300) if kind in makers else tiered("a", 300, keep=kind == "kept")
    table = Table(field).plain
    if kind == "padded":
        table = TieredTable(field, {7: torch.ones(field.dim)}, torch.zeros(1)).to(DEVICE)
    ids = torch.randint(0, 300, (40,), device=DEVICE)
    offsets = torch.tensor([0, 0, 34, 35], device=DEVICE)
    reader, tensors = table.reader, table.tensors
    with torch.no_grad():
        for starts, mode in ((None, "sum"), (offsets, "sum"), (offsets, "mean"), (offsets, "max")):
            got = pool(ids, starts, None, tensors, reader.spec, mode, -1)
            expected = plain(reader, ids, starts, None, tensors, mode, -1)
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.exhaustive(keep=1)
@computing
@pytest.mark.parametrize("bad", [-1, 300, 2**40])
@pytest.mark.parametrize("kind", ["tiered", "clustered"])
def test_ids_out_of_range_give_nan(tiered: Make, clustered: Make, bad: int, kind: str) -> None:
    table = Table({"tiered": tiered, "clustered": clustered}[kind]("a", 300))
    ids = torch.tensor([3, bad, 4])
    rows = table.rows(ids)
    assert rows.isnan().all(dim=1).tolist() == [False, True, False]
    assert torch.equal(rows[::2], table.reference(torch.tensor([3, 4])))
    for mode in ("sum", "mean", "max"):
        bags = table.pool(ids, [0, 1, 3, 3], mode)
        assert bags.isnan().all(dim=1).tolist() == [False, True, False]
        assert table.pool(ids, [0, 3], mode, padding_idx=0).isnan().all()
        # Bags that are partly outside of the ids end with the last id.
        assert torch.equal(table.pool(ids[:1], [-5, 2**40], mode), bags[:1])


@computing
def test_codes_beyond_the_codebook_give_nan(clustered: Make) -> None:
    table = Table(clustered("a", 300))
    assert isinstance(table.held, ClusteredTensors)
    table.held = table.held._replace(codebook=table.held.codebook[:7])
    ids = torch.arange(300)
    beyond = table.plain.reader.stored(ids.to(DEVICE), table.plain.tensors) == 7
    assert torch.equal(table.rows(ids).isnan().all(dim=1), beyond)
    assert torch.equal(table.pool(ids, range(301), "max").isnan().all(dim=1), beyond)


@pytest.mark.exhaustive(keep=2)
@pytest.mark.skipif(not INTERPRETED, reason="memory is guarded on a CPU")
@pytest.mark.parametrize("kind", ["tiered", "clustered"])
@pytest.mark.parametrize("rows", range(64, 72))
def test_no_bytes_after_the_codes_are_read(
    tiered: Make, clustered: Make, kind: str, rows: int
) -> None:
    parts = ("3 2g", "") if rows % 3 else ("3 2g", "5")
    field = tiered("a", rows, 4, parts) if kind == "tiered" else clustered("a", rows, bits=5)
    table = Table(field)
    table.held = table.held._replace(codes=_guarded(table.held.codes))
    assert torch.equal(
        table.rows(torch.arange(rows)), table.reference(torch.arange(table.plain.vocab_size))
    )


def _guarded(codes: Tensor) -> Tensor:
    """A copy of ``codes`` whose last word ends directly before inaccessible memory."""
    memory = mmap.mmap(-1, 2 * mmap.PAGESIZE)
    pages = torch.frombuffer(memory, dtype=torch.uint8)
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    page = ctypes.c_void_p(pages.data_ptr() + mmap.PAGESIZE)
    assert protect(page, ctypes.c_size_t(mmap.PAGESIZE), 0) == 0  # no access
    start = (mmap.PAGESIZE - len(codes)) // 4 * 4
    return pages[start : start + len(codes)].copy_(codes)


# Types of arguments that are not numbers, and the constants of a launch.
POINTERS = {
    "ids": ["ids"],
    "*i64": ["bounds", "tiers_of", "places_of", "layout", "code_starts"],
    "*u8": ["codes"],
    "floats": ["out", "weights", "values", "extents", "axes", "mean", "codebook"],
}
CONSTANTS = {"STEPS": 4, "ORDERED": 9, "ROWS": 128, "BAGS": 4, "ENTRIES": 32, "RANK": 4, "DIM": 16}
OPTIONAL = dict.fromkeys(["weights", "tiers_of", "places_of", "code_starts"]) | {"ORDERED": 0}
KERNELS = [
    ("clustered_rows", None),
    ("tiered_rows", None),
    ("clustered_pool", "sum"),
    ("tiered_pool", "sum"),
    ("clustered_pool", "mean"),
    ("tiered_pool", "mean"),
    ("clustered_pool", "max"),
    ("tiered_pool", "max"),
]
NUMBERS = ["count", "bags", "vocab_size", "segments", "centroids", "tiers", "rank", "dim"]
KINDS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "everything": ({}, {"ids": "*i64", "floats": "*fp32"}),
    "without optional tensors": (OPTIONAL, {"ids": "*i32", "floats": "*fp16"}),
    # Triton turns arguments with the value 1 into constants.
    "single": (dict.fromkeys(NUMBERS, 1), {"ids": "*i64", "floats": "*bf16"}),
}


@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.parametrize(
    ("name", "mode", "kind"),
    [
        *((*kernel, "everything") for kernel in KERNELS),
        *((*kernel, "without optional tensors") for kernel in (KERNELS[0], KERNELS[3])),
        *((*kernel, "single") for kernel in (KERNELS[4], KERNELS[7])),
    ],
)
def test_compiled_code_rounds_every_product(name: str, mode: str | None, kind: str) -> None:
    fixed, types = KINDS[kind]
    code = _compiled(name, types, {"MODE": mode} | fixed, **triton_lookup._UNFUSED)
    assert "fma" not in code


@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
def test_without_the_option_products_are_not_rounded() -> None:
    assert "fma" in _compiled("tiered_rows", {"ids": "*i64", "floats": "*fp32"}, {})


def _compiled(name: str, types: dict[str, str], fixed: dict[str, Any], **options: Any) -> str:
    """The code that Triton compiles for an NVIDIA A100, without a GPU."""
    kernel = getattr(triton_tiers if name.startswith("tiered") else triton_clusters, name)
    constants = CONSTANTS | fixed
    constants = {name: constants[name] for name in kernel.arg_names if name in constants}
    kinds = {argument: types.get(kind, kind) for kind, of in POINTERS.items() for argument in of}
    signature = {name: kinds.get(name, "i32") for name in kernel.arg_names}
    source = ASTSource(kernel, signature | dict.fromkeys(constants, "constexpr"), constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", 80, 32), options=options)
    code: str = compiled.asm["ptx"]
    return code
