"""The decoded weight of a compressed module can be read like a plain weight, but not written."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from saec.errors import ModuleError
from saec.torch import CompressedEmbedding, CompressedLinear
from saec.torch.table.joint import compressed_table

Make = Callable[..., Any]


@pytest.fixture(params=["embedding", "linear"])
def module(request: pytest.FixtureRequest, clustered: Make) -> nn.Module:
    table = compressed_table([clustered("user", 40, 4)], {}, torch.empty(0))
    return CompressedEmbedding(table) if request.param == "embedding" else CompressedLinear(table)


def swap(weight: Tensor) -> None:
    weight.data = torch.zeros_like(weight)


def assign(weight: Tensor) -> None:
    weight[3] = 0


WRITES: dict[str, Callable[[Tensor], Any]] = {
    "data": lambda weight: weight.data.mul_(2),
    "mul_": lambda weight: weight.mul_(2),
    "item": assign,
    "row": lambda weight: weight[0].zero_(),
    "view": lambda weight: weight.view(-1)[3:5].fill_(1),
    "transposed": lambda weight: weight.T.copy_(weight.T.clone()),
    "chunk": lambda weight: weight.chunk(2)[1].zero_(),
    "detached": lambda weight: weight.detach().zero_(),
    "init": lambda weight: nn.init.normal_(weight),
    "xavier": lambda weight: nn.init.xavier_uniform_(weight),
    "out": lambda weight: torch.add(torch.zeros(40, 4), 1, out=weight),
    "foreach": lambda weight: torch._foreach_mul_([weight], 2.0),
    "new data": swap,
    "index_add_": lambda weight: weight.index_add_(0, torch.tensor([1]), torch.ones(1, 4)),
}


@pytest.mark.parametrize("learns", [False, True])
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_writes_are_refused(
    module: nn.Module, write: Callable[[Tensor], Any], learns: bool
) -> None:
    before = module.decode()
    for outside in (False, True):
        with torch.set_grad_enabled(learns and outside):
            weight = module.weight
        with torch.no_grad(), pytest.raises(ModuleError, match="would write to a copy: the weight"):
            write(weight)
    assert torch.equal(module.decode(), before)


def test_the_attribute_is_not_written_to(module: nn.Module) -> None:
    before = module.decode()
    with torch.no_grad(), pytest.raises((AttributeError, ModuleError)):
        module.weight += 1
    with torch.no_grad(), pytest.raises((AttributeError, ModuleError)):
        module.weight = torch.zeros(40, 4)
    with pytest.raises((AttributeError, KeyError)):
        module.weight = nn.Parameter(torch.zeros(40, 4))
    assert torch.equal(module.decode(), before)


def test_arrays_are_read_only(module: nn.Module) -> None:
    with torch.no_grad():
        for made in (
            module.weight.numpy(),
            np.asarray(module.weight),
            np.array(module.weight, copy=None),
        ):
            with pytest.raises(ValueError, match="read-only"):
                made[0] = 0
        np.asarray(module.weight).copy()[0] = 0


def test_what_is_computed_is_plain(module: nn.Module) -> None:
    table = module.decode()
    vectors = torch.randn(3, 4)
    with torch.no_grad():
        weight = module.weight
        for result, expected in (
            (vectors @ weight.T, vectors @ table.T),
            (nn.functional.linear(vectors, weight), vectors @ table.T),
            (nn.functional.embedding(torch.tensor([1, 1]), weight), table[[1, 1]]),
            (weight.norm(), table.norm()),
            (weight.clone().mul_(2), table * 2),
            (weight * 2, table * 2),
            (copy.deepcopy(weight), table),
            (weight.max(dim=1).values, table.max(dim=1).values),
        ):
            assert type(result) is Tensor
            assert torch.equal(result, expected)
        assert np.array_equal(weight.numpy(), table.numpy())
        assert weight.shape == (40, 4)
        assert torch.equal(weight[1:3], table[1:3])


def test_gradients_go_through(module: nn.Module) -> None:
    (module.weight * torch.arange(40.0)[:, None]).sum().backward()
    through = module.table.codebook.grad.clone()
    module.table.codebook.grad = None
    (module.table.weight() * torch.arange(40.0)[:, None]).sum().backward()
    assert torch.equal(through, module.table.codebook.grad)


def test_a_saved_weight_is_plain(module: nn.Module) -> None:
    file = io.BytesIO()
    with torch.no_grad():
        torch.save({"weight": module.weight}, file)
    file.seek(0)
    weight = torch.load(file, weights_only=True)["weight"]
    assert type(weight) is Tensor
    assert torch.equal(weight, module.decode())


def test_graphs_read_it(module: nn.Module) -> None:
    def scores(vectors: Tensor) -> Tensor:
        return nn.functional.linear(vectors, module.weight)

    vectors = torch.randn(3, 4)
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(scores, fullgraph=True, backend="eager")
        assert torch.equal(compiled(vectors), scores(vectors))
