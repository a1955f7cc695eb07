"""Calls that PyTorch records: right rows for other ids, or an error with alternatives."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from saec.errors import IdError, ModuleError
from saec.format.raw_field import RawField
from saec.format.tier_layout import Layout
from saec.torch import (
    CompressedEmbedding,
    CompressedEmbeddingBag,
    CompressedLinear,
    FieldEmbeddings,
)
from saec.torch.table.base import CompressedTable
from saec.torch.table.joint import compressed_table

Make = Callable[..., Any]
ROWS, DIM = 300, 8
KINDS = ["clusters", "tiers", "joint"]


@pytest.fixture(autouse=True)
def no_old_news() -> Iterator[None]:
    """Ignore PyTorch's warnings that older ways of recording are deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=".*deprecated.*")
        warnings.filterwarnings("ignore", message="There is a performance drop")
        yield


@pytest.fixture(params=KINDS)
def table(request: pytest.FixtureRequest, clustered: Make, tiered: Make) -> CompressedTable:
    fields = {
        "clusters": [clustered("user", ROWS, DIM)],
        "tiers": [tiered("user", ROWS, DIM)],
        "joint": [clustered("a", 100, DIM), tiered("b", 200, DIM)],
    }[request.param]
    return compressed_table(fields, {}, torch.empty(0))


class Model(nn.Module):
    """All modules that hold a table; ids (n, 3) in, numbers (n,) out."""

    def __init__(self, table: CompressedTable) -> None:
        super().__init__()
        self.user = CompressedEmbedding(table)
        self.tags = CompressedEmbeddingBag(table, "sum")
        self.fields = FieldEmbeddings({"a": self.user, "b": nn.Embedding(ROWS, DIM)})
        self.scores = CompressedLinear(table)

    def forward(self, ids: Tensor) -> Tensor:
        """One number for each row of ids."""
        rows = self.user(ids[:, 0]) + self.tags(ids) + self.fields(ids[:, :2]).sum(dim=1)
        return self.scores(rows).sum(dim=1)


@pytest.fixture
def model(table: CompressedTable) -> Model:
    made = Model(table).eval()
    with torch.no_grad():
        for _ in range(2):
            made(some_ids(0))  # shortcuts exist
    return made


def some_ids(seed: int, count: int = 5) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(ROWS, size=(count, 3)))


def check(recorded: Callable[[Tensor], Tensor], model: Model, count: int = 5) -> None:
    """Check results for ids that were not in the recorded call."""
    for seed in (1, 2):
        ids = some_ids(seed, count)
        torch.testing.assert_close(recorded(ids), model(ids), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("learns", [False, True])
def test_jit_trace(model: Model, learns: bool) -> None:
    with torch.set_grad_enabled(learns):
        # PyTorch's check traces without gradients, and then scores are computed in blocks.
        traced = torch.jit.trace(model, (some_ids(0),), check_trace=not learns)
        check(traced, model)
        check(traced, model, 9)
        file = io.BytesIO()
        torch.jit.save(traced, file)
        file.seek(0)
        check(torch.jit.load(file), model)


@pytest.mark.exhaustive(keep=1)
def test_make_fx(model: Model) -> None:
    with torch.no_grad():
        for mode in ("real", "fake", "symbolic"):
            graph = make_fx(model, tracing_mode=mode, _allow_non_fake_inputs=True)(some_ids(0))
            check(graph, model)


def test_symbolic_trace_keeps_modules_as_leaves(model: Model) -> None:
    graph = torch.fx.symbolic_trace(model)
    called = [str(node.target) for node in graph.graph.nodes if node.op == "call_module"]
    assert called == ["user", "tags", "fields", "scores"]
    check(graph, model)
    check(graph, model, 9)
    with pytest.raises(ModuleError, match="a CompressedEmbedding is a leaf of FX graphs"):
        torch.fx.symbolic_trace(model.user)


def test_jit_script_is_refused_with_alternatives(model: Model) -> None:
    match = "torch.jit.script does not know compressed tables: use torch.export or torch.jit.trace"
    for module in (model, model.user, model.tags, model.scores, model.fields):
        with pytest.raises(ModuleError, match=match):
            torch.jit.script(module)


@pytest.mark.exhaustive(keep=1)
@pytest.mark.parametrize(
    ("table", "dynamo", "frozen"),
    [
        *((kind, False, frozen) for kind in KINDS for frozen in (False, True)),
        ("clusters", True, False),
        ("tiers", True, True),
        ("joint", True, False),
    ],
    indirect=["table"],
)
def test_onnx_export_is_refused_with_alternatives(
    table: CompressedTable, dynamo: bool, frozen: bool
) -> None:
    pytest.importorskip("onnxscript")
    module = nn.Sequential(CompressedEmbedding(table)).eval().requires_grad_(not frozen)
    # The newer exporter wraps errors in its own ones.
    with pytest.raises(Exception if dynamo else ModuleError, match="know compressed tables"):
        torch.onnx.export(module, (torch.arange(5),), io.BytesIO(), dynamo=dynamo)


def test_vmap(table: CompressedTable) -> None:
    ids = some_ids(3, 12)
    rows, bags = CompressedEmbedding(table), CompressedEmbeddingBag(table, "sum")
    with torch.no_grad():
        for _ in range(2):
            assert torch.equal(torch.vmap(rows)(ids), rows(ids))
        assert torch.equal(torch.vmap(rows, in_dims=1)(ids), rows(ids.T))
        each = torch.vmap(lambda own: bags(own[None])[0])(ids)
        torch.testing.assert_close(each, bags(ids), rtol=1e-5, atol=1e-5)


def test_functional_gradients(table: CompressedTable) -> None:
    module, ids = CompressedEmbedding(table), torch.arange(20)
    parameters = {name: value.detach() for name, value in module.named_parameters()}

    def loss(given: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(module, given, (ids,)).square().sum()

    found = torch.func.grad(loss)(parameters)
    module(ids).square().sum().backward()
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-4)


def test_functional_calls_use_the_given_parameters(table: CompressedTable) -> None:
    module, ids = CompressedEmbedding(table), torch.arange(20)
    with torch.no_grad():
        before = (module(ids), module(ids))[0]
        doubled = {name: value + 1 for name, value in module.named_parameters()}
        other = torch.func.functional_call(module, doubled, (ids,))
        assert not torch.equal(other, before)
        assert torch.equal(module(ids), before)


def test_other_default_devices(table: CompressedTable) -> None:
    module, ids = CompressedEmbedding(table), torch.arange(20)
    with torch.no_grad():
        expected = (module(ids), module(ids))[0]
        bags = CompressedEmbeddingBag(table, "sum")
        with torch.device("meta"):
            assert torch.equal(module(ids), expected)
            assert torch.equal(bags(ids, torch.arange(20, device="cpu")), expected)


ENDS = [("sum", None), ("mean", None), ("max", None), ("sum", 3), ("mean", 3)]


@pytest.mark.parametrize(("mode", "padding_idx"), ENDS)
def test_ids_beyond_the_last_offset(
    table: CompressedTable, mode: str, padding_idx: int | None
) -> None:
    check_ids_beyond(table, mode, padding_idx, compiled=False)


# Compiling takes seconds, so not all pairs of tables and endings are tested.
@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("table", "mode", "padding_idx"),
    [(KINDS[number % len(KINDS)], *end) for number, end in enumerate(ENDS)],
    indirect=["table"],
)
def test_ids_beyond_the_last_offset_compiled(
    table: CompressedTable, mode: str, padding_idx: int | None
) -> None:
    check_ids_beyond(table, mode, padding_idx, compiled=True)


