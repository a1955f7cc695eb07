"""The operator in graphs, and the shortcut: both compared with plain operations."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from saec.errors import IdError
from saec.format.compressed_field import CompressedField
from saec.format.raw_field import RawField
from saec.format.tier_index import TierIndex
from saec.format.tier_layout import Layout, tier_bounds
from saec.format.tiered_field import TieredField
from saec.torch.lookup.from_spec import reader_of
from saec.torch.lookup.operator import pool
from saec.torch.lookup.reader import plain
from saec.torch.model.modules import CompressedEmbedding, CompressedEmbeddingBag
from saec.torch.table.clustered import ClusteredTable
from saec.torch.table.joint import compressed_table
from saec.torch.table.learned import LearnedTable

ROWS = 20_000


def tiered(dim: int = 16, keep: bool = False) -> TieredField:
    """A field with tiers of every kind: decoded, with codes of one group, and of several."""
    rng = np.random.default_rng(3)
    texts = ["7g 5 - 3", "6 2j2 1", "5g 4", "2 0", "7j3 4 3 2", "3 1 5 4g 6", "2"]
    layout = Layout.parse(ROWS, texts[: len(tier_bounds(ROWS)) - 1])
    codes = rng.integers(256, size=layout.code_bytes, dtype=np.uint8)
    values = rng.standard_normal(layout.value_count).astype(np.float16)
    axes = rng.standard_normal((layout.rank + 1, dim)).astype(np.float16)
    tiers = np.repeat(np.arange(len(layout.tiers), dtype=np.int8), np.diff(layout.bounds))
    index = TierIndex.of(rng.permutation(tiers)) if keep else None
    return TieredField("user", layout, codes, values, axes, index, "float32")


def tiered_with(seed: int) -> TieredField:
    """The same field with other codes."""
    field = tiered()
    codes = np.random.default_rng(seed).integers(256, size=len(field.codes), dtype=np.uint8)
    return field.filled(codes)


KINDS = ["tiers", "kept", "in order", "clusters", "mixed runs", "pads"]


@pytest.fixture(params=KINDS)
def table(
    request: pytest.FixtureRequest,
    clustered: Callable[..., CompressedField],
    in_order: Callable[..., TieredField],
) -> LearnedTable:
    kind, like, pads = request.param, torch.zeros(1), {}
    fields: list[CompressedField] = [tiered(16, keep=kind == "kept")]
    if kind == "in order":
        fields = [in_order("user", ROWS, 16)]
    elif kind == "clusters":
        fields = [clustered("user", ROWS, 16, 9)]
    elif kind == "mixed runs":
        rows = np.random.default_rng(0).standard_normal((40, 16)).astype(np.float32)
        fields = [clustered("a", 3000, 16, 5), RawField("b", rows), clustered("c", 900, 16, 3)]
    elif kind == "pads":
        pads = {0: torch.ones(16), 700: torch.zeros(16)}
    made = compressed_table(fields, pads, like)
    assert isinstance(made, LearnedTable)
    return made


def some_ids(table: LearnedTable, count: int = 3000) -> Tensor:
    return torch.from_numpy(np.random.default_rng(1).integers(table.vocab_size, size=count))


def reference(
    table: LearnedTable, ids: Tensor, offsets: Tensor | None = None, mode: str = "sum"
) -> Tensor:
    return plain(table.reader, ids, offsets, None, table.tensors, mode, -1)


def test_a_reader_is_made_from_its_spec(table: LearnedTable) -> None:
    assert reader_of(table.reader.spec) == table.reader


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_rows_are_those_of_plain_operations(table: LearnedTable, dtype: torch.dtype) -> None:
    ids = some_ids(table).to(dtype)
    module = CompressedEmbedding(table)
    expected = reference(table, ids).detach()
    with torch.no_grad():
        for _ in range(2):  # first the usual path, then the shortcut
            assert torch.equal(module(ids), expected)
        assert torch.equal(module(ids.reshape(30, 100)), expected.reshape(30, 100, 16))
        spread = torch.stack([ids, ids.flip(0)], dim=1)
        assert torch.equal(module(spread[:, 0]), expected)
        assert torch.equal(module(spread[:, 1].expand(2, -1)), expected.flip(0).expand(2, -1, -1))
        assert torch.equal(module(ids[5]), expected[5])
        assert module(ids[:0]).shape == (0, 16)
    assert torch.equal(module(ids).detach(), expected)  # with gradients
    assert torch.equal(pool(ids, None, None, table.tensors, table.reader.spec, "sum", -1), expected)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_are_those_of_plain_operations(table: LearnedTable, mode: str) -> None:
    ids = some_ids(table)
    offsets = torch.tensor([0, 0, 5, 70, 70, 1000, 2999])
    module = CompressedEmbeddingBag(table, mode)
    expected = reference(table, ids, offsets, mode).detach()
    with torch.no_grad():
        tolerance = 1e-5 * expected.abs().max().item()  # in another order; sums cancel
        torch.testing.assert_close(module(ids, offsets), expected, rtol=0, atol=tolerance)
        rows = module(ids.reshape(1000, 3))
    exact = reference(table, ids, torch.arange(0, 3000, 3), mode).detach()
    torch.testing.assert_close(rows, exact, rtol=1e-5, atol=1e-5)


def test_lookups_read_present_parameters(table: LearnedTable) -> None:
    ids, module = some_ids(table), CompressedEmbedding(table)
    with torch.no_grad():
        before = module(ids)
        for parameter in table.parameters():
            parameter += 1  # counted by autograd
        after = module(ids)
        assert torch.equal(after, reference(table, ids))
        for parameter in table.parameters():
            parameter.data.mul_(2)  # not counted
        assert torch.equal(module(ids), reference(table, ids))
        for parameter in table.parameters():
            parameter.data = parameter.data.clone() - 3  # at another address
        assert torch.equal(module(ids), reference(table, ids))
        for parameter in table.parameters():
            flat = parameter.data.view(-1)
            for part in flat.chunk(5):  # a few elements at a time
                part[-1:] += 3
                assert torch.equal(module(ids), reference(table, ids))
    assert not torch.equal(before, after)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(table: LearnedTable, dtype: torch.dtype) -> None:
    ids, module = some_ids(table), CompressedEmbedding(table)
    with torch.no_grad():
        module(ids)
        module.to(dtype)
        rows = module(ids)
        assert rows.dtype == dtype
        # Half precision is rounded at the end; plain operations round each step.
        tolerance = 2 * torch.finfo(dtype).eps * rows.abs().max().item()
        assert (rows.double() - reference(table, ids).double()).abs().max() <= tolerance
        assert torch.equal(module(ids), rows)


def test_copies_have_tables_of_their_own(table: LearnedTable) -> None:
    ids, module = some_ids(table), CompressedEmbedding(table)
    with torch.no_grad():
        expected = module(ids)
        for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
            assert torch.equal(other(ids), expected)
            for parameter in other.parameters():
                parameter.zero_()
            assert torch.equal(other(ids), reference(other.table, ids))
        assert torch.equal(module(ids), expected)


def test_loaded_states_are_seen(table: LearnedTable) -> None:
    ids, module = some_ids(table), CompressedEmbedding(table)
    other = copy.deepcopy(module)
    with torch.no_grad():
        expected = module(ids)
        for tensor in other.parameters():
            tensor.zero_()
        other(ids)
        for assign in (False, True):
            other.load_state_dict(module.state_dict(), assign=assign)
            assert torch.equal(other(ids), expected)


def test_loaded_codes_are_seen_by_graphs() -> None:
    table, other = (compressed_table([tiered_with(seed)], {}, torch.zeros(1)) for seed in (1, 2))
    assert isinstance(table, LearnedTable)
    assert isinstance(other, LearnedTable)
    ids = some_ids(table)
    for _ in range(2):
        reader, tensors = table.reader, table.tensors
        rows = pool(ids, None, None, tensors, reader.spec, "sum", -1)
        assert torch.equal(rows, reference(table, ids))
        table.load_state_dict(other.state_dict())
    assert torch.equal(rows, reference(other, ids))


def test_bad_ids_are_refused_by_the_shortcut(table: LearnedTable) -> None:
    module = CompressedEmbedding(table)
    ids = some_ids(table, 10)
    with torch.no_grad():
        module(ids)
        for bad in (-1, table.vocab_size):
            ids[7] = bad
            with pytest.raises(IdError, match=f"id {bad} at position 7 is outside"):
                module(ids)
        with pytest.raises(IdError, match=r"ids must be int32 or int64, not torch.int16"):
            module(ids.short())
        bags = CompressedEmbeddingBag(table, "sum")
        with pytest.raises(IdError, match="offsets must ascend from 0 to at most 7"):
            bags(ids[:7], torch.tensor([0, 5, 4]))


@pytest.mark.exhaustive
@pytest.mark.skipif(
    "rtol" not in inspect.signature(torch.library.opcheck).parameters,
    reason="before PyTorch 2.6 results in another order of additions are taken for wrong",
)
def test_the_operator_passes_opcheck(clustered: Callable[..., CompressedField]) -> None:
    """PyTorch's own test of schema, shapes of fake tensors, gradients and compilation."""
    clusters = ClusteredTable([clustered("a", 50, 3, 3)], {}, torch.zeros(1))
    tiers = compressed_table([tiered(3)], {}, torch.zeros(1))
    assert isinstance(tiers, LearnedTable)
    ids, offsets = torch.tensor([3, 0, 49, 3]), torch.tensor([0, 1, 1])
    weights = torch.tensor([1.0, -2, 0.5, 3], requires_grad=True)
    for table, starts, factors in (
        (clusters, offsets, None),
        (tiers, None, None),
        (tiers, offsets, weights),
    ):
        inputs = (ids, starts, factors, table.tensors, table.reader.spec, "sum", -1)
        torch.library.opcheck(pool, inputs, rtol=1e-4, atol=1e-4)


