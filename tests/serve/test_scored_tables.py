"""Models that score the rows of an artifact by an ONNX file."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import serving
import tritonclient.grpc
from onnx import TensorProto, helper
from serving import tensor

import saec
from saec.errors import ArtifactError, BudgetError
from saec.serve.joining import joined, kind_of, split
from saec.serve.lookup_model import LookupModel
from saec.serve.protocol import InferRequest, RefusedError
from saec.serve.scored_tables import ScoredTables
from saec.serve.service import Limits, Service

MOST = 1 << 20
LIMITS = Limits(1 << 20, 4, 10.0, 1.0, 1)


def value(name: str, shape: list[Any], kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def write_dense(path: Path, factor: float = 1.0, **shapes: list[Any]) -> None:
    """score = factor * sum of the rows of user, and of bias; shapes of inputs unless told."""
    shapes = shapes or {"user": ["n", 4], "bias": ["n", 1]}
    nodes = [
        helper.make_node("ReduceSum", ["user", "axes"], ["sum"], keepdims=1),
        helper.make_node("Add", ["sum", "bias"], ["plain"]),
        helper.make_node("Mul", ["plain", "factor"], ["score"]),
    ]
    constants = {"axes": np.array([-1]), "factor": np.array([factor], np.float32)}
    inputs = [value(name, shape) for name, shape in shapes.items()]
    serving.write_onnx(path, nodes, inputs, [value("score", ["n", 1])], constants)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Fields user (300 x 4) and item (40 x 3), and a dense part."""
    serving.write_artifact(tmp_path / "tables.saec", 0)
    write_dense(tmp_path / "dense.onnx")
    return tmp_path / "tables.saec", tmp_path / "dense.onnx"


@pytest.fixture
def model(files: tuple[Path, Path]) -> ScoredTables:
    return ScoredTables.open(files[1], LookupModel.open(files[0]))


def asked(ids: Any, bias: Any = None, **more: Any) -> InferRequest:
    bias = np.zeros((len(ids), 1)) if bias is None else np.array(bias)
    inputs = {"user": np.array(ids), "bias": bias.astype(np.float32), **more}
    return InferRequest(inputs)


def test_scores_by_hand(model: ScoredTables, files: tuple[Path, Path]) -> None:
    rows = saec.load(files[0])["user"].lookup([3, 141])
    (scores,) = model.infer(asked([3, 141], [[1], [2]]), MOST).values()
    np.testing.assert_allclose(scores[:, 0], rows.sum(axis=1) + np.array([1, 2]), rtol=1e-5)
    assert [(spec.name, spec.datatype, spec.shape) for spec in model.inputs] == [
        ("user", "INT64", (-1,)),
        ("user.offsets", "INT64", (-1,)),
        ("bias", "FP32", (-1, 1)),
    ]
    assert [spec.name for spec in model.outputs] == ["score"]
    assert model.nbytes == saec.load(files[0]).nbytes + files[1].stat().st_size


def test_bags_are_pooled_before_the_model_scores_them(
    model: ScoredTables, files: tuple[Path, Path]
) -> None:
    pooled = saec.load(files[0])["user"].pool([3, 141, 7], [0, 2], mode="mean")
    inputs = {"user": np.array([3, 141, 7]), "user.offsets": np.array([0, 2])}
    request = InferRequest(
        {**inputs, "bias": np.zeros((2, 1), np.float32)}, parameters={"mode": "mean"}
    )
    (scores,) = model.infer(request, MOST).values()
    np.testing.assert_allclose(scores[:, 0], pooled.sum(axis=1), rtol=1e-5, atol=1e-6)


def test_joined_requests_give_the_scores_of_single_ones(model: ScoredTables) -> None:
    requests = [asked([turn, 2 * turn, 7]) for turn in range(4)]
    assert len({kind_of(model, request) for request in requests}) == 1
    outputs = model.infer(joined(model, requests), MOST)
    for request, part in zip(requests, split(model, requests, outputs), strict=True):
        assert np.array_equal(part["score"], model.infer(request, MOST)["score"])
    assert kind_of(model, asked([1, 2], [[1]])) is None  # two users and one bias
    assert kind_of(model, InferRequest({"user": np.array([1])})) is None
    refused = InferRequest(requests[0].inputs, parameters={"datatype": "FP16"})
    assert kind_of(model, refused) != kind_of(model, requests[0])


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (asked([300]), "id 300 at position 0"),
        (asked([1], item=np.array([1])), "there is no input 'item'; there are: user, user.offsets"),
        (asked([1, 2], [[1]]), "length 'n' is 2 in input 'user', but 1 in input 'bias'"),
        (InferRequest({"user": np.array([1])}), "input 'bias' is missing"),
        (InferRequest({"bias": np.ones((1, 1), np.float32)}), "input 'user' is missing"),
        (InferRequest({}, ["other"]), "input 'user' is missing"),
        (InferRequest(asked([1]).inputs, ["other"]), "there is no output 'other'"),
        (
            InferRequest(asked([1]).inputs, parameters={"datatype": "FP16"}),
            "parameter 'datatype' is for rows",
        ),
    ],
)
def test_requests_that_do_not_fit_the_model_are_refused(
    model: ScoredTables, request_: InferRequest, message: str
) -> None:
    with pytest.raises(RefusedError, match=message):
        model.infer(request_, MOST)


