"""ONNX models as a source of tables."""

from __future__ import annotations

import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from saec.checkpoint import read_fields, read_tables
from saec.errors import CheckpointError, OptionalDependencyError
from saec.rows import FileRows

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