def check_ids_beyond(
    table: CompressedTable, mode: str, padding_idx: int | None, compiled: bool
) -> None:
    """Check sums without these ids, as in PyTorch; its results in other modes are accidental."""
    module = CompressedEmbeddingBag(table, mode, include_last_offset=True)
    plain = nn.EmbeddingBag(ROWS, DIM, mode=mode, include_last_offset=True)
    if padding_idx is not None:
        padding = torch.zeros(DIM)
        fields = [RawField("user", table.decode().numpy())]
        module.table = compressed_table(fields, {padding_idx: padding}, torch.empty(0))
        module.padding_idx = plain.padding_idx = padding_idx
    plain.weight = nn.Parameter(module.table.decode())
    torch._dynamo.reset()
    call = torch.compile(module, backend="aot_eager", fullgraph=True) if compiled else module
    ids, offsets = torch.tensor([1, 2, 3, 4, 5, 6, 7]), torch.tensor([0, 2, 2, 7])
    for learns in (False, True):
        with torch.set_grad_enabled(learns):
            torch.testing.assert_close(call(ids, offsets), plain(ids, offsets))
            offsets[-1] = 4
            if mode == "sum" and padding_idx is None:
                torch.testing.assert_close(call(ids, offsets), plain(ids, offsets))
                ids[5:] = -1  # which are not checked
                torch.testing.assert_close(call(ids, offsets), plain(ids, offsets))
                ids[5:] = 6
            else:
                with pytest.raises((IdError, RuntimeError), match="the last offset is the number"):
                    call(ids, offsets)
            offsets[-1] = 7
    matrix = ids[:6].reshape(3, 2)
    torch.testing.assert_close(call(matrix), plain(matrix))
    if not compiled:
        offsets[-1] = 8
        with pytest.raises(IdError, match="offsets must ascend from 0 to at most 7, not to 8"):
            call(ids, offsets)


@pytest.mark.exhaustive(keep=2)
@pytest.mark.parametrize("texts", [["1 -", "- -"], ["2 1", "1 0"], ["-", "-"], ["0 0", "0 0"]])
def test_models_have_no_empty_tensors(texts: list[str], tmp_path: Any) -> None:
    """``torch.export.save`` and some readers of models refuse empty tensors."""
    from saec.format.tiered_field import TieredField

    rng = np.random.default_rng(0)
    layout = Layout.parse(200, texts)
    field = TieredField(
        "user",
        layout,
        rng.integers(256, size=layout.code_bytes, dtype=np.uint8),
        rng.standard_normal(layout.value_count).astype(np.float16),
        rng.standard_normal((layout.rank + 1, DIM)).astype(np.float16),
        None,
        "float32",
    )
    module = CompressedEmbedding(compressed_table([field], {}, torch.empty(0)))
    assert all(tensor.numel() for tensor in [*module.parameters(), *module.buffers()])
    ids = torch.arange(200)
    expected = torch.from_numpy(field.lookup(ids.numpy()))
    for learns in (False, True):
        with torch.set_grad_enabled(learns):
            assert torch.equal(module(ids), expected)
    assert module.table.tuned(field) is field
    module.table.round_()
    program = torch.export.export(nn.Sequential(module).requires_grad_(False), (ids,))
    torch.export.save(program, tmp_path / "model.pt2")
    assert torch.equal(torch.export.load(tmp_path / "model.pt2").module()(ids), expected)
