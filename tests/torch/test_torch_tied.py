"""Embeddings whose weight also scores all rows: replaced, measured and given back."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import saec
from saec.format.compressed import Compressed
from saec.torch import (
    CompressedEmbedding,
    CompressedLinear,
    compress_,
    decode_embeddings_,
    fields,
    loss_metrics,
    measure_loss_increase,
    replace_embeddings_,
)
from saec.torch.table.joint import compressed_table

Make = Callable[..., Any]
ROWS, DIM = 300, 4


class NextItem(nn.Module):
    """Scores of all items after the mean of those seen; row 0 is padding."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.item = nn.Embedding(ROWS, DIM, padding_idx=0)
        self.hidden = nn.Linear(DIM, DIM)
        self.out = nn.Linear(DIM, ROWS, bias=bias)
        self.out.weight = self.item.weight

    def forward(self, seen: Tensor) -> Tensor:
        scores: Tensor = self.out(torch.tanh(self.hidden(self.item(seen).mean(1))))
        return scores


class ByItself(NextItem):
    """The same scores by the weight itself."""

    def forward(self, seen: Tensor) -> Tensor:
        hidden = torch.tanh(self.hidden(self.item(seen).mean(1)))
        return hidden @ self.item.weight.T + self.out.bias


def seen_items(rows: int = 20, seed: int = 0) -> Tensor:
    return torch.randint(0, ROWS, (rows, 5), generator=torch.Generator().manual_seed(seed))


def table_of(kind: str, make: dict[str, Make], pads: dict[int, Tensor]) -> Any:
    made = {
        "clustered": lambda: [make["clustered"]("item", ROWS)],
        "raw": lambda: [make["raw"]("item", ROWS)],
        "tiered": lambda: [make["tiered"]("item", ROWS, keep=True)],
        "means": lambda: [make["tiered"]("item", ROWS, tiers=("", "", "", ""))],
        "joint": lambda: [make["tiered"]("a", 200), make["clustered"]("b", ROWS - 200)],
    }[kind]()
    return compressed_table(made, pads, torch.zeros(1))


@pytest.mark.parametrize("kind", ["clustered", "raw", "tiered", "means", "joint"])
@pytest.mark.parametrize("padded", [False, True])
def test_products_are_those_with_the_decoded_table(
    kind: str, padded: bool, clustered: Make, tiered: Make, raw: Make, monkeypatch: Any
) -> None:
    monkeypatch.setattr(
        "saec.torch.table.base._DECODE_ROWS", 128
    )  # three blocks, the last one ragged
    pads = {7: torch.arange(4.0), 250: -torch.ones(4)} if padded else {}
    make = {"clustered": clustered, "tiered": tiered, "raw": raw}
    table = table_of(kind, make, pads)
    vectors = torch.randn(6, DIM, generator=torch.Generator().manual_seed(1))
    expected = vectors @ table.decode().T
    with torch.no_grad():
        torch.testing.assert_close(table.products(vectors), expected)
        assert table.products(vectors[:0]).shape == (0, ROWS)
    torch.testing.assert_close(table.products(vectors), expected)
    assert torch.equal(table.weight(), table.decode())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_products_in_other_dtypes(dtype: torch.dtype, tiered: Make) -> None:
    table = compressed_table([tiered("item", ROWS)], {}, torch.zeros(1, dtype=dtype))
    vectors = torch.randn(6, DIM, generator=torch.Generator().manual_seed(1)).to(dtype)
    with torch.no_grad():
        found = table.products(vectors)
    assert found.dtype == dtype
    torch.testing.assert_close(found, functional.linear(vectors, table.decode()))


@pytest.mark.parametrize("kind", ["clustered", "tiered", "joint"])
def test_products_learn_as_the_decoded_table_does(kind: str, clustered: Make, tiered: Make) -> None:
    table = table_of(kind, {"clustered": clustered, "tiered": tiered}, {7: torch.ones(4)})
    vectors = torch.randn(6, DIM, generator=torch.Generator().manual_seed(1), requires_grad=True)
    at_scores = torch.randn(6, ROWS, generator=torch.Generator().manual_seed(2))
    parameters = list(table.parameters())
    found = torch.autograd.grad(table.products(vectors), [vectors, *parameters], at_scores)
    at_rows = at_scores.T @ vectors.detach()
    at_rows[7] = 0  # a pad learns nothing
    rows = table.rows(torch.arange(ROWS), None)
    expected = torch.autograd.grad(rows, parameters, at_rows)
    torch.testing.assert_close(found[0], at_scores @ table.decode())
    for one, other in zip(found[1:], expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kind", ["clustered", "tiered"])
@pytest.mark.parametrize("bias", [False, True])
def test_lookup_and_scores_share_one_table_and_are_restored(
    kind: str, bias: bool, clustered: Make, tiered: Make
) -> None:
    model = NextItem(bias)
    original = copy.deepcopy(model)
    result = Compressed([{"clustered": clustered, "tiered": tiered}[kind]("item", ROWS)])
    replace_embeddings_(model, result)
    assert isinstance(model.item, CompressedEmbedding)
    assert isinstance(model.out, CompressedLinear)
    assert model.item.table is model.out.table
    assert (model.out.bias is not None) == bias
    assert "out.table" not in dict(model.named_modules())  # the same one as item.table
    assert str(ROWS) in repr(model.out)

    decoded = decode_embeddings_(copy.deepcopy(model))
    assert type(decoded.out) is nn.Linear
    assert decoded.out.weight is decoded.item.weight
    assert decoded.out.bias is None or torch.equal(decoded.out.bias, original.out.bias)
    assert torch.equal(decoded.item.weight[0], original.item.weight[0])
    with torch.no_grad():
        torch.testing.assert_close(model(seen_items()), decoded(seen_items()))
    torch.testing.assert_close(model(seen_items()), decoded(seen_items()))

    decoded.load_state_dict(original.state_dict())
    assert torch.equal(decoded(seen_items()), original(seen_items()))


def test_a_saved_model_is_loaded_with_lookup_and_scores(clustered: Make) -> None:
    result = Compressed([clustered("item", ROWS)])
    model = replace_embeddings_(NextItem(), result)
    with torch.no_grad():
        model.out.table.codebook += 1
    other = replace_embeddings_(NextItem(), result)
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(seen_items()), other(seen_items()))


