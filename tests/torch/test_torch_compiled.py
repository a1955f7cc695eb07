"""Lookups in graphs of ``torch.compile``: one operator a module, and right rows after writes."""

from __future__ import annotations

import copy
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from saec.torch import CompressedEmbedding, CompressedEmbeddingBag, FieldEmbeddings
from saec.torch.table.joint import compressed_table

Make = Callable[..., Any]
ROWS, DIM = 300, 8
IDS = torch.tensor([3, 299, 0, 3])


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()


@pytest.fixture(params=["clusters", "tiers"])
def module(request: pytest.FixtureRequest, clustered: Make, tiered: Make) -> CompressedEmbedding:
    make = clustered if request.param == "clusters" else tiered
    return CompressedEmbedding(compressed_table([make("user", ROWS, DIM)], {}, torch.empty(0)))


class Graphs:
    """A backend that records its graphs and runs them unchanged."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.inputs = 0

    def __call__(self, graph: fx.GraphModule, example: list[Any]) -> Any:
        nodes = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
        names = [name.split(".")[1] for name in nodes if name.startswith("saec.")]
        self.calls.append(names)
        self.inputs = sum(node.op == "placeholder" for node in graph.graph.nodes)
        return graph.forward


def compiled(call: Callable[..., Any]) -> tuple[Callable[..., Any], Graphs]:
    graphs = Graphs()
    return torch.compile(call, fullgraph=True, backend=graphs), graphs


@pytest.mark.exhaustive(keep=1)
def test_without_gradients_tables_are_not_graph_inputs(module: CompressedEmbedding) -> None:
    bags = CompressedEmbeddingBag(module.table, "sum")
    fields = FieldEmbeddings({"a": module, "b": nn.Embedding(ROWS, DIM)})
    matrix = torch.stack([IDS, IDS.flip(0)], dim=1)
    for lookups, ids, name in (
        (module, IDS, "look_up"),
        (bags, matrix, "look_up_bags"),
        (fields, matrix, "look_up"),
    ):
        fast, graphs = compiled(lookups)
        with torch.no_grad():
            assert torch.equal(fast(ids), lookups(ids))
            assert torch.equal(fast(ids + 0), lookups(ids))
        assert graphs.calls == [[name]]
        assert graphs.inputs == 1


@pytest.mark.exhaustive(keep=1)
def test_frozen_tables_need_no_gradients_to_be_off(module: CompressedEmbedding) -> None:
    fast, graphs = compiled(module)
    assert fast(IDS).requires_grad
    module.requires_grad_(False)
    assert torch.equal(fast(IDS), module(IDS))
    assert graphs.calls == [["pool"], ["look_up"]]


@pytest.mark.exhaustive(keep=1)
def test_bags_with_offsets_and_weights(module: CompressedEmbedding) -> None:
    bags = CompressedEmbeddingBag(module.table, "sum", include_last_offset=True)
    arguments = IDS, torch.tensor([0, 1, 4]), torch.tensor([1.0, -2, 0.5, 3])
    fast, graphs = compiled(bags)
    with torch.no_grad():
        assert torch.equal(fast(*arguments), bags(*arguments))
    assert graphs.calls == [["look_up_bags"]]
    assert fast(*arguments).shape == (2, DIM)
    assert graphs.calls[1:] == [["pool"]]


@pytest.mark.exhaustive(keep=1)
def test_rows_are_those_of_the_table_as_it_is(module: CompressedEmbedding) -> None:
    fast, graphs = compiled(module)
    other = copy.deepcopy(module)
    with torch.no_grad():
        fast(IDS)
        for parameter in module.parameters():
            parameter.data.mul_(2)
            assert torch.equal(fast(IDS), module(IDS))
        module.load_state_dict(other.state_dict(), assign=True)
        assert torch.equal(fast(IDS), other(IDS))
        assert len(graphs.calls) == 1
        module.double()
        assert torch.equal(fast(IDS), module(IDS))
        assert fast(IDS).dtype == torch.float64
        assert len(graphs.calls) == 2


@pytest.mark.exhaustive(keep=1)
def test_copies_are_modules_of_their_own(module: CompressedEmbedding) -> None:
    fast, _ = compiled(lambda lookups, ids: lookups(ids))
    other = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
        for lookups in (module, other, module):
            assert torch.equal(fast(lookups, IDS), lookups(IDS))


@pytest.mark.exhaustive(keep=1)
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_graphs_that_write_to_tables(module: CompressedEmbedding, backend: str) -> None:
    """A graph may order writes and lookups differently."""
    parameter = next(module.parameters())

    def step(ids: Tensor) -> tuple[Tensor, Tensor]:
        before = module(ids)
        parameter.mul_(2)
        return before, module(ids)

    with torch.no_grad():
        first = module(IDS)
        before, after = torch.compile(step, fullgraph=True, backend=backend)(IDS)
        assert torch.equal(before, first)
        assert torch.equal(after, module(IDS))
    assert not torch.equal(before, after)


@pytest.mark.exhaustive(keep=1)
def test_tensors_that_are_given_for_a_call(module: CompressedEmbedding) -> None:
    given = {name: 2 * value.detach() for name, value in module.named_parameters()}

    def call(values: dict[str, Tensor], ids: Tensor) -> Tensor:
        return torch.func.functional_call(module, values, (ids,))

    with torch.no_grad():
        expected = call(given, IDS)
        fast, graphs = compiled(call)
        assert torch.equal(fast(given, IDS), expected)
        assert not torch.equal(expected, module(IDS))
    assert graphs.calls == [["pool"]]


@pytest.mark.exhaustive(keep=1)
def test_exported_programs_take_tensors(module: CompressedEmbedding) -> None:
    for strict in (False, True):
        with torch.no_grad():
            program = torch.export.export(nn.Sequential(module), (IDS,), strict=strict)
        targets = [str(node.target) for node in program.graph.nodes]
        assert targets.count("saec.pool.default") == 1


def test_real_compiler(module: CompressedEmbedding) -> None:
    """Without code for a C++ compiler, which would take seconds."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of what PyTorch itself calls
        fast = torch.compile(module, fullgraph=True)
        for _ in range(2):
            assert torch.equal(fast(IDS), module(IDS))
            for parameter in module.parameters():
                parameter.add_(1)


def test_compilers_compute_no_rows_beforehand() -> None:
    """Not even for constant ids: PyTorch does not fold operators with this tag."""
    for operator in (torch.ops.saec.look_up.default, torch.ops.saec.look_up_bags.default):
        assert torch.Tag.nondeterministic_seeded in operator.tags


@pytest.mark.exhaustive
def test_importing_the_package_does_not_import_the_compiler() -> None:
    script = "import sys, saec.torch; print('torch._dynamo' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert shown.stdout == "False\n", shown.stderr
