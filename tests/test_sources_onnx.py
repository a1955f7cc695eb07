"""ONNX models as a source of tables."""

from __future__ import annotations

import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from saec.errors import CheckpointError, OptionalDependencyError
from saec.streaming.rows import FileRows
from saec.tables.checkpoint import read_fields, read_tables

TABLE = np.arange(12000, dtype=np.float32).reshape(3000, 4)
DENSE = np.ones((4, 4), np.float32)


def write(path: Path, table: np.ndarray = TABLE, **options: object) -> Path:
    """A model that looks rows up and multiplies them by a matrix, which is no table."""
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["user.weight", "ids"], ["rows"]),
            helper.make_node("Cast", ["rows"], ["single"], to=TensorProto.FLOAT),
            helper.make_node("MatMul", ["single", "dense"], ["scores"]),
        ],
        "model",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["B"])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["B", 4])],
        [numpy_helper.from_array(table, "user.weight"), numpy_helper.from_array(DENSE, "dense")],
    )
    onnx.save(helper.make_model(graph), path, **options)
    return path


def test_tables_that_are_looked_up(tmp_path: Path) -> None:
    found = read_tables(write(tmp_path / "model.onnx"))
    assert list(found) == ["user.weight"]
    np.testing.assert_array_equal(found["user.weight"].read(5, 9), TABLE[5:9])


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_dtypes(dtype: type, tmp_path: Path) -> None:
    table = (TABLE / 128).astype(dtype)
    (rows,) = read_tables(write(tmp_path / "model.onnx", table)).values()
    assert rows.dtype == dtype
    np.testing.assert_array_equal(rows.read(0, 3000), table)


def test_external_data_are_left_in_their_file(tmp_path: Path) -> None:
    path = write(tmp_path / "model.onnx", save_as_external_data=True, location="model.data")
    (rows,) = read_tables(path).values()
    assert isinstance(rows, FileRows)
    np.testing.assert_array_equal(rows.read(2990, 3000), TABLE[-10:])


def test_fields(tmp_path: Path) -> None:
    np.savez(tmp_path / "counts.npz", user=np.arange(3000)[::-1])
    path = write(tmp_path / "model.onnx")
    (field,), metrics = read_fields(path, tmp_path / "counts.npz", progress=False)
    assert (field.name, field.vocab_size, field.dim, metrics) == ("user", 3000, 4, None)


def test_a_model_without_tables(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "model",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
    )
    onnx.save(helper.make_model(graph), tmp_path / "model.onnx")
    with pytest.raises(CheckpointError, match=r"model\.onnx: no two-dimensional"):
        read_tables(tmp_path / "model.onnx")


def test_without_onnx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "model.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(OptionalDependencyError, match=r"pip install 'saec\[onnx\]'"):
        read_tables(path)


def graph_of(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> onnx.ModelProto:
    """A model that makes ``rows`` of ``ids``."""
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["B"])],
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["B", 4])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, opset_imports=opsets)


def function(name: str, *nodes: onnx.NodeProto) -> onnx.FunctionProto:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    return helper.make_function("local", name, ["table", "at"], ["found"], nodes, opsets)


def call(name: str, found: str = "found") -> onnx.NodeProto:
    return helper.make_node(name, ["table", "at"], [found], domain="local")


def test_tables_that_local_functions_look_up(tmp_path: Path) -> None:
    look = helper.make_node("Look", ["user", "ids"], ["rows"], domain="local")
    model = graph_of([look], {"user": TABLE})
    gather = helper.make_node("Gather", ["table", "at"], ["found"])
    model.functions.extend([function("Look", call("Deeper")), function("Deeper", gather)])
    onnx.save(model, tmp_path / "model.onnx")
    (rows,) = read_tables(tmp_path / "model.onnx").values()
    np.testing.assert_array_equal(rows.read(0, 3000), TABLE)


@pytest.mark.parametrize(
    ("depth", "message"),
    [
        (1, "local functions cannot be inlined: .*[Cc]ycle"),
        (40, "local functions stand for .* nodes; at most 1048576"),
        (2000, "local functions are nested too deeply"),
    ],
)
def test_local_functions_without_an_end(depth: int, message: str, tmp_path: Path) -> None:
    look = helper.make_node("F0", ["user", "ids"], ["rows"], domain="local")
    model = graph_of([look], {"user": TABLE})
    for number in range(depth):
        after = f"F{(number + 1) % depth}" if depth == 1 else f"F{number + 1}"
        twice = [call(after, "unused")] if depth == 40 else []
        model.functions.append(function(f"F{number}", *twice, call(after)))
    if depth > 1:
        gather = helper.make_node("Gather", ["table", "at"], ["found"])
        model.functions.append(function(f"F{depth}", gather))
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(CheckpointError, match=message):
        read_tables(tmp_path / "model.onnx")


SCALES = {"codes": TABLE.astype(np.int8), "scale": np.array(0.5, np.float32)}


def dequantised(gather_first: bool) -> list[onnx.NodeProto]:
    if gather_first:
        return [
            helper.make_node("Gather", ["codes", "ids"], ["some"]),
            helper.make_node("DequantizeLinear", ["some", "scale"], ["rows"]),
        ]
    return [
        helper.make_node("DequantizeLinear", ["codes", "scale"], ["table"]),
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
    ]


@pytest.mark.parametrize("gather_first", [False, True])
def test_quantised_tables_are_refused_by_name(gather_first: bool, tmp_path: Path) -> None:
    onnx.save(graph_of(dequantised(gather_first), SCALES), tmp_path / "model.onnx")
    message = r"quantised tables cannot be compressed \(codes\); compress the model as it was"
    with pytest.raises(CheckpointError, match=message):
        read_tables(tmp_path / "model.onnx")


def test_quantised_tables_beside_others_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gather = helper.make_node("Gather", ["user", "ids"], ["others"])
    model = graph_of([*dequantised(True), gather], SCALES | {"user": TABLE})
    onnx.save(model, tmp_path / "model.onnx")
    assert list(read_tables(tmp_path / "model.onnx")) == ["user"]
    assert "quantised tables cannot be compressed (codes)" in caplog.text
