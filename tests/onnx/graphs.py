"""Models as written by different tools, and their outputs in onnxruntime."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, shape_inference

import saec
from saec.sources.onnx_graph import embedding_tables, scopes_of

onnxruntime.set_default_logger_severity(4)  # errors are expected and raised as exceptions

Arrays = Mapping[str, NDArray[Any]]
node = helper.make_node


def make(
    nodes: Sequence[NodeProto],
    constants: Arrays,
    inputs: Mapping[str, tuple[int, list[Any]]],
    outputs: Mapping[str, int],
    opset: int = 18,
) -> ModelProto:
    """A model; ``inputs`` by name with dtype and shape, ``outputs`` with dtype."""
    graph = helper.make_graph(
        list(nodes),
        "model",
        [helper.make_tensor_value_info(name, *about) for name, about in inputs.items()],
        [helper.make_tensor_value_info(name, dtype, None) for name, dtype in outputs.items()],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return shape_inference.infer_shapes(model, data_prop=True)  # for the shapes of outputs


def lookup_model(table: NDArray[Any], shape: Sequence[Any] = ("B",), ids: int = TensorProto.INT64):
    """``rows = Gather(table, ids)``."""
    return make(
        [node("Gather", ["table", "ids"], ["rows"], axis=0)],
        {"table": table},
        {"ids": (ids, list(shape))},
        {"rows": helper.np_dtype_to_tensor_dtype(table.dtype)},
    )


def stack_model(tables: Arrays, unsqueezed: bool = True) -> ModelProto:
    """Each table is looked up by a column of ``ids``, as PyTorch's exporters write it."""
    nodes, found = [], []
    constants: dict[str, Any] = dict(tables) | {"one": np.array([1])}
    for number, name in enumerate(tables):
        constants |= {f"n{number}": np.array([number]), f"n{number + 1}": np.array([number + 1])}
        cut, column, row = f"cut{number}", f"column{number}", f"row{number}"
        nodes += [
            node("Slice", ["ids", f"n{number}", f"n{number + 1}", "one", "one"], [cut]),
            node("Squeeze", [cut, "one"], [column]),
            node("Gather", [name, column], [row]),
        ]
        if unsqueezed:
            nodes.append(node("Unsqueeze", [row, "one"], [f"high{number}"]))
        found.append(f"high{number}" if unsqueezed else row)
    nodes.append(node("Concat", found, ["rows"], axis=1))
    inputs = {"ids": (TensorProto.INT64, ["B", len(tables)])}
    return make(nodes, constants, inputs, {"rows": TensorProto.FLOAT})


def run(model: ModelProto | Path, **feeds: NDArray[Any]) -> list[NDArray[Any]]:
    """All outputs."""
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def decoded(model: ModelProto, result: saec.Compressed) -> ModelProto:
    """The model with decoded rows in its tables: a rewritten model must give the same outputs."""
    plain = ModelProto()
    plain.CopyFrom(model)
    for name, use in embedding_tables(plain.graph).items():
        field = name.removesuffix(".weight")
        if field in result:
            dtype = numpy_helper.to_array(use.tensor).dtype
            rows = result[field].decode().astype(dtype)
            use.tensor.CopyFrom(numpy_helper.from_array(rows, use.tensor.name))
    return plain


def kinds(path: Path) -> Counter[str]:
    """Number of nodes of each operator in a model, in all scopes."""
    graph = onnx.load(path).graph
    return Counter(item.op_type for scope in scopes_of(graph) for item in scope.graph.node)


def constants(path: Path) -> dict[str, NDArray[Any]]:
    """Initialisers by name."""
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


@cache
def tiered(name: str, count: int, dim: int = 16, ratio: float = 12.0, **options: Any):
    """A table coded on axes; by default with ``order="keep"`` of shuffled features."""
    rng = np.random.default_rng(count)
    share = rng.standard_normal((count, 3)) @ rng.standard_normal((3, dim))
    rows = (share + 0.1 * rng.standard_normal((count, dim))).astype(np.float32)
    counts = 1e6 / np.arange(1, count + 1)
    if options.get("order", "keep") == "keep" and not options.pop("ranked", False):
        rng.shuffle(counts)
    field = saec.Field(name, rows, counts)
    codec = saec.Axes(**options)
    return saec.compress([field], saec.Ratio(ratio), codec, progress=False)[name]


@cache
def clustered(name: str, count: int, dim: int = 16, clusters: int = 40, **options: Any):
    """A table in clusters."""
    rows = np.random.default_rng(count).standard_normal((count, dim)).astype(np.float32)
    codec = saec.Clusters(clusters=clusters, **options)
    field = saec.Field(name, rows, 1e6 / np.arange(1, count + 1))
    return saec.compress([field], None, codec, progress=False)[name]
