"""Models for the benchmarks of ``saec serve``, and requests with their right answers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from serve_clients import Ask

import saec

DIM = 16
FIELDS = 10  # of the whole model
BATCHES = 8  # different requests


def write_tables(folder: Path, rows: int) -> list[Path]:
    """Two artifacts of the same fields, other tables."""
    files = [folder / f"{seed}-{rows}.saec" for seed in range(2)]
    for seed, file in enumerate(files):
        if file.exists():
            continue
        rng = np.random.default_rng(seed)
        fields = []
        for name, count in (("user", rows), ("item", max(rows // 10, 1))):
            kinds = rng.standard_normal((max(count // 100, 1), DIM), dtype=np.float32)
            table = kinds[rng.integers(0, len(kinds), count)]
            table += 0.1 * rng.standard_normal(table.shape, dtype=np.float32)
            fields.append(saec.Field(name, table, 10_000_000 // np.arange(1, count + 1)))
        saec.compress(fields, saec.Ratio(20), progress=False).save(file)
    return files


def write_models(folder: Path, rows: int) -> list[Path]:
    """Two click models: rows of ten fields, and three layers over them."""
    files = [folder / f"{seed}-{rows}.onnx" for seed in range(2)]
    for seed, file in enumerate(files):
        write_model(file, rows, FIELDS, (128, 64, 1), seed)
    return files


def write_model(file: Path, rows: int, fields: int, layers: Sequence[int], seed: int) -> None:
    """A click model, unless there is one: rows of a table, and layers over them."""
    if file.exists():
        return
    rng = np.random.default_rng(seed)
    widths = (fields * DIM, *layers)
    constants = {"table": rng.standard_normal((rows, DIM), dtype=np.float32)}
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("Flatten", ["rows"], ["x0"], axis=1),
    ]
    for layer, (wide, narrow) in enumerate(pairwise(widths)):
        weights = rng.standard_normal((wide, narrow), dtype=np.float32) / np.sqrt(wide)
        constants[f"w{layer}"] = weights.astype(np.float32)
        last = layer == len(widths) - 2
        nodes += [
            helper.make_node("MatMul", [f"x{layer}", f"w{layer}"], [f"y{layer}"]),
            helper.make_node(
                "Sigmoid" if last else "Relu",
                [f"y{layer}"],
                ["score" if last else f"x{layer + 1}"],
            ),
        ]
    tensors = [numpy_helper.from_array(values, name) for name, values in constants.items()]
    graph = helper.make_graph(
        nodes,
        "clicks",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", fields])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n", 1])],
        tensors,
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), str(file))


def lookup_asks(files: Sequence[Path], batch: int) -> list[Ask]:
    """Ids of two fields; the user's rows are what is compared."""
    tables = [saec.load(file) for file in files]
    rng = np.random.default_rng(7)
    asks = []
    for _ in range(BATCHES):
        inputs = {
            name: rng.integers(0, tables[0][name].vocab_size, batch) for name in ("user", "item")
        }
        right = tuple(table["user"].lookup(inputs["user"]) for table in tables)
        asks.append(Ask(inputs, "user", right))
    return asks


def score_asks(files: Sequence[Path], batch: int, rows: int) -> list[Ask]:
    """Ids of ten fields."""
    sessions = [onnxruntime.InferenceSession(str(file)) for file in files]
    rng = np.random.default_rng(7)
    asks = []
    for _ in range(BATCHES):
        inputs = {"ids": rng.integers(0, rows, (batch, FIELDS))}
        right = tuple(session.run(["score"], inputs)[0] for session in sessions)
        asks.append(Ask(inputs, "score", right))
    return asks
