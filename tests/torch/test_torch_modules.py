"""Lookups in compressed modules: by hand, then bit for bit against the decoded plain module."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from saec import artifact
from saec.bits.packing import PackedCodes
from saec.errors import ArtifactError, IdError, ModuleError
from saec.format.clustered_field import ClusteredField
from saec.format.codebook import Codebook
from saec.format.compressed import Compressed
from saec.format.compressed_field import CompressedField
from saec.format.native_lookup import LookupTable
from saec.torch import CompressedEmbedding, CompressedEmbeddingBag, replace_embeddings_

Make = Callable[..., Any]


def compressed(module: nn.Module, *fields: CompressedField) -> nn.Module:
    """The compressed module that replaces ``module``; several fields give a joint table."""
    model = nn.ModuleDict({"table": module})
    ranges, row = {}, 0
    for field in fields:
        ranges[field.name] = (row, row + field.vocab_size)
        row += field.vocab_size
    replace_embeddings_(model, Compressed(fields), {"table": ranges})
    return model["table"]


def decoded(*fields: CompressedField) -> Tensor:
    return torch.from_numpy(np.concatenate([field.decode() for field in fields]))


def hand_made() -> ClusteredField:
    """Codes 2, 0, 1, 2 of two bits; centroids (1, 10), (2, 20), (3, 30)."""
    centroids = np.array([[1, 10], [2, 20], [3, 30]], dtype=np.float32)
    packed = PackedCodes.pack(np.array([2, 0, 1, 2]), 2)
    return ClusteredField("user", packed, Codebook.round(centroids, "float32"), "float32")


def test_a_lookup_by_hand() -> None:
    module = compressed(nn.Embedding(4, 2), hand_made())
    assert isinstance(module, CompressedEmbedding)
    assert module(torch.tensor([0, 1, 2, 3])).tolist() == [[3, 30], [1, 10], [2, 20], [3, 30]]
    assert module(torch.tensor([[3], [1]], dtype=torch.int32)).tolist() == [[[3, 30]], [[1, 10]]]
    assert module(torch.tensor(2)).tolist() == [2, 20]
    assert module(torch.empty(0, 5, dtype=torch.int64)).shape == (0, 5, 2)


def test_bags_by_hand() -> None:
    ids, offsets = torch.tensor([0, 1, 2, 3]), torch.tensor([0, 3, 3])
    expected = {
        "sum": [[6, 60], [0, 0], [3, 30]],
        "mean": [[2, 20], [0, 0], [3, 30]],
        "max": [[3, 30], [0, 0], [3, 30]],
    }
    for mode, rows in expected.items():
        module = compressed(nn.EmbeddingBag(4, 2, mode=mode), hand_made())
        assert isinstance(module, CompressedEmbeddingBag)
        assert module(ids, offsets).tolist() == rows
        assert module(input=ids.int(), offsets=offsets.int()).tolist() == rows


def test_gradients_by_hand() -> None:
    module = compressed(nn.Embedding(4, 2), hand_made())
    module(torch.tensor([0, 3, 1])).sum().backward()
    assert module.table.codebook.grad.tolist() == [[1, 1], [0, 0], [2, 2]]


def test_the_row_at_padding_idx_is_exact_and_gets_no_gradient() -> None:
    plain = nn.Embedding(4, 2, padding_idx=0)
    with torch.no_grad():
        plain.weight[0] = torch.tensor([0.125, 7.0])
    module = compressed(plain, hand_made())
    rows = module(torch.tensor([0, 3, 0]))
    assert rows.tolist() == [[0.125, 7], [3, 30], [0.125, 7]]
    rows.sum().backward()
    assert module.table.codebook.grad.tolist() == [[0, 0], [0, 0], [1, 1], [0, 0]]
    assert module.decode().tolist() == [[0.125, 7], [1, 10], [2, 20], [3, 30]]


def test_entries_at_padding_idx_are_left_out_of_bags() -> None:
    module = compressed(nn.EmbeddingBag(4, 2, mode="mean", padding_idx=0), hand_made())
    bags = module(torch.tensor([[0, 1], [0, 0], [3, 2]]))
    assert bags.tolist() == [[1, 10], [0, 0], [2.5, 25]]
    bags.sum().backward()
    assert module.table.codebook.grad.tolist() == [[1, 1], [0.5, 0.5], [0.5, 0.5], [0, 0]]


@pytest.mark.parametrize("bits", range(1, 33))
def test_every_code_width_equals_the_decoded_table(clustered: Make, bits: int) -> None:
    field = clustered("user", 997, 3, bits)
    module = compressed(nn.Embedding(997, 3), field)
    ids = torch.randperm(997)
    assert torch.equal(module(ids), decoded(field)[ids])
    assert torch.equal(module.decode(), decoded(field))


@pytest.mark.parametrize("first", range(1, 21, 4))
def test_joint_tables_of_every_code_width_equal_the_decoded_table(
    clustered: Make, raw: Make, first: int
) -> None:
    fields = [clustered(f"f{bits}", 40 + bits, 3, bits) for bits in range(first, first + 4)]
    fields.insert(2, raw("raw", 9, 3))
    fields.append(raw("last", 1, 3))
    table = decoded(*fields)
    module = compressed(nn.Embedding(len(table), 3), *fields)
    ids = torch.randperm(len(table)).reshape(1, -1)
    assert torch.equal(module(ids), table[ids])
    assert torch.equal(module(ids[:, ::3]), table[ids[:, ::3]])  # strided ids


def test_a_raw_first_part(clustered: Make, raw: Make) -> None:
    fields = [raw("raw", 5), clustered("user", 6)]
    module = compressed(nn.Embedding(11, 4), *fields)
    assert torch.equal(module(torch.arange(11)), decoded(*fields))


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_every_codebook_dtype(clustered: Make, dtype: str) -> None:
    field = clustered("user", 50, 4, 5, dtype)
    module = compressed(nn.Embedding(50, 4), field)
    assert torch.equal(module(torch.arange(50)), decoded(field))


@pytest.mark.exhaustive
@given(data=st.data())
def test_bags_equal_those_of_the_decoded_plain_module(clustered: Make, data: st.DataObject) -> None:
    widths = data.draw(st.lists(st.integers(1, 20), min_size=1, max_size=3))
    dim = data.draw(st.sampled_from([1, 4, 16, 17]))
    fields = [clustered(f"f{place}", 7 + bits, dim, bits) for place, bits in enumerate(widths)]
    rows = sum(field.vocab_size for field in fields)
    mode = data.draw(st.sampled_from(["sum", "mean", "max"]))
    padding = data.draw(st.none() | st.integers(0, rows - 1))
    last = data.draw(st.booleans())
    plain = nn.EmbeddingBag(rows, dim, mode=mode, padding_idx=padding, include_last_offset=last)
    with torch.no_grad():
        plain.weight.copy_(decoded(*fields))
    module = compressed(plain, *fields)
    dtype = data.draw(st.sampled_from([torch.int32, torch.int64]))
    ids = torch.tensor(data.draw(st.lists(st.integers(0, rows - 1), max_size=60)), dtype=dtype)
    if data.draw(st.booleans()) and not last:
        width = data.draw(st.integers(1, 5))
        ids = ids[: len(ids) // width * width].reshape(-1, width)
        arguments: list[Tensor | None] = [ids, None]
    else:
        cuts = data.draw(st.lists(st.integers(0, len(ids)), max_size=6))
        starts = [0, *sorted(cuts), *([len(ids)] if last else [])]
        arguments = [ids, torch.tensor(starts, dtype=dtype)]
    if mode == "sum" and data.draw(st.booleans()):
        arguments.append(torch.linspace(-2, 2, ids.numel()).reshape(ids.shape))
    assert torch.equal(module(*arguments), plain(*arguments))


def test_gradients_equal_the_sums_over_each_cluster(clustered: Make) -> None:
    field = clustered("user", 40, 4, 3)
    plain = nn.EmbeddingBag(40, 4, mode="mean", padding_idx=2)
    module = compressed(plain, field)
    ids = torch.randint(0, 40, (20, 5))
    module(ids).sum().backward()
    with torch.no_grad():
        plain.weight.copy_(decoded(field))
    plain(ids).sum().backward()
    codes = torch.from_numpy(field.codes.unpack().astype(np.int64))
    sums = torch.zeros(8, 4).index_add_(0, codes, plain.weight.grad)
    torch.testing.assert_close(module.table.codebook.grad[:8], sums)
    assert not module.table.codebook.grad[8].any()


@pytest.mark.parametrize("bad", [-1, 11, 2**40])
@pytest.mark.parametrize("joint", [False, True])
def test_ids_out_of_range_are_named(clustered: Make, bad: int, joint: bool) -> None:
    fields = [clustered("user", 5), clustered("item", 6)] if joint else [clustered("user", 11)]
    module = compressed(nn.Embedding(11, 4), *fields)
    place = "table user, item" if joint else "table user"
    with pytest.raises(IdError, match=rf"{place}: id {bad} at position 1 is outside \[0, 11\)"):
        module(torch.tensor([[3, bad]]))


def test_ids_of_another_dtype_are_refused(clustered: Make) -> None:
    module = compressed(nn.Embedding(11, 4), clustered("user", 11))
    with pytest.raises(
        IdError, match=r"table user: ids must be int32 or int64, not torch\.float32"
    ):
        module(torch.zeros(3))


def test_a_code_beyond_the_codebook_is_refused(clustered: Make) -> None:
    field = clustered("user", 11, bits=3)
    damaged = ClusteredField("user", field.codes, field.codebook.keep(np.arange(7)), "float32")
    with pytest.raises(ArtifactError, match="row 10 has a code beyond the 7 centroids"):
        compressed(nn.Embedding(11, 4), damaged)


def test_state_dict_goes_into_a_freshly_replaced_model(
    click_inputs: Make, click_model: Make, click_result: Make
) -> None:
    model = replace_embeddings_(click_model(), click_result())
    with torch.no_grad():
        model.user.table.codebook.add_(1.0)
    state = model.state_dict()
    assert {name for name in state if name.startswith("user")} == {
        "user.table.codebook",
        "user.table.codes",
        "user.table.layout",
    }
    assert state["user.table.codes"].dtype == torch.uint8
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    fresh = replace_embeddings_(click_model(), click_result())
    fresh.load_state_dict(torch.load(buffer, weights_only=True))
    inputs = click_inputs()
    assert torch.equal(fresh.eval()(*inputs), model.eval()(*inputs))


def test_a_state_dict_of_other_codes_is_refused(clustered: Make) -> None:
    # Four codes of 1 or 2 bits take one byte, so all shapes are equal.
    one = clustered("a", 4, 4, 1)
    wider = PackedCodes.pack(np.array([0, 1, 0, 1]), 2)
    two = ClusteredField("a", wider, one.codebook, "float32")
    model = nn.ModuleDict({"a": compressed(nn.Embedding(4, 4), one)})
    other = nn.ModuleDict({"a": compressed(nn.Embedding(4, 4), two)})
    with pytest.raises(RuntimeError, match="layout is of another compression than this table a"):
        model.load_state_dict(other.state_dict())


def test_deepcopy_and_pickle(click_inputs: Make, click_model: Make, click_result: Make) -> None:
    model = replace_embeddings_(click_model(), click_result()).eval()
    inputs = click_inputs()
    expected = model(*inputs)
    copied, pickled = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    with torch.no_grad():
        model.user.table.codebook.zero_()
    assert torch.equal(copied(*inputs), expected)
    assert torch.equal(pickled(*inputs), expected)


def test_half_converts_the_codebook_and_leaves_the_codes(clustered: Make) -> None:
    field = clustered("user", 50, 4, 5)
    module = compressed(nn.Embedding(50, 4), field).half()
    assert module.table.codebook.dtype == torch.float16
    assert (module.table.codes.dtype, module.table.layout.dtype) == (torch.uint8, torch.int64)
    assert torch.equal(module(torch.arange(50)), decoded(field).half())


def test_autocast(click_inputs: Make, click_model: Make, click_result: Make) -> None:
    model = replace_embeddings_(click_model(), click_result())
    plain = click_model()
    result = click_result()
    with torch.no_grad():
        plain.user.weight.copy_(decoded(result["user"]))
        plain.tags.weight.copy_(decoded(result["tags"]))
    inputs = click_inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got, expected = model.eval()(*inputs), plain.eval()(*inputs)
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, expected)


@pytest.fixture
def mixed(clustered: Make, raw: Make) -> nn.Module:
    """A single table, a padded joint one with a raw part, and a bag."""
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {
            "single": nn.Embedding(20, 4),
            "joint": nn.Embedding(20, 4, padding_idx=3),
            "bag": nn.EmbeddingBag(20, 4, mode="sum"),
        }
    )
    fields = [
        clustered("single", 20, bits=5),
        clustered("a", 8, bits=2),
        raw("b", 5),
        clustered("c", 7, bits=4),
        clustered("bag", 20, bits=8),
    ]
    ranges = {"joint": {"a": (0, 8), "b": (8, 13), "c": (13, 20)}}
    replace_embeddings_(model, Compressed(fields), ranges)

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tables = model

        def forward(self, ids: Tensor) -> Tensor:
            return self.tables["single"](ids) + self.tables["joint"](ids).sum() + self.pooled(ids)

        def pooled(self, ids: Tensor) -> Tensor:
            return self.tables["bag"](ids).unsqueeze(1)

    return Sum()


@pytest.mark.exhaustive(keep=1)
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compile_captures_one_whole_graph(mixed: nn.Module, backend: str) -> None:
    torch._dynamo.reset()
    fast = torch.compile(mixed, fullgraph=True, backend=backend, dynamic=True)
    for shape in [(4, 3), (6, 5), (1, 2)]:
        ids = torch.randint(0, 20, shape)
        assert torch.equal(fast(ids), mixed(ids))
    fast(ids).sum().backward()
    expected = mixed.tables["single"].table.codebook.grad.clone()
    mixed.zero_grad()
    mixed(ids).sum().backward()
    assert torch.equal(mixed.tables["single"].table.codebook.grad, expected)


@pytest.mark.exhaustive(keep=1)
@pytest.mark.parametrize("strict", [False, True])
def test_export_with_dynamic_batches(mixed: nn.Module, strict: bool) -> None:
    # At least two bags: PyTorch exports nn.EmbeddingBag itself only under this condition.
    batch, width = torch.export.Dim("batch", min=2), torch.export.Dim("width", min=1)
    ids = torch.randint(0, 20, (4, 3))
    program = torch.export.export(
        mixed, (ids,), dynamic_shapes=({0: batch, 1: width},), strict=strict
    )
    for shape in [(4, 3), (9, 2), (2, 7)]:
        ids = torch.randint(0, 20, shape)
        assert torch.equal(program.module()(ids), mixed(ids))


def test_an_exported_program_refuses_ids_beyond_the_codes(mixed: nn.Module) -> None:
    program = torch.export.export(mixed, (torch.zeros(4, 3, dtype=torch.int64),))
    for bad in (-1, 10_000):
        with pytest.raises(IdError, match=rf"id {bad} at position 0 is outside"):
            program.module()(torch.full((4, 3), bad))


def test_only_fields_with_a_module_can_be_replaced() -> None:
    class Zeros(CompressedField):
        codec = "zeros"
        kind = 255
        tensors = {}  # noqa: RUF012

        def _lookup_table(self) -> LookupTable:
            raise NotImplementedError

        @classmethod
        def _from_entry(cls, entry: artifact.Entry) -> Zeros:
            raise NotImplementedError

    with pytest.raises(ModuleError, match="field 'user': codec 'zeros' has no PyTorch module"):
        compressed(nn.Embedding(5, 4), Zeros("user", 5, 4, "float32"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda(click_inputs: Make, click_model: Make, click_result: Make) -> None:
    model = replace_embeddings_(click_model(), click_result()).eval()
    inputs = click_inputs()
    expected = model(*inputs)
    model.to("cuda")
    assert model.user.table.codes.device.type == "cuda"
    got = model(*(part.to("cuda") for part in inputs))
    torch.testing.assert_close(got.cpu(), expected)
    there = replace_embeddings_(click_model().to("cuda"), click_result()).eval()
    assert there.user.table.codebook.device.type == "cuda"
    ids = inputs[0].to("cuda")
    assert torch.equal(there.user(ids).cpu(), model.cpu().user(inputs[0]))
