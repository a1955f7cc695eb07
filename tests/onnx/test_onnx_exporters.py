"""Models of PyTorch's two exporters, rewritten: lookups, bags, whole models, shared tables."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from graphs import clustered, constants, decoded, kinds, run, tiered
from torch import Tensor, nn

import saec
import saec.onnx
from saec.reference.models import build

COUNT, DIM = 2000, 16
IDS = torch.tensor([3, 1999, 3, 0, 64, 700, 5])
OFFSETS = torch.tensor([0, 2, 2, 5])

Export = Callable[..., Path]


@pytest.fixture(params=["legacy", "dynamo"])
def export(request: pytest.FixtureRequest, tmp_path: Path) -> Export:
    """Write a module to a file."""

    def export(module: nn.Module, *inputs: Tensor) -> Path:
        path = tmp_path / "model.onnx"
        names = [f"input{number}" for number in range(len(inputs))]
        dynamo = request.param == "dynamo"
        # The new exporter turns bags into a loop with a fixed number of bags.
        free = not dynamo or not any(isinstance(m, nn.EmbeddingBag) for m in module.modules())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            axes: dict[str, Any] = {}
            if free and dynamo:
                axes["dynamic_shapes"] = tuple({0: torch.export.Dim.DYNAMIC} for _ in inputs)
            elif free:
                axes["dynamic_axes"] = {name: {0: "B"} for name in names}
            torch.onnx.export(
                module.eval(),
                inputs,
                path,
                input_names=names,
                dynamo=dynamo,
                verbose=False,
                external_data=False,
                **axes,
            )
        return path

    return export


def check(path: Path, packed: bool, fields: list[Any], *inputs: Tensor) -> tuple[Path, Any]:
    """Compress the model and compare its scores with those of decoded rows in its tables."""
    result = saec.Compressed(fields)
    out = path.with_name("small.onnx")
    report = saec.onnx.compress(path, result, out, packed=packed)
    onnx.checker.check_model(str(out), full_check=True)
    feeds = {f"input{number}": value.numpy() for number, value in enumerate(inputs)}
    wanted = run(decoded(onnx.load(path), result), **feeds)
    for found, right in zip(run(out, **feeds), wanted, strict=True):
        # Small scores are sums of large terms, which are added in another order.
        np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-5 * abs(right).max())
    return out, report


@pytest.mark.parametrize(
    ("model", "export"),
    [
        ("deepfm", "legacy"),
        ("dlrm", "legacy"),
        pytest.param("deepfm", "dynamo", marks=pytest.mark.exhaustive),  # takes seconds
    ],
    indirect=["export"],
)
def test_click_models(model: str, export: Export) -> None:
    sizes = {"user": 2000, "item": 500, "city": 300, "hour": 24}
    net = build(model, sizes, DIM)
    for table in net.embeddings.values():
        nn.init.normal_(table.weight)
    ids = torch.stack([torch.randint(0, size, (40,)) for size in sizes.values()], dim=1)
    path = export(net, ids)
    fields = [
        tiered("embeddings.user", 2000, ranked=True),
        tiered("embeddings.item", 500, ratio=40),
        clustered("embeddings.city", 300),
    ]
    hour = saec.onnx.fields(path, {"embeddings.hour": np.ones(24)})
    fields.append(
        saec.compress(hour, None, saec.Clusters(clusters=9), progress=False)[hour[0].name]
    )
    for packed in (False, True):
        out, report = check(path, packed, fields, ids)
        assert [table.lookups for table in report.tables] == [1, 1, 1, 1]
        # The ids are columns of one input, so there is one lookup.
        assert kinds(out)["Gather"] - kinds(path)["Gather"] == 1 - 4
        assert kinds(out)["Squeeze"] < kinds(path)["Squeeze"]


class Bag(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(COUNT, DIM, **options)

    def forward(self, ids: Tensor, offsets: Tensor, weights: Tensor | None = None) -> Tensor:
        rows: Tensor = self.bag(ids, offsets, weights)
        return rows


@pytest.mark.exhaustive(keep=2)
@pytest.mark.parametrize(
    ("mode", "export"),
    [
        ("sum", "legacy"),
        ("max", "dynamo"),
        ("mean", "legacy"),
        ("sum", "dynamo"),
        ("max", "legacy"),
    ],
    indirect=["export"],
)
def test_bags(mode: str, export: Export) -> None:
    # The loop's Max cannot take empty bags.
    offsets = OFFSETS if mode != "max" else torch.tensor([0, 2, 5])
    path = export(Bag(mode=mode), IDS, offsets)
    for packed in (False, True):
        field = tiered("bag", COUNT, ranked=True)
        out, report = check(path, packed, [field], IDS, offsets)
        assert [table.lookups for table in report.tables] == [1]
        (loop,) = (node for node in onnx.load(out).graph.node if node.op_type == "Loop")
        inside = {node.op_type for node in loop.attribute[0].g.node}
        # All rows are looked up at once, before the loop.
        assert not inside & {"BitShift", "Where"}
        assert "bag.weight" not in constants(out)


class RowBag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(COUNT, DIM, mode="mean")

    def forward(self, ids: Tensor) -> Tensor:
        rows: Tensor = self.bag(ids)
        return rows


@pytest.mark.exhaustive(keep=1)
def test_bags_that_are_rows_of_a_matrix(export: Export) -> None:
    ids = torch.stack([IDS, IDS.flip(0)])
    path = export(RowBag(), ids)
    for packed in (False, True):
        _, report = check(path, packed, [tiered("bag", COUNT, ranked=True)], ids)
        assert [table.lookups for table in report.tables] == [1]


@pytest.mark.exhaustive(keep=1)
def test_weighted_bags(export: Export) -> None:
    weights = torch.tensor([1.0, -2, 0.5, 3, 0, 1, 1])
    path = export(Bag(mode="sum", include_last_offset=False), IDS, OFFSETS, weights)
    check(path, False, [clustered("bag", COUNT)], IDS, OFFSETS, weights)


class Tied(nn.Module):
    """Looks up rows of a table and scores all of its rows."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(COUNT, DIM, padding_idx=0)

    def forward(self, ids: Tensor) -> Tensor:
        scores: Tensor = self.table(ids).mean(1) @ self.table.weight.T
        return scores


