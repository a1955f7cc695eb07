"""Models that are built on the meta device and never hold the plain tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from saec.errors import ModuleError
from saec.format.compressed import Compressed
from saec.torch import loss_metrics, replace_embeddings_

Make = Callable[..., Any]


class Every(nn.Module):
    """A table of each kind: in tiers, clustered in a bag, raw, tied to a linear layer, joint."""

    def __init__(self) -> None:
        super().__init__()
        self.tiers = nn.Embedding(400, 4, padding_idx=3)
        self.bag = nn.EmbeddingBag(30, 4, mode="sum", padding_idx=0)
        self.raw = nn.Embedding(5, 4)
        self.token = nn.Embedding(20, 4, padding_idx=1)
        self.joint = nn.Embedding(330, 4, padding_idx=2)
        self.norm = nn.BatchNorm1d(4)
        self.scores = nn.Linear(4, 20)
        self.scores.weight = self.token.weight

    def forward(self, ids: Tensor) -> Tensor:
        rows = self.tiers(ids) + self.raw(ids % 5) + self.token(ids % 20) + self.joint(ids % 330)
        return self.scores(self.norm(rows + self.bag((ids % 30)[:, None])))


RANGES = {"joint": {"left": (0, 300), "right": (300, 330)}}
IDS = torch.arange(400)


@pytest.fixture(scope="module")
def result(tiered: Make, clustered: Make, raw: Make) -> Compressed:
    names = [tiered("tiers", 400, keep=True), clustered("bag", 30), raw("raw", 5)]
    names += [clustered("token", 20), tiered("left", 300), clustered("right", 30)]
    return Compressed(names)


@pytest.fixture(scope="module")
def trained(result: Compressed) -> nn.Module:
    """The model with trained weights, and zeros as padding rows."""
    torch.manual_seed(0)
    model = Every()
    model.norm.running_mean.uniform_(-1, 1)
    with torch.no_grad():
        model.norm.weight.uniform_(1, 2)
        for module in (model.tiers, model.token, model.joint):
            module.weight[module.padding_idx] = 0
    return replace_embeddings_(model, result, RANGES).eval()


def on_meta() -> Every:
    with torch.device("meta"):
        return Every()


def others(model: nn.Module) -> dict[str, Tensor]:
    """The entries of a state that are not of tables."""
    kept = ("norm.", "scores.bias")
    return {name: value for name, value in model.state_dict().items() if name.startswith(kept)}


def test_other_weights_by_assignment(trained: nn.Module, result: Compressed) -> None:
    model = replace_embeddings_(on_meta(), result, RANGES)
    missing, unexpected = model.load_state_dict(others(trained), strict=False, assign=True)
    assert not unexpected
    assert all(".table." in name or name == "raw.weight" for name in missing)
    assert torch.equal(model.eval()(IDS), trained(IDS))


def test_all_weights_by_assignment(trained: nn.Module, result: Compressed) -> None:
    model = replace_embeddings_(on_meta(), result, RANGES)
    model.load_state_dict(trained.state_dict(), assign=True)
    assert torch.equal(model.eval()(IDS), trained(IDS))


@pytest.mark.parametrize("assign", [True, False])
def test_to_empty_leaves_compressed_tables(
    trained: nn.Module, result: Compressed, assign: bool
) -> None:
    model = replace_embeddings_(on_meta(), result, RANGES)
    before = model.tiers.decode()
    model.to_empty(device="cpu")
    assert torch.equal(model.tiers.decode(), before)
    raw_rows = {"raw.weight": trained.raw.weight.detach()}  # a plain module, so it is emptied
    model.load_state_dict(others(trained) | raw_rows, strict=False, assign=assign)
    assert torch.equal(model.eval()(IDS), trained(IDS))
    model.to_empty(device="meta")
    assert all(value.is_meta for value in model.state_dict().values())


def test_within_the_device_context(trained: nn.Module, result: Compressed) -> None:
    with torch.device("meta"):
        model = replace_embeddings_(Every(), result, RANGES)
    model.load_state_dict(others(trained), strict=False, assign=True)
    assert torch.equal(model.eval()(IDS), trained(IDS))


def test_flags_and_dtypes_are_kept(result: Compressed) -> None:
    model = on_meta().half().requires_grad_(False).eval()
    replace_embeddings_(model, result, RANGES)
    for module in (model.tiers, model.bag, model.raw, model.token, model.joint):
        assert not module.training
        for parameter in module.parameters():
            assert (parameter.dtype, parameter.device.type) == (torch.float16, "cpu")
            assert not parameter.requires_grad


def test_a_raw_table_stays_one_weight_for_all_its_modules(raw: Make) -> None:
    with torch.device("meta"):
        model = nn.ModuleDict({"a": nn.Embedding(5, 4), "b": nn.Embedding(5, 4)})
        model["out"] = nn.Linear(4, 5, bias=False)
    model["b"].weight = model["out"].weight = model["a"].weight
    field = raw("a", 5)
    replace_embeddings_(model, Compressed([field]))
    assert model["a"].weight is model["b"].weight is model["out"].weight
    assert model["a"].weight.detach().numpy().tolist() == field.decode().tolist()


def test_other_shapes_and_missing_weights_are_named(result: Compressed, clustered: Make) -> None:
    with pytest.raises(ModuleError, match="'bag' is 30 x 4 in the model, but 31 x 4 in the comp"):
        replace_embeddings_(on_meta(), Compressed([clustered("bag", 31)]))
    with pytest.raises(ModuleError, match=r"'tiers' cannot be .* meta device; load the weights fi"):
        loss_metrics(on_meta(), [], progress=False)
