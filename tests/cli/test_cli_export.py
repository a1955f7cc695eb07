"""``saec export``, and an ONNX model as what ``saec compress`` reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import saec

Run = Callable[..., tuple[int, str, str]]

COUNT, DIM = 600, 4
TABLE = np.random.default_rng(0).standard_normal((COUNT, DIM)).astype(np.float32)


@pytest.fixture
def model(folder: Path) -> Path:
    """Rows of a table; that of the fixtures' user field."""
    graph = helper.make_graph(
        [helper.make_node("Gather", ["user.weight", "ids"], ["rows"])],
        "model",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["B"])],
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["B", DIM])],
        [numpy_helper.from_array(TABLE, "user.weight")],
    )
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), folder / "m.onnx")
    return folder / "m.onnx"


@pytest.mark.parametrize("options", [(), ("--packed",), ("--table", "user=user.weight")])
def test_from_model_to_model(model: Path, options: tuple[str, ...], run: Run) -> None:
    words = ("compress", model, "--frequencies", "counts.npy", "--ratio", 5, "-o", "user.saec")
    assert run(*words, "--quiet") == (0, "", "")
    code, out, err = run("export", model, "user.saec", "-o", "small.onnx", *options)
    assert (code, err) == (0, "")
    assert out.splitlines()[1].split() == ["user", "1", "9.6", "kB", "user.weight"]
    assert out.splitlines()[-1] == "wrote small.onnx"
    session = onnxruntime.InferenceSession("small.onnx", providers=["CPUExecutionProvider"])
    (rows,) = session.run(None, {"ids": np.arange(COUNT)})
    np.testing.assert_allclose(rows, saec.load("user.saec")["user"].decode(), rtol=1e-6)


def test_quiet(model: Path, run: Run) -> None:
    field = saec.Field("user", TABLE, 1000 // np.arange(1, COUNT + 1))
    saec.compress([field], saec.Ratio(5), progress=False).save("user.saec")
    assert run("export", model, "user.saec", "-o", "small.onnx", "--quiet") == (0, "", "")


def test_errors(model: Path, artifact: Path, run: Run) -> None:
    said = run("export", model, artifact, "-o", "small.onnx")
    assert said == (2, "", f"saec: {model}: no table 'item'; it has user.weight\n")
    assert run("export", model, artifact, "-o", model)[2] == (
        f"saec: cannot write {model}: it is the input\n"
    )
    said = run("export", model, artifact, "-o", "small.onnx", "--table", "user")
    assert "--table user: give FIELD=TABLE" in said[2]
    twice = ("--table", "user=a", "--table", "user=b")
    assert "a field was given twice" in run("export", model, artifact, "-o", "s.onnx", *twice)[2]
    assert run("export", artifact, artifact, "-o", "s.onnx")[2].startswith(
        f"saec: {artifact}: not an ONNX model"
    )
    assert not Path("small.onnx").exists()