@pytest.mark.exhaustive(keep=1)
def test_a_table_that_also_scores_stays_in_the_model(export: Export) -> None:
    """The table is used for scores, directly or as a transposed copy that is no lookup table."""
    ids = IDS.repeat(3, 1)
    net = Tied()
    path = export(net, ids)
    field = clustered("table", COUNT)
    out = path.with_name("small.onnx")
    report = saec.onnx.compress(path, saec.Compressed([field]), out)
    wanted = field.lookup(ids.numpy()).mean(1) @ net.table.weight.detach().numpy().T
    np.testing.assert_allclose(run(out, input0=ids.numpy())[0], wanted, rtol=1e-4, atol=1e-5)
    copied = (DIM, COUNT) in {array.shape for array in constants(out).values()}
    assert copied == (report.tables[0].kept_for == ())


class Joint(nn.Module):
    """A joint table with a range of rows for each field, and a table of width 1."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Embedding(COUNT, DIM)
        self.bias = nn.Embedding(COUNT, 1)
        self.register_buffer("first", torch.tensor([0, 100, 1000]))

    def forward(self, ids: Tensor) -> Tensor:
        at = ids + self.first
        scores: Tensor = self.rows(at).sum((1, 2)) + self.bias(at).sum((1, 2))
        return scores


@pytest.mark.exhaustive
def test_a_joint_table(export: Export) -> None:
    ids = torch.randint(0, 100, (30, 3))
    path = export(Joint(), ids)
    fields = [tiered("rows", COUNT), clustered("bias", COUNT, 1)]
    for packed in (False, True):
        check(path, packed, fields, ids)
