"""Models of artifacts and of ONNX files, called without a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import serving
from onnx import TensorProto, helper

import saec
from saec.errors import ArtifactError
from saec.serve.lookup_model import LookupModel
from saec.serve.protocol import InferRequest, RefusedError, Status
from saec.serve.scores_model import ScoresModel

MOST = 1 << 20


def value(name: str, kind: int, shape: list[Any]) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def test_a_field_named_like_offsets_of_another_is_a_field(tmp_path: Path) -> None:
    path = tmp_path / "tables.saec"
    tables = serving.write_artifact(path, 0, **{"user": (50, 4), "user.offsets": (60, 3)})
    model = LookupModel.open(path)
    names = [spec.name for spec in model.inputs]
    assert names == ["user", "user.offsets", "user.offsets.offsets"]
    ids = np.array([2, 59])
    answer = model.infer(InferRequest({"user.offsets": ids, "user": ids[:1]}), MOST)
    np.testing.assert_array_equal(answer["user.offsets"], tables["user.offsets"].lookup(ids))
    np.testing.assert_array_equal(answer["user"], tables["user"].lookup([2]))


def test_scalar_ids_are_refused(tmp_path: Path) -> None:
    serving.write_artifact(tmp_path / "tables.saec", 0)
    model = LookupModel.open(tmp_path / "tables.saec")
    with pytest.raises(RefusedError, match=r"shape \[n\] or \[n, k\], not \[\]"):
        model.infer(InferRequest({"user": np.array(3)}), MOST)


def test_the_answer_limit_counts_bags_by_their_rows(tmp_path: Path) -> None:
    serving.write_artifact(tmp_path / "tables.saec", 0)
    model = LookupModel.open(tmp_path / "tables.saec")
    inputs = {"user": np.zeros(100, np.int64), "user.offsets": np.array([0, 50])}
    assert model.infer(InferRequest(inputs), 2 * 4 * 4)["user"].shape == (2, 4)
    with pytest.raises(RefusedError, match="take 32 bytes; at most 31") as caught:
        model.infer(InferRequest(inputs), 31)
    assert caught.value.status is Status.TOO_LARGE


EVERY_TYPE = [
    (TensorProto.BOOL, np.array([True, False])),
    (TensorProto.INT8, np.array([-128, 127], np.int8)),
    (TensorProto.INT16, np.array([-1, 2], np.int16)),
    (TensorProto.INT32, np.array([-1, 2], np.int32)),
    (TensorProto.INT64, np.array([-1, 2], np.int64)),
    (TensorProto.UINT8, np.array([1, 255], np.uint8)),
    (TensorProto.UINT16, np.array([1, 2], np.uint16)),
    (TensorProto.UINT32, np.array([1, 2], np.uint32)),
    (TensorProto.UINT64, np.array([1, 2**64 - 1], np.uint64)),
    (TensorProto.FLOAT16, np.array([1.5, np.inf], np.float16)),
    (TensorProto.FLOAT, np.array([1.5, -2], np.float32)),
    (TensorProto.DOUBLE, np.array([1.5, np.nan])),
    (TensorProto.STRING, np.array([b"a", "ä".encode()], dtype=object)),
]


@pytest.mark.parametrize(("kind", "values"), EVERY_TYPE)
def test_every_datatype_is_passed_to_the_model(
    tmp_path: Path, kind: int, values: np.ndarray
) -> None:
    path = tmp_path / "same.onnx"
    node = helper.make_node("Identity", ["x"], ["y"])
    serving.write_onnx(path, [node], [value("x", kind, [2])], [value("y", kind, [2])], {})
    answer = ScoresModel.open(path).infer(InferRequest({"x": values}), MOST)["y"]
    assert answer.dtype == values.dtype
    np.testing.assert_array_equal(answer, values)


def test_string_inputs_of_onnx_models_must_be_utf8(tmp_path: Path) -> None:
    path = tmp_path / "same.onnx"
    node = helper.make_node("Identity", ["x"], ["y"])
    texts = [value(name, TensorProto.STRING, ["n"]) for name in "xy"]
    serving.write_onnx(path, [node], texts[:1], texts[1:], {})
    with pytest.raises(RefusedError, match="input 'x': 'utf-8' codec"):
        ScoresModel.open(path).infer(InferRequest({"x": np.array([b"\xff"], object)}), MOST)


def test_dimensions_of_one_name_must_be_equal(tmp_path: Path) -> None:
    path = tmp_path / "sum.onnx"
    node = helper.make_node("Add", ["a", "b"], ["c"])
    puts = [value(name, TensorProto.FLOAT, ["n", 2]) for name in "abc"]
    serving.write_onnx(path, [node], puts[:2], puts[2:], {})
    model = ScoresModel.open(path)
    ones = np.ones((3, 2), np.float32)
    assert (model.infer(InferRequest({"a": ones, "b": ones}), MOST)["c"] == 2).all()
    with pytest.raises(RefusedError, match="length 'n' is 3 in input 'a', but 1 in input 'b'"):
        model.infer(InferRequest({"a": ones, "b": ones[:1]}), MOST)
    with pytest.raises(RefusedError, match=r"'a' has shape \[-1, 2\], not \[3, 1\]"):
        model.infer(InferRequest({"a": ones[:, :1], "b": ones}), MOST)
    with pytest.raises(RefusedError, match="take 24 bytes; at most 23 are given"):
        model.infer(InferRequest({"a": ones, "b": ones}), 23)


def test_failures_of_the_model_are_internal_errors(tmp_path: Path) -> None:
    path = tmp_path / "product.onnx"
    node = helper.make_node("MatMul", ["a", "b"], ["c"])
    puts = [value(name, TensorProto.FLOAT, [None, None]) for name in "abc"]
    serving.write_onnx(path, [node], puts[:2], puts[2:], {})
    ones = np.ones((3, 2), np.float32)
    with pytest.raises(RefusedError, match=r"the model (failed|refuses its inputs): .*MatMul"):
        ScoresModel.open(path).infer(InferRequest({"a": ones, "b": ones}), MOST)


def test_types_that_the_protocol_lacks_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "sequence.onnx"
    node = helper.make_node("SequenceConstruct", ["x"], ["y"])
    sequence = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)
    serving.write_onnx(path, [node], [value("x", TensorProto.FLOAT, [2])], [sequence], {})
    with pytest.raises(ArtifactError, match=r"'y' is a seq\(tensor\(float\)\), which the protocol"):
        ScoresModel.open(path)


def test_loading_checks_every_row(tmp_path: Path) -> None:
    """The table has more rows than are read at a time; the last row has an invalid code."""
    rows = (1 << 16) + 7
    table = np.tile(np.eye(3, 8, dtype=np.float32), (rows // 3 + 1, 1))[:rows]
    field = saec.Field("user", table, np.ones(rows))
    path = tmp_path / "tables.saec"
    saec.compress([field], saec.Ratio(100), saec.Clusters(), progress=False).save(path)
    assert saec.load(path)["user"].description["code_bits"] == 2
    held = bytearray(path.read_bytes())
    tensors = saec.load(path)["user"].tensors
    start = bytes(held).find(tensors["codes"].tobytes())
    byte, bit = divmod(2 * (rows - 1), 8)
    held[start + byte] |= 0b11 << bit
    path.write_bytes(bytes(held))
    with pytest.raises(ArtifactError, match=f"row {rows - 1} has a code beyond the 3 centroids"):
        LookupModel.open(path)