@pytest.mark.exhaustive
@pytest.mark.parametrize("table", ["kept", "mixed runs", "pads"], indirect=True)
def test_gradients_of_compiled_bags(table: LearnedTable) -> None:
    ids = some_ids(table, 60)
    offsets = torch.tensor([0, 7, 7, 50])
    module = CompressedEmbeddingBag(table, "sum")
    weights = torch.linspace(-1, 1, 60, requires_grad=True)
    wanted = [*table.parameters(), weights]
    upstream = torch.randn(4, 16)

    def gradients(call: Callable[..., Tensor]) -> list[Tensor]:
        return list(torch.autograd.grad(call(ids, offsets, weights), wanted, upstream))

    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    for got, expected in zip(gradients(compiled), gradients(module), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.exhaustive(keep=2)
def test_an_exported_program_reads_a_saved_model(table: LearnedTable, tmp_path) -> None:
    model = nn.Sequential(CompressedEmbedding(table)).requires_grad_(False)
    ids = some_ids(table, 12)
    program = torch.export.export(model, (ids,))
    assert [str(node.target) for node in program.graph.nodes].count("saec.pool.default") == 1
    torch.export.save(program, tmp_path / "model.pt2")
    again = torch.export.load(tmp_path / "model.pt2").module()
    assert torch.equal(again(ids), model(ids))


def test_concurrent_lookups(table: LearnedTable) -> None:
    module, batches = CompressedEmbedding(table), [some_ids(table, 500 + n) for n in range(16)]
    expected = [reference(table, ids).detach() for ids in batches]

    def look_up(ids: Tensor) -> Tensor:
        with torch.no_grad():
            return module(ids)

    with ThreadPoolExecutor(4) as threads:
        for rows, wanted in zip(threads.map(look_up, batches), expected, strict=True):
            assert torch.equal(rows, wanted)
