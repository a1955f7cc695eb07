"""All fields in one call: results of separate calls, and cases that need separate calls."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from saec.errors import IdError
from saec.format.raw_field import RawField
from saec.torch import FieldEmbeddings
from saec.torch.model.modules import CompressedEmbedding
from saec.torch.table.joint import compressed_table

Make = Callable[..., Any]
SIZES = {"user": 300, "country": 12, "item": 500, "hour": 24, "tag": 40}


@pytest.fixture
def fields(clustered: Make, tiered: Make, raw: Make) -> FieldEmbeddings:
    """Clusters, a plain table, tiers, a raw field in a compressed module, clusters with a pad."""

    def module(field: Any, pads: dict[int, Tensor] | None = None) -> CompressedEmbedding:
        table = compressed_table([field], pads or {}, torch.empty(0))
        return CompressedEmbedding(table, None if pads is None else next(iter(pads)))

    made = [
        module(clustered("user", 300, 8, 5)),
        nn.Embedding(12, 8),
        module(tiered("item", 500, 8)),
        module(raw("hour", 24, 8)),
        module(clustered("tag", 40, 8, 3), {7: torch.full((8,), 0.5)}),
    ]
    return FieldEmbeddings(dict(zip(SIZES, made, strict=True)))


def some_ids(count: int, dtype: torch.dtype = torch.int64) -> Tensor:
    columns = [torch.randint(0, size, (count,), dtype=dtype) for size in SIZES.values()]
    return torch.stack(columns, dim=1)


def one_by_one(fields: FieldEmbeddings, ids: Tensor) -> Tensor:
    columns = zip(fields.values(), ids.unbind(1), strict=True)
    return torch.stack([module(column) for module, column in columns], dim=1)


@torch.no_grad()
def taken(fields: FieldEmbeddings, ids: Tensor) -> Tensor | None:
    """Vectors by one call; checks that the next call of ``fields`` uses it."""
    together = fields._together
    return None if together is None else together.rows(ids, fields._modules)


@torch.no_grad()
def check(fields: FieldEmbeddings, ids: Tensor) -> None:
    expected = one_by_one(fields, ids)
    assert torch.equal(fields(ids), expected)
    found = taken(fields, ids)
    assert found is not None
    assert torch.equal(found, expected)
    assert torch.equal(fields(ids), expected)


@pytest.mark.parametrize("count", [0, 1, 13, 64, 5000])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("threads", [1, 2])
def test_vectors_are_those_of_the_modules(
    fields: FieldEmbeddings, count: int, dtype: torch.dtype, threads: int
) -> None:
    torch.set_num_threads(threads)  # the fixture of all tests in this file resets it
    ids = some_ids(count, dtype)
    check(fields, ids)
    check(fields, ids.T.contiguous().T)  # one column after the other
    check(fields, torch.cat([ids, ids], dim=1)[:, : len(SIZES)])
    check(fields, ids[::3])
    check(fields, ids[:1].expand(min(count, 1) * 9, -1))


@given(data=st.data())
def test_any_fields(clustered: Make, tiered: Make, data: st.DataObject) -> None:
    dim = data.draw(st.sampled_from([1, 4, 16, 17]))
    made: dict[str, nn.Module] = {}
    for number in range(data.draw(st.integers(1, 5))):
        kind = data.draw(st.sampled_from(["plain", "clusters", "tiers"]))
        rows = data.draw(st.integers(1 if kind == "plain" else 2, 400))
        if kind == "plain":
            made[f"f{number}"] = nn.Embedding(rows, dim)
            continue
        field = clustered("f", rows, dim, 3) if kind == "clusters" else tiered("f", rows, dim)
        made[f"f{number}"] = CompressedEmbedding(compressed_table([field], {}, torch.empty(0)))
    fields = FieldEmbeddings(made)
    count = data.draw(st.integers(0, 80))
    sizes = [module.num_embeddings for module in made.values()]
    ids = torch.stack([torch.randint(0, size, (count,)) for size in sizes], dim=1)
    with torch.no_grad():
        expected = one_by_one(fields, ids)
        for _ in range(2):
            assert torch.equal(fields(ids), expected)
        found = taken(fields, ids)
    if all(type(module) is nn.Embedding for module in made.values()):
        assert found is None
    else:
        assert found is not None
        assert torch.equal(found, expected)


def test_models_without_compressed_tables_use_pytorch() -> None:
    fields = FieldEmbeddings({"a": nn.Embedding(3, 2), "b": nn.Embedding(4, 2)})
    ids = torch.tensor([[2, 3], [0, 1]])
    with torch.no_grad():
        assert torch.equal(fields(ids), one_by_one(fields, ids))
    assert fields._together is None


def test_gradients_go_through_the_modules(fields: FieldEmbeddings) -> None:
    ids = some_ids(50)
    with torch.no_grad():
        fields(ids)
    fields(ids).square().sum().backward()
    found = [parameter.grad for parameter in fields.parameters()]
    assert any(gradient is not None for gradient in found)
    fields.zero_grad()
    one_by_one(fields, ids).square().sum().backward()
    for gradient, parameter in zip(found, fields.parameters(), strict=True):
        assert (gradient is None) == (parameter.grad is None)
        if gradient is not None:
            assert torch.equal(gradient, parameter.grad)


def test_changed_parameters_are_seen(fields: FieldEmbeddings) -> None:
    ids = some_ids(50)
    check(fields, ids)
    optimizer = torch.optim.SGD(fields.parameters(), 0.5)
    fields(ids).square().sum().backward()
    optimizer.step()
    check(fields, ids)
    for parameter in fields.parameters():
        parameter.data.mul_(3)
    check(fields, ids)


def test_modules_that_are_replaced_are_seen(fields: FieldEmbeddings, clustered: Make) -> None:
    ids = some_ids(50)
    check(fields, ids)
    field = clustered("user", 300, 8, 5, seed=5)
    fields["user"] = CompressedEmbedding(compressed_table([field], {}, torch.empty(0)))
    check(fields, ids)
    fields["country"].weight = nn.Parameter(torch.randn(12, 8))
    check(fields, ids)


def test_loaded_codes_are_seen(fields: FieldEmbeddings) -> None:
    ids = some_ids(50)
    check(fields, ids)
    codes = fields["item"].table.codes
    fields["item"].load_state_dict(
        fields["item"].state_dict() | {"table.codes": codes.flip(0).contiguous()}
    )
    assert taken(fields, ids) is None
    check(fields, ids)


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
@pytest.mark.parametrize("everywhere", [False, True])
def test_hooks_are_called(fields: FieldEmbeddings, register: str, everywhere: bool) -> None:
    ids, calls = some_ids(5), []
    check(fields, ids)
    owner: Any = fields["country"]
    if everywhere:
        owner, register = nn.modules.module, register.replace("register", "register_module")
    handle = getattr(owner, register)(lambda module, *_: calls.append(module))
    try:
        with torch.no_grad():
            fields(ids)
    finally:
        handle.remove()
    assert fields["country"] in calls
    check(fields, ids)


def test_modules_with_their_own_behaviour_are_called(
    fields: FieldEmbeddings, clustered: Make
) -> None:
    ids = some_ids(5)

    class Twice(nn.Embedding):
        def forward(self, input: Tensor) -> Tensor:  # noqa: A002
            return 2 * super().forward(input)

    fields["country"] = Twice(12, 8)
    with torch.no_grad():
        fields(ids)
        assert fields._together is None
        for plain in (
            nn.Embedding(12, 8, max_norm=0.1),
            nn.Embedding(12, 8, _weight=torch.randn(12, 16)[:, ::2]),
        ):
            fields["country"] = plain
            torch.testing.assert_close(fields(ids), one_by_one(fields, ids))  # with max_norm again
            assert fields._together is None
        fields["country"] = nn.Embedding(12, 8)
        fields["country"].forward = lambda column: torch.ones(len(column), 8)
        assert torch.equal(fields(ids)[:, 1], torch.ones(5, 8))
        assert fields._together is None


def test_other_dims_and_dtypes_are_refused_as_stacks_are(fields: FieldEmbeddings) -> None:
    ids = some_ids(5)
    fields["country"] = nn.Embedding(12, 4)
    with torch.no_grad(), pytest.raises(RuntimeError, match="equal size"):
        fields(ids)
    fields["country"] = nn.Embedding(12, 8, dtype=torch.float64)
    with torch.no_grad():
        assert fields(ids).dtype == torch.float64  # as torch.stack promotes
        assert fields._together is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(fields: FieldEmbeddings, dtype: torch.dtype) -> None:
    ids = some_ids(50)
    check(fields, ids)
    fields.to(dtype)
    with torch.no_grad():
        assert torch.equal(fields(ids), one_by_one(fields, ids))
        assert fields(ids).dtype == dtype
    assert (fields._together is None) == (dtype == torch.float64)


def test_bad_ids_are_named(fields: FieldEmbeddings) -> None:
    ids = some_ids(100)
    check(fields, ids)
    for bad in (-1, 500):
        ids[70, 2] = bad
        with torch.no_grad(), pytest.raises(IdError, match=f"item: id {bad} at position 70 is out"):
            fields(ids)
    ids[70, 2] = 0
    check(fields, ids)
    with torch.no_grad():
        with pytest.raises(IdError, match=r"user: ids must be int32 or int64, not torch.float32"):
            fields(ids.float())
        for columns in (4, 6):
            with pytest.raises(ValueError, match=r"zip\(\)"):
                fields(torch.zeros(3, columns, dtype=torch.int64))


def test_copies(fields: FieldEmbeddings) -> None:
    ids = some_ids(50)
    check(fields, ids)
    for other in (copy.deepcopy(fields), pickle.loads(pickle.dumps(fields))):
        assert other._together is None
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.zero_()
        check(other, ids)
    check(fields, ids)
    assert list(fields.state_dict()) == list(copy.deepcopy(fields).state_dict())


def test_names_of_tensors_are_those_of_a_dict_of_modules(fields: FieldEmbeddings) -> None:
    plain = nn.ModuleDict(dict(fields.items()))
    assert list(fields.state_dict()) == list(plain.state_dict())


@pytest.mark.exhaustive(keep=1)
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled(fields: FieldEmbeddings, backend: str) -> None:
    ids = some_ids(50)
    check(fields, ids)
    torch._dynamo.reset()
    fast = torch.compile(fields, fullgraph=True, backend=backend)
    assert torch.equal(fast(ids), fields(ids))
    with torch.no_grad():
        assert torch.equal(fast(ids), fields(ids))


@pytest.mark.exhaustive(keep=1)
@pytest.mark.parametrize("strict", [False, True])
def test_exported(fields: FieldEmbeddings, strict: bool) -> None:
    ids = some_ids(50)
    check(fields, ids)
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(fields, (ids,), dynamic_shapes=({0: batch},), strict=strict)
    other = some_ids(33)
    assert torch.equal(program.module()(other), fields(other))


def test_raw_fields_in_a_compressed_module_keep_their_numbers() -> None:
    rows = torch.arange(12.0).reshape(6, 2)
    table = compressed_table([RawField("a", rows.numpy())], {}, torch.empty(0))
    fields = FieldEmbeddings({"a": CompressedEmbedding(table)})
    ids = torch.tensor([[5], [0]])
    check(fields, ids)
    with torch.no_grad():
        assert fields(ids).tolist() == [[[10, 11]], [[0, 1]]]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda(fields: FieldEmbeddings) -> None:
    ids = some_ids(50)
    with torch.no_grad():
        expected = fields(ids)
        fields.cuda()
        torch.testing.assert_close(fields(ids.cuda()).cpu(), expected)
        assert fields._together is None
