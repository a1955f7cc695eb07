"""Compressed modules are copied, saved and shared after lookups; copies are independent."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from saec.torch.model.modules import CompressedEmbedding, CompressedEmbeddingBag, CompressedLinear
from saec.torch.table.joint import compressed_table

Make = Callable[..., Any]
ROWS = 500
KINDS = ["clusters", "tiers", "both"]


class Model(nn.Module):
    """A table that is looked up, pooled and scored."""

    def __init__(self, fields: list[Any]) -> None:
        super().__init__()
        table = compressed_table(fields, {}, torch.empty(0))
        self.rows = CompressedEmbedding(table)
        self.bags = CompressedEmbeddingBag(table, "sum")
        self.scores = CompressedLinear(table)

    def forward(self, ids: Tensor) -> Tensor:
        rows = self.rows(ids)
        return torch.cat([rows, self.bags(ids[:, None]), self.scores(rows)], dim=1)


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest, clustered: Make, tiered: Make) -> Model:
    fields = {
        "clusters": [clustered("user", ROWS, 8)],
        "tiers": [tiered("user", ROWS, 8)],
        "both": [clustered("user", ROWS // 2, 8), tiered("item", ROWS // 2, 8)],
    }
    return Model(fields[request.param])


def saved(model: Model) -> Model:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded: Model = torch.load(file, weights_only=False)
    return loaded


def shared(model: Model) -> Model:
    return copy.deepcopy(model).share_memory()


COPIES: list[Callable[[Model], Model]] = [
    copy.deepcopy,
    lambda model: pickle.loads(pickle.dumps(model)),
    saved,
    shared,
]


@torch.no_grad()
def outputs(model: Model) -> Tensor:
    ids = torch.arange(0, ROWS, 7)
    first = model(ids)
    assert torch.equal(model(ids), first)  # the second lookup may take the shortcut
    found: Tensor = model(ids)
    return found


@pytest.mark.parametrize("copied", COPIES, ids=["deepcopy", "pickle", "torch.save", "share_memory"])
def test_copies(model: Model, copied: Callable[[Model], Model]) -> None:
    before = outputs(model)
    other = copied(model)
    assert torch.equal(outputs(other), before)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.25)
    after = outputs(other)
    assert not torch.equal(after, before)
    assert torch.equal(outputs(copied(other)), after)
    assert torch.equal(outputs(model), before)


def test_sharing_memory_in_place(model: Model) -> None:
    before = outputs(model)
    model.share_memory()
    assert all(parameter.is_shared() for parameter in model.parameters())
    assert torch.equal(outputs(model), before)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.25)
    assert not torch.equal(outputs(model), before)