def test_a_model_that_takes_the_weight_gets_the_decoded_one(tiered: Make) -> None:
    result = Compressed([tiered("item", ROWS, keep=True)])
    itself = replace_embeddings_(ByItself(), result)
    layer = replace_embeddings_(NextItem(), result)
    torch.testing.assert_close(itself(seen_items()), layer(seen_items()))
    assert torch.equal(itself.item.weight, layer.out.weight)


@pytest.mark.exhaustive
def test_scores_in_a_compiled_graph(tiered: Make) -> None:
    model = replace_embeddings_(NextItem(), Compressed([tiered("item", ROWS)])).eval()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(seen_items()), model(seen_items()))


class AllRows(nn.Module):
    """logit = a . e[id] + b . (sum of all rows)."""

    def __init__(self, padding_idx: int | None = None) -> None:
        super().__init__()
        self.item = nn.Embedding(3, 2, padding_idx=padding_idx)
        nn.init.zeros_(self.item.weight)

    def forward(self, ids: Tensor) -> Tensor:
        a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])
        return self.item(ids) @ a + self.item.weight.sum(0) @ b


def test_the_metric_of_a_weight_used_by_itself_by_hand() -> None:
    # p = 1/2, so p (1 - p) = 1/4: a a' / 4 from the lookup, and b b' / 4 from each of three rows.
    batches = [(torch.tensor([1]), None), (torch.tensor([2]), None)]
    metrics = loss_metrics(AllRows(), batches, progress=False)
    np.testing.assert_allclose(metrics["item"], [[0.25, 0], [0, 3.0]], atol=1e-7)
    # The row at padding_idx is stored exactly: two rows remain.
    metrics = loss_metrics(AllRows(padding_idx=0), batches, progress=False)
    np.testing.assert_allclose(metrics["item"], [[0.25, 0], [0, 2.0]], atol=1e-7)


def test_the_metric_of_a_frozen_table_is_the_same_and_it_stays_frozen() -> None:
    model = AllRows()
    model.item.weight.requires_grad_(False)
    metrics = loss_metrics(model, [(torch.tensor([1]), None)], progress=False)
    np.testing.assert_allclose(metrics["item"], [[0.25, 0], [0, 3.0]], atol=1e-7)
    assert not model.item.weight.requires_grad


@pytest.mark.exhaustive
def test_the_metric_of_scores_in_large_batches_is_that_of_single_examples() -> None:
    seen, wanted = seen_items(512), torch.randint(0, ROWS, (512,))
    alone = [(seen[i : i + 1], wanted[i : i + 1]) for i in range(512)]
    loss = functional.cross_entropy
    expected = loss_metrics(NextItem(), alone, loss, progress=False)["item"]
    batches = [(seen[i::8], wanted[i::8]) for i in range(8)] * 8
    found = loss_metrics(NextItem(), batches, loss, progress=False)["item"]
    assert np.linalg.norm(found - expected) < 0.1 * np.linalg.norm(expected)
    by_weight = loss_metrics(ByItself(), batches, loss, progress=False)["item"]
    np.testing.assert_allclose(by_weight, found, rtol=1e-4, atol=1e-9)


def test_a_joint_table_gives_each_field_its_rows() -> None:
    ranges = {"item": {"one": (0, 1), "two": (1, 3)}}
    batches = [(torch.tensor([1]), None)]
    metrics = loss_metrics(AllRows(), batches, ranges=ranges, progress=False)
    np.testing.assert_allclose(metrics["one"], [[0, 0], [0, 1.0]], atol=1e-7)
    np.testing.assert_allclose(metrics["two"], [[0.25, 0], [0, 2.0]], atol=1e-7)


def test_a_tied_model_is_compressed_in_one_call() -> None:
    model = NextItem()
    batches = [(seen_items(64, seed), seen_items(64, seed)[:, 0]) for seed in range(10)]
    compress_(model, batches, functional.cross_entropy, saec.Ratio(4), progress=False)
    assert isinstance(model.out, CompressedLinear)


def test_comparing_restores_lookup_and_scores(clustered: Make) -> None:
    model = NextItem()
    before = dict(model.named_modules())
    batches = [(seen_items(), torch.arange(20))]
    result = Compressed([clustered("item", ROWS)])
    measure_loss_increase(model, result, batches, functional.cross_entropy, labelled=True)
    assert dict(model.named_modules()) == before
    assert len(fields(model, {"item": np.ones(ROWS)})) == 1