def test_rows_beyond_the_answer_limit_are_refused_with_their_bytes(model: ScoredTables) -> None:
    """100 rows of 4 float32 numbers; the scores would take 400 bytes."""
    with pytest.raises(RefusedError, match="the rows take 1600 bytes; at most 1599 are given"):
        model.infer(asked(np.arange(100)), 1599)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"user": ["n", 5], "bias": ["n", 1]}, r"shape \[-1, 5\], but rows of field 'user' are FP"),
        ({"user": ["n"], "bias": ["n", 1]}, r"is FP32 of shape \[-1\], but rows of field 'user'"),
    ],
)
def test_onnx_files_that_do_not_fit_the_tables_are_refused(
    files: tuple[Path, Path], shapes: dict[str, list[Any]], message: str
) -> None:
    write_dense(files[1], **shapes)
    with pytest.raises(ArtifactError, match=message):
        Service(files[0], LIMITS, dense=files[1])


def test_models_without_fields_and_other_models_are_refused(files: tuple[Path, Path]) -> None:
    serving.write_scores(files[1])  # its input user has ids, not rows
    with pytest.raises(ArtifactError, match="input 'user' is INT64 of shape"):
        Service(files[0], LIMITS, dense=files[1])
    serving.write_slow(files[1])
    with pytest.raises(ArtifactError, match="no input has the name of a field; fields are user, i"):
        Service(files[0], LIMITS, dense=files[1])
    with pytest.raises(ArtifactError, match=r"is an ONNX model; .*dense\.onnx scores artifacts"):
        Service(files[1], LIMITS, dense=files[1])
    with pytest.raises(BudgetError, match="for artifacts, not for ONNX models"):
        Service(files[1], Limits(1 << 20, 4, 10.0, 1.0, 1, memory=1000))


def by_http(server: serving.Server, ids: list[int]) -> Any:
    bias = tensor("bias", [[0.0]] * len(ids), "FP32")
    status, answer = server.infer({"inputs": [tensor("user", ids), bias]})
    assert status == 200, answer
    return np.array(answer["outputs"][0]["data"], np.float32)


def by_grpc(server: serving.Server, ids: list[int]) -> Any:
    user = tritonclient.grpc.InferInput("user", [len(ids)], "INT64")
    bias = tritonclient.grpc.InferInput("bias", [len(ids), 1], "FP32")
    inputs = [
        user.set_data_from_numpy(np.array(ids)),
        bias.set_data_from_numpy(np.zeros((len(ids), 1), np.float32)),
    ]
    with tritonclient.grpc.InferenceServerClient(server.grpc) as client:
        return client.infer(server.name, inputs).as_numpy("score")[:, 0]


@pytest.mark.exhaustive
def test_a_server_reloads_when_either_file_changes(files: tuple[Path, Path]) -> None:
    path, dense = files
    sums = saec.load(path)["user"].lookup([3, 141]).sum(axis=1)
    options = ("--dense", str(dense), "--batch-wait", "1", "--ahead", "1")
    with serving.served(path, *options) as server:
        np.testing.assert_allclose(by_http(server, [3, 141]), sums, rtol=1e-5)
        np.testing.assert_allclose(by_grpc(server, [3, 141]), sums, rtol=1e-5)
        metadata = json.loads(server.ask("GET", "/v2/models/tables")[2])
        assert metadata["platform"] == "saec_scores"
        write_dense(dense, 2.0)
        deadline = time.monotonic() + serving.SECONDS
        while server.metric("saec_model_version") != 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        np.testing.assert_allclose(by_http(server, [3, 141]), 2 * sums, rtol=1e-5)
        other = path.with_name("other")
        other.write_bytes(b"no model")
        shutil.move(other, dense)
        status, _, body = server.ask("POST", "/v2/repository/models/tables/load")
        assert status == 400
        assert "is no ONNX model that can be run" in json.loads(body)["error"]
        np.testing.assert_allclose(by_http(server, [3, 141]), 2 * sums, rtol=1e-5)
