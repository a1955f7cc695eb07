"""Failures inside a server: it keeps running, logs the reason, and can still be stopped."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
import serving
import tritonclient.grpc
from onnx import TensorProto, helper
from serving import Server, tensor
from tritonclient.utils import InferenceServerException

from saec.errors import ArtifactError
from saec.format.code_part import CodePart
from saec.format.compressed import Compressed
from saec.format.tier_layout import Layout, tier_bounds
from saec.format.tiered_field import TieredField
from saec.serve.lookup_model import LookupModel

GOOD = {"inputs": [tensor("user", [3, 141])]}


def write_claim(path: Path, rows: int) -> int:
    """Write an artifact of many rows, which take no bits; returns the bytes of the file."""
    layout = Layout(rows, ((CodePart(),),) * (len(tier_bounds(rows)) - 1))
    zeros = np.zeros(8, np.float16)
    codes = np.zeros(layout.code_bytes, np.uint8)
    field = TieredField("user", layout, codes, zeros[:0], zeros.reshape(2, 4), None, "float32")
    Compressed([field]).save(path)
    return path.stat().st_size


def test_checking_a_file_takes_time_in_proportion_to_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "tables.saec"
    assert write_claim(path, 100_000) < 600
    model = LookupModel.open(path)
    assert [spec.shape for spec in model.outputs] == [(-1, 4)]
    assert write_claim(path, 2**40) < 600
    calls: list[None] = []
    try:
        LookupModel.open(path, lambda: calls.append(None))
    except ArtifactError:
        assert not calls  # the loader refuses it by itself
    assert len(calls) < 100


def test_checking_a_file_can_be_interrupted(tmp_path: Path) -> None:
    path = tmp_path / "tables.saec"
    serving.write_artifact(path, 0)

    def enough() -> None:
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        LookupModel.open(path, enough)


def put(written: Path, path: Path) -> None:
    written.replace(path)


@pytest.mark.exhaustive
def test_a_hostile_file_delays_no_request_and_no_shutdown(tmp_path: Path) -> None:
    """It delays neither the next file, nor requests, nor the shutdown."""
    path, other = tmp_path / "tables.saec", tmp_path / "other"
    serving.write_artifact(path, 0)
    with serving.served(path) as server:
        write_claim(other, 2**40)
        start = time.monotonic()
        put(other, path)
        time.sleep(1.5)  # the watcher looks every second
        new = serving.write_artifact(path, 1)["user"].lookup([3, 141])
        while not np.array_equal(user_rows(server), new):
            assert time.monotonic() - start < 20
            time.sleep(0.05)
        os.mkfifo(other)
        put(other, path)
        time.sleep(1.5)
        np.testing.assert_array_equal(user_rows(server), new)
        assert "is no regular file" in server.log.read_text()
        write_claim(other, 2**40)
        put(other, path)
        time.sleep(1.5)
        start = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - start < 15


def user_rows(server: Server) -> np.ndarray:
    rows = server.infer(GOOD)[1]["outputs"][0]
    return np.array(rows["data"], np.float32).reshape(rows["shape"])


def test_failures_are_logged_with_their_cause(tmp_path: Path) -> None:
    path = tmp_path / "number.onnx"
    node = helper.make_node("Cast", ["text"], ["number"], to=TensorProto.INT64)
    puts = [
        helper.make_tensor_value_info("text", TensorProto.STRING, ["n"]),
        helper.make_tensor_value_info("number", TensorProto.INT64, ["n"]),
    ]
    serving.write_onnx(path, [node], puts[:1], puts[1:], {})
    with serving.served(path) as server:
        assert server.infer({"inputs": [tensor("text", ["12"], "BYTES")]})[0] == 200
        assert server.log.read_text() == ""
        status, said = server.infer({"inputs": [tensor("text", ["x"], "BYTES")]})
        assert status == 500
        assert said["error"].startswith("the model failed: ")
        told = server.log.read_text()
        assert told.count("ERROR saec.serve.service: version 1 failed") == 1
        assert "Traceback (most recent call last)" in told
        given = tritonclient.grpc.InferInput("text", [1], "BYTES")
        given.set_data_from_numpy(np.array([b"x"], object))
        with (
            tritonclient.grpc.InferenceServerClient(server.grpc) as client,
            pytest.raises(InferenceServerException, match="the model failed") as caught,
        ):
            client.infer("number", [given])
        assert caught.value.status() == "StatusCode.INTERNAL"
        assert server.log.read_text().count("version 1 failed") == 2
