"""The server reloads its file while clients send requests."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
import serving
import tritonclient.grpc
import tritonclient.http
from serving import Asking, Server, tensor
from tritonclient.utils import InferenceServerException

import saec

pytestmark = pytest.mark.usefixtures("coarse_prices")

LOAD = "/v2/repository/models/tables/load"
GOOD = {"inputs": [tensor("user", [3, 141])]}


def wait_for_version(server: Server, number: int) -> None:
    """Wait until the server has reloaded the file."""
    deadline = time.monotonic() + serving.SECONDS
    while server.metric("saec_model_version") != number:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def wait_for_failures(server: Server, count: int) -> None:
    deadline = time.monotonic() + serving.SECONDS
    while server.metric("saec_reload_failures_total") != count:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def user_rows(server: Server) -> np.ndarray:
    status, answer = server.infer(GOOD)
    assert status == 200
    return np.array(answer["outputs"][0]["data"], np.float32).reshape(2, -1)


def test_no_request_fails_while_the_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "tables.saec"
    ids = np.random.default_rng(5).integers(0, 300, 2000)
    files = [tmp_path / "one", tmp_path / "two"]
    for seed, file in enumerate(files):
        serving.write_artifact(file, seed)
    known = [saec.load(file)["user"].lookup(ids).tobytes() for file in files]
    path.write_bytes(files[0].read_bytes())
    with serving.served(path) as server:
        clients = [
            *(Asking(tritonclient.http, server.http, ids, known) for _ in range(2)),
            *(Asking(tritonclient.grpc, server.grpc, ids, known) for _ in range(2)),
        ]
        for client in clients:
            client.start()
        for swap in range(1, 6):
            time.sleep(0.3)
            serving.write_artifact(path, swap % 2)
            assert server.ask("POST", LOAD)[0] == 200
        for client in clients:
            client.stop.set()
            client.join(serving.SECONDS)
        versions = server.metric("saec_model_version")
        answered = server.metric('saec_requests_total{model="tables",protocol="http",status="ok"}')
    assert versions >= 6  # the watcher may have seen a file before we told
    for client in clients:
        assert client.failures == []
        assert set(client.seen) == {0, 1}  # whole answers of one or the other, never of both
    assert answered == sum(len(client.seen) for client in clients[:2])


def keyed_artifacts(folder: Path) -> tuple[np.ndarray, list[Path]]:
    """Keys, and two artifacts of their rows: of another size, and of rows in another order.

    A row, as compressed, is nearer to its own feature than to all others.
    """
    rng = np.random.default_rng(4)
    rows = 10 * np.stack(np.unravel_index(np.arange(216), (6, 6, 6)), axis=1).astype(np.float32)
    rows += rng.uniform(-1, 1, rows.shape).astype(np.float32)
    names = np.array([f"user-{number}" for number in range(216)])
    files = [folder / "large", folder / "small"]
    sizes = []
    for file, ratio, order in zip(
        files, (1.2, 2.2), (np.arange(216), rng.permutation(216)), strict=True
    ):
        field = saec.Field("user", rows[order], np.ones(216), keys=names[order], exact=24)
        result = saec.compress([field], saec.Ratio(ratio), progress=False)
        result.save(file)
        sizes.append(result.nbytes)
        found = result["user"].lookup(names)
        nearest = np.square(found[:, None] - rows).sum(axis=2).argmin(axis=1)
        assert np.array_equal(nearest, np.arange(216))
    assert sizes[1] < 0.7 * sizes[0]
    return names, files


@pytest.mark.exhaustive
def test_no_key_gets_another_row_while_the_file_is_replaced(tmp_path: Path) -> None:
    names, files = keyed_artifacts(tmp_path)
    path = tmp_path / "tables.saec"
    asked = np.random.default_rng(6).choice(names, 1000)
    known = [saec.load(file)["user"].lookup(asked).tobytes() for file in files]
    assert known[0] != known[1]
    path.write_bytes(files[0].read_bytes())
    keys = np.array([name.encode() for name in asked], object)
    with serving.served(path) as server:
        clients = [
            Asking(tritonclient.http, server.http, keys, known, "BYTES"),
            Asking(tritonclient.grpc, server.grpc, keys, known, "BYTES"),
        ]
        for client in clients:
            client.start()
        for swap in range(1, 9):
            time.sleep(0.2)
            other = tmp_path / "other"
            other.write_bytes(files[swap % 2].read_bytes())
            other.replace(path)
            assert server.ask("POST", LOAD)[0] == 200
        for client in clients:
            client.stop.set()
            client.join(serving.SECONDS)
    for client in clients:
        assert client.failures == []
        assert set(client.seen) == {0, 1}


def test_a_new_file_is_reloaded(tmp_path: Path) -> None:
    path = tmp_path / "tables.saec"
    serving.write_artifact(path, 0)
    with serving.served(path) as server:
        # Another signature: other fields, other widths.
        changed = serving.write_artifact(path, 1, user=(200, 6), zip=(30, 2))
        wait_for_version(server, 2)
        np.testing.assert_array_equal(user_rows(server), changed["user"].lookup([3, 141]))
        metadata = json.loads(server.ask("GET", "/v2/models/tables")[2])
        assert metadata["versions"] == ["2"]
        assert [spec["name"] for spec in metadata["outputs"]] == ["user", "zip"]
        assert metadata["outputs"][0]["shape"] == [-1, 6]
        assert server.metric("saec_model_bytes") == path.stat().st_size
        assert server.ask("GET", "/v2/models/tables/versions/1/ready")[0] == 404


def test_an_onnx_model_is_reloaded(tmp_path: Path) -> None:
    path = tmp_path / "tables.onnx"
    serving.write_scores(path, 0)
    with serving.served(path) as server:
        for seed in (1, 2):
            expected = serving.write_scores(path, seed)[[3, 141]]
            with tritonclient.http.InferenceServerClient(server.http) as client:
                client.load_model("tables")
            wanted = {**GOOD, "outputs": [{"name": "score"}]}
            scores = server.infer(wanted)[1]["outputs"][0]["data"]
            np.testing.assert_allclose(scores, expected[:, 0], rtol=1e-5, atol=1e-6)


def test_an_invalid_file_is_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "tables.saec"
    old = serving.write_artifact(path, 0)["user"].lookup([3, 141])
    with serving.served(path) as server:
        other = tmp_path / "bad"
        other.write_bytes(b"no artifact")
        other.replace(path)
        wait_for_failures(server, 1)
        np.testing.assert_array_equal(user_rows(server), old)
        status, _, body = server.ask("POST", LOAD, b"{}")
        assert status == 400
        assert "tables.saec is no saec artifact or is damaged" in json.loads(body)["error"]
        path.unlink()
        status, _, body = server.ask("POST", LOAD)
        assert (status, json.loads(body)) == (400, {"error": f"{path}: no such file"})
        assert server.metric("saec_reload_failures_total") == 3
        assert server.metric("saec_model_version") == 1
        assert server.ask("GET", "/v2/health/ready")[0] == 200
        np.testing.assert_array_equal(user_rows(server), old)
        assert "version 1 stays: " in server.log.read_text()

        new = serving.write_artifact(path, 1)["user"].lookup([3, 141])
        wait_for_version(server, 2)
        np.testing.assert_array_equal(user_rows(server), new)


def test_damaged_codes_are_found_before_the_reload(tmp_path: Path) -> None:
    path = tmp_path / "tables.saec"
    field = saec.Field("user", serving.rows_of(0), 1000 // np.arange(1, 301))
    codec = saec.Clusters()
    saec.compress([field], saec.Ratio(4), codec=codec, progress=False).save(path)
    with serving.served(path) as server:
        broken = tmp_path / "broken"
        broken.write_bytes(with_codes_beyond_all_centroids(path))
        broken.replace(path)
        status, _, body = server.ask("POST", LOAD)
        assert status == 400
        assert "has a code beyond the" in json.loads(body)["error"]
        assert server.infer(GOOD)[0] == 200


def with_codes_beyond_all_centroids(path: Path) -> bytes:
    codes = saec.load(path)["user"].tensors["codes"].tobytes()
    packed = codes[:-7]  # of zeros, which every reader may load with the last codes
    return path.read_bytes().replace(packed, b"\xff" * len(packed))


@pytest.mark.exhaustive
def test_other_models_and_configurations_are_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "tables.saec"
    serving.write_artifact(path, 0)
    serving.write_artifact(tmp_path / "other.saec", 1)
    with (
        serving.served(path) as server,
        tritonclient.http.InferenceServerClient(server.http) as client,
    ):
        with pytest.raises(InferenceServerException, match="there is no model 'other'"):
            client.load_model("other")
        with pytest.raises(InferenceServerException, match="there is nothing to tell"):
            client.load_model("tables", config="{}")
        with pytest.raises(InferenceServerException, match="404"):
            client.unload_model("tables")
        client.load_model("tables")
        assert client.get_model_metadata("tables")["versions"] == ["2"]
