"""ONNX graphs that are valid as messages and damaged as graphs, for the rewriting of lookups."""

from __future__ import annotations

import io
import sys
import warnings
from pathlib import Path
from random import Random

import numpy as np
import onnx
from fuzz_spoil import ODD_NUMBERS
from google.protobuf.message import EncodeError
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

import saec
from saec.sources.onnx_graph import scopes_of

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "onnx"))

COMPRESSED = "compressed.saec"
NAMES = ("user", "item")

_SIGNED = [number for number in ODD_NUMBERS if number < 1 << 63] + [-1, -2, -(1 << 63)]


def write_graphs(folder: Path) -> None:
    """Write models with lookups, concatenated lookups and bags, and an artifact of their tables."""
    import graphs

    rng = np.random.default_rng(0)
    tables = {name: rng.standard_normal((300, 4), dtype=np.float32) for name in NAMES}
    fields = [saec.Field(name, rows, np.arange(300, 0, -1)) for name, rows in tables.items()]
    saec.compress(fields, saec.Ratio(6), codec=saec.Axes(), progress=False).save(
        folder / COMPRESSED
    )
    onnx.save(graphs.stack_model(tables), folder / "stack.graph")
    onnx.save(graphs.stack_model(tables, unsqueezed=False), folder / "flat.graph")
    _write_bags(folder / "bags.graph", tables)


def _write_bags(path: Path, tables: dict[str, np.ndarray]) -> None:
    """Weighted bags as PyTorch's older exporter writes them: a loop with a lookup inside."""
    import torch

    class Bags(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, rows in tables.items():
                table = torch.nn.EmbeddingBag.from_pretrained(torch.from_numpy(rows), mode="sum")
                self.add_module(name, table)

        def forward(self, ids: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
            return torch.cat([getattr(self, name)(ids, offsets) for name in NAMES], 1)

    names = {f"{name}.weight": name for name in NAMES}
    written = io.BytesIO()
    given = (torch.tensor([3, 299, 3, 0]), torch.tensor([0, 2]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Bags().eval(), given, written, dynamo=False, verbose=False)
    model = onnx.load_model_from_string(written.getvalue())
    for tensor in model.graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for scope in scopes_of(model.graph):
        for node in scope.graph.node:
            node.input[:] = [names.get(name, name) for name in node.input]
    onnx.save(model, path)


def spoiled_graph(rng: Random, data: bytes) -> bytes:
    """One to three nodes, constants or opsets changed."""
    model = onnx.load_model_from_string(data)
    for _ in range(rng.choice([1, 1, 2, 3])):
        graph = rng.choice([scope.graph for scope in scopes_of(model.graph)])
        if rng.randrange(4) and graph.node:
            _spoil_node(rng, graph, rng.choice(graph.node))
        elif graph.initializer:
            _spoil_tensor(rng, rng.choice(graph.initializer))
        else:
            _spoil_opset(rng, model)
    try:
        return model.SerializeToString()
    except EncodeError:
        return data


def _spoil_node(rng: Random, graph: GraphProto, node: NodeProto) -> None:
    names = [name for one in graph.node for name in (*one.input, *one.output)]
    match rng.randrange(9):
        case 0 if node.input:
            del node.input[rng.randrange(len(node.input))]
        case 1 if node.input:
            node.input[rng.randrange(len(node.input))] = rng.choice([*names, "", "nothing"])
        case 2 if node.output:
            del node.output[rng.randrange(len(node.output))]
        case 3 if node.output:
            node.output[rng.randrange(len(node.output))] = rng.choice([*names, ""])
        case 4 if node.attribute:
            del node.attribute[rng.randrange(len(node.attribute))]
        case 5 if node.attribute:
            _spoil_attribute(rng, rng.choice(node.attribute))
        case 6:
            node.op_type = rng.choice(["Gather", "Slice", "Concat", "Loop", "Odd", ""])
        case 7:
            node.domain = rng.choice(["ai.onnx.ml", "odd"])
        case _:
            graph.node.append(node)


def _spoil_attribute(rng: Random, attribute: AttributeProto) -> None:
    match rng.randrange(4):
        case 0:
            attribute.i = rng.choice(_SIGNED)
        case 1:
            attribute.ints.append(rng.choice(_SIGNED))
        case 2:
            attribute.type = rng.choice(AttributeProto.AttributeType.values())
        case _ if attribute.HasField("t"):
            _spoil_tensor(rng, attribute.t)
        case _:
            attribute.name = "odd"


def _spoil_tensor(rng: Random, tensor: TensorProto) -> None:
    match rng.randrange(5):
        case 0 if tensor.dims:
            tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(_SIGNED)
        case 1:
            tensor.dims.append(rng.choice([0, 1, 2, -1]))
        case 2 if tensor.dims:
            del tensor.dims[-1]
        case 3:
            tensor.data_type = rng.choice(TensorProto.DataType.values())
        case _:
            tensor.raw_data = tensor.raw_data[: rng.randrange(len(tensor.raw_data) + 1)]


def _spoil_opset(rng: Random, model: ModelProto) -> None:
    model.opset_import[0].version = rng.choice([0, 1, 12, 13, 18, 99, -1])


def use_graph(path: Path, result: Path, rng: Random) -> None:
    """Find tables and replace them by compressed ones."""
    import saec.onnx

    saec.onnx.tables(path)
    out = path.with_name("rewritten.onnx")
    saec.onnx.compress(path, result, out, packed=bool(rng.randrange(2)))
