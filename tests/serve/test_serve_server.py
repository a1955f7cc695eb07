"""Invalid, large, slow and unauthorised requests to a server, and its shutdown."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
import serving
import tritonclient.grpc
import tritonclient.http
from serving import Server, tensor
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

import saec
import saec.serve
from saec.cli import main
from saec.errors import ArtifactError

INFER = "/v2/models/tables/infer"
GOOD = {"inputs": [tensor("user", [3, 141])]}


@pytest.fixture(autouse=True)
def _alive(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test, the shared server must still answer."""
    yield
    if "lookups" in request.fixturenames:
        server: Server = request.getfixturevalue("lookups")
        assert server.ask("GET", "/v2/health/ready")[0] == 200
        assert server.infer(GOOD)[0] == 200


def test_rows_are_served_over_plain_http(lookups: Server, tables: saec.Compressed) -> None:
    status, answer = lookups.infer({**GOOD, "id": "x"})
    assert status == 200
    assert {**answer, "outputs": None} == {
        "model_name": "tables",
        "model_version": "1",
        "id": "x",
        "outputs": None,
    }
    (rows,) = answer["outputs"]
    assert (rows["name"], rows["datatype"], rows["shape"]) == ("user", "FP32", [2, 4])
    read = np.array(rows["data"], np.float32).reshape(2, 4)
    np.testing.assert_array_equal(read, tables["user"].lookup([3, 141]))


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/nowhere", 404, "GET /nowhere: Not Found"),
        ("GET", INFER, 405, f"GET {INFER}: Method Not Allowed"),
        ("POST", "/v2", 405, "POST /v2: Method Not Allowed"),
        ("GET", "/v2/models/other", 404, "there is no model 'other'; there is 'tables'"),
        ("GET", "/v2/models/tables/versions/2", 404, "there is no version '2'"),
        ("GET", "/v2/models/other/ready", 404, "there is no model 'other'"),
        ("POST", "/v2/models/other/infer", 404, "there is no model 'other'"),
        ("POST", INFER, 400, "the body is no JSON"),
    ],
)
def test_invalid_requests_get_the_errors_of_the_protocol(
    lookups: Server, method: str, path: str, status: int, message: str
) -> None:
    answered, headers, body = lookups.ask(method, path)
    assert answered == status
    assert headers["content-type"] == "application/json"
    said = json.loads(body)
    assert list(said) == ["error"]
    assert message in said["error"]


@pytest.mark.parametrize("length", ["x", "-1", "1.5", "", "٣", "9" * 30, "10000"])
def test_invalid_binary_headers_get_400(lookups: Server, length: str) -> None:
    headers = {"Inference-Header-Content-Length": length.encode()}
    status, said = lookups.infer(GOOD, headers)
    assert status == 400
    assert "is no number of bytes" in said["error"] or "the JSON takes 10000 by" in said["error"]


def test_encoded_bodies_are_refused(lookups: Server) -> None:
    status, said = lookups.infer(GOOD, {"Content-Encoding": "gzip"})
    assert status == 415
    assert said["error"] == "bodies must come as they are, without Content-Encoding"


def test_bytes_that_are_not_http_are_refused(lookups: Server) -> None:
    for sent in (b"\0" * 100, b"GET / HTTP/1.1\r\nA\r\n\r\n", b"POST / HTTP/9\r\n\r\n"):
        with connected(lookups) as stream:
            stream.sendall(sent)
            assert received(stream).startswith(b"HTTP/1.1 400")


@contextlib.contextmanager
def connected(server: Server) -> Iterator[socket.socket]:
    host, _, port = server.http.partition(":")
    with socket.create_connection((host, int(port)), timeout=serving.SECONDS) as stream:
        yield stream


def received(stream: socket.socket) -> bytes:
    """All bytes until the server closes the connection."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := stream.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


def peak_bytes(server: Server) -> int:
    """Most memory that the server has held so far (Linux)."""
    lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) << 10


@pytest.mark.exhaustive(keep=1)
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_a_gigabyte_is_refused_unread(lookups: Server, chunked: bool) -> None:
    before = peak_bytes(lookups)
    length = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 1073741824"
    block = bytes(1 << 20)
    if chunked:
        block = b"100000\r\n" + block + b"\r\n"
    with connected(lookups) as stream:
        stream.sendall(f"POST {INFER} HTTP/1.1\r\nHost: x\r\n".encode() + length + b"\r\n\r\n")
        start = time.monotonic()
        with contextlib.suppress(OSError):  # the server has had enough
            for _ in range(1024):
                stream.sendall(block)
            stream.shutdown(socket.SHUT_WR)
        assert time.monotonic() - start < 30
        answer = received(stream)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 413")
    assert b"connection: close" in head.lower()
    assert json.loads(body) == {"error": "the body takes more than 16777216 bytes"}
    assert peak_bytes(lookups) - before < 100 << 20


@pytest.mark.parametrize(
    "start",
    [
        f"GET /{'x' * 70_000}",
        "GET /v2 HTTP/1.1\r\nHost: x\r\nA: ",
        f"POST {INFER} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\nA: ",
    ],
    ids=["line", "header", "trailer"],
)
def test_request_heads_without_an_end_are_refused(lookups: Server, start: str) -> None:
    before = peak_bytes(lookups)
    with connected(lookups) as stream, contextlib.suppress(OSError):
        stream.sendall(start.encode())
        for _ in range(1024):
            stream.sendall(bytes([120]) * (1 << 18))
        raise AssertionError("the server has read 256 MB of a head")
    assert peak_bytes(lookups) - before < 50 << 20


def test_expect_continue_is_answered_before_the_body(lookups: Server) -> None:
    with connected(lookups) as stream:
        stream.sendall(
            f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 1073741824\r\n"
            "Expect: 100-continue\r\n\r\n".encode()
        )
        assert received(stream).startswith(b"HTTP/1.1 413")


def test_the_client_is_told_that_a_body_is_too_large(lookups: Server) -> None:
    ids = np.zeros(20 << 20, np.int64)
    put = tritonclient.http.InferInput("user", ids.shape, "INT64").set_data_from_numpy(ids)
    with tritonclient.http.InferenceServerClient(lookups.http) as client:
        with pytest.raises(InferenceServerException, match="more than 16777216 bytes") as caught:
            client.infer("tables", [put])
        assert caught.value.status() == "413"
        assert client.is_server_live()


def test_grpc_messages_beyond_the_limit_are_refused(lookups: Server) -> None:
    ids = np.zeros(3 << 20, np.int64)
    put = tritonclient.grpc.InferInput("user", ids.shape, "INT64").set_data_from_numpy(ids)
    with tritonclient.grpc.InferenceServerClient(lookups.grpc) as client:
        with pytest.raises(InferenceServerException, match="larger than max") as caught:
            client.infer("tables", [put])
        assert caught.value.status() == "StatusCode.RESOURCE_EXHAUSTED"
        assert client.is_server_live()


def test_refused_grpc_messages_take_no_memory(lookups: Server) -> None:
    said = service_pb2.ModelInferRequest(model_name="tables")
    said.inputs.add(name="user", datatype="INT32", shape=[3 << 20])
    said.raw_input_contents.append(bytes(12 << 20))
    with grpc.insecure_channel(lookups.grpc) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        before = 0
        for _ in range(12):
            with pytest.raises(grpc.RpcError, match="at most 16777216 are given") as caught:
                infer(said.SerializeToString())
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            before = before or peak_bytes(lookups)  # after the first
        assert peak_bytes(lookups) - before < 100 << 20


def test_answers_beyond_the_limit_are_refused(lookups: Server) -> None:
    ids = np.zeros(3 << 20, np.int32)
    said = {"name": "user", "datatype": "INT32", "shape": [ids.size]}
    text = json.dumps({"inputs": [{**said, "parameters": {"binary_data_size": ids.nbytes}}]})
    headers = {"Inference-Header-Content-Length": str(len(text))}
    status, answer = lookups.infer(text.encode() + ids.tobytes(), headers)
    assert status == 413
    assert answer["error"] == "the rows take 50331648 bytes; at most 16777216 are given"


@pytest.mark.parametrize("method", ["ModelInfer", "ModelMetadata", "ModelReady"])
def test_bytes_that_are_no_grpc_message_are_refused(lookups: Server, method: str) -> None:
    with grpc.insecure_channel(lookups.grpc) as channel:
        call = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
        with pytest.raises(grpc.RpcError, match=f"this is no {method}Request") as caught:
            call(b"\xff\xff\xff")
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.RpcError, match="Method not found") as caught:
            channel.unary_unary("/inference.GRPCInferenceService/Other")(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_the_server_listens_on_loopback_only(lookups: Server) -> None:
    for address in (lookups.http, lookups.grpc):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", int(address.partition(":")[2])), timeout=5)


def test_metrics_count_requests_and_rows(tmp_path: Path) -> None:
    serving.write_artifact(tmp_path / "tables.saec", 0)
    with serving.served(tmp_path / "tables.saec") as server:
        server.infer(GOOD)
        server.infer(b"{")
        labels = 'model="tables",protocol="http"'
        assert server.metric(f'saec_requests_total{{{labels},status="ok"}}') == 1
        assert server.metric(f'saec_requests_total{{{labels},status="invalid"}}') == 1
        assert server.metric(f"saec_requests_in_flight{{{labels}}}") == 0
        assert server.metric(f"saec_request_seconds_count{{{labels}}}") == 2
        assert server.metric('saec_model_version{model="tables"}') == 1
        nbytes = (tmp_path / "tables.saec").stat().st_size
        assert server.metric('saec_model_bytes{model="tables"}') == nbytes
        assert server.metric('saec_reload_failures_total{model="tables"}') == 0


# Strangers


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that requires a token."""
    path = tmp_path_factory.mktemp("guarded") / "tables.saec"
    serving.write_artifact(path, 0)
    with serving.served(path, token="sesame") as server:
        yield server


PRIVATE = [
    ("GET", "/v2"),
    ("GET", "/v2/models/tables"),
    ("GET", "/v2/models/tables/versions/1"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
    ("POST", INFER),
    ("POST", "/v2/models/tables/versions/1/infer"),
    ("POST", "/v2/repository/models/tables/load"),
]


@pytest.mark.parametrize(("method", "path"), PRIVATE)
@pytest.mark.parametrize("shown", [None, "sesame", "Bearer", "Bearer sesam", "Basic sesame"])
def test_requests_without_token_get_401(
    guarded: Server, method: str, path: str, shown: str | None
) -> None:
    headers = {} if shown is None else {"Authorization": shown}
    status, told, body = guarded.ask(method, path, b"{}" if method == "POST" else None, headers)
    assert status == 401
    assert told["www-authenticate"] == "Bearer"
    assert json.loads(body) == {"error": "the header Authorization: Bearer TOKEN is missing"}


@pytest.mark.parametrize(("method", "path"), PRIVATE)
def test_requests_with_token_are_answered(guarded: Server, method: str, path: str) -> None:
    body = json.dumps({} if path.endswith("load") else GOOD).encode()
    for version in (1, 2, 3):  # each load is a new version
        where = path.replace("versions/1", f"versions/{version}")
        headers = {"Authorization": "bearer sesame"}
        status = guarded.ask(method, where, body if method == "POST" else None, headers)[0]
        if status == 200:
            return
    raise AssertionError(status)


def test_health_needs_no_token(guarded: Server) -> None:
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/tables/ready"):
        assert guarded.ask("GET", path)[0] == 200
    with tritonclient.grpc.InferenceServerClient(guarded.grpc) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("tables")


def test_calls_without_token_are_refused_by_grpc(guarded: Server) -> None:
    put = tritonclient.grpc.InferInput("user", [1], "INT64")
    put.set_data_from_numpy(np.array([3]))
    with tritonclient.grpc.InferenceServerClient(guarded.grpc) as client:
        calls = [
            lambda headers: client.infer("tables", [put], headers=headers),
            lambda headers: client.get_model_metadata("tables", headers=headers),
            lambda headers: client.get_server_metadata(headers=headers),
        ]
        for call in calls:
            for headers in (None, {"authorization": "Bearer sesam"}):
                with pytest.raises(InferenceServerException, match="Bearer TOKEN") as caught:
                    call(headers)
                assert caught.value.status() == "StatusCode.UNAUTHENTICATED"
            assert call({"authorization": "Bearer sesame"})


def test_a_large_request_without_token_gets_401(guarded: Server) -> None:
    assert guarded.ask("POST", INFER, bytes(8 << 20))[0] == 401


# Too many, too slow, and the end


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """A model whose input determines how long it computes."""
    serving.write_slow(tmp_path / "slow.onnx")
    return tmp_path / "slow.onnx"


def rounds(count: int) -> dict[str, object]:
    said = {"name": "rounds", "datatype": "INT64", "shape": [], "data": [count]}
    return {"inputs": [said], "outputs": [{"name": "result", "parameters": {"binary_data": True}}]}


def one_round(server: Server) -> int:
    """The status of a request that takes almost no time."""
    return server.ask("POST", "/v2/models/slow/infer", json.dumps(rounds(1)).encode())[0]


def rounds_for(server: Server, seconds: float) -> int:
    """The number of rounds that take about ``seconds`` on this machine."""
    count = 100
    while True:
        start = time.perf_counter()
        assert server.ask("POST", "/v2/models/slow/infer", json.dumps(rounds(count)).encode())
        if (taken := time.perf_counter() - start) > 0.1:
            return int(count * seconds / taken)
        count *= 4


def in_flight(server: Server) -> float:
    return server.metric('saec_requests_in_flight{model="slow",protocol="http"}')


def refusals(server: Server) -> tuple[tuple[int, object], tuple[str, object]]:
    """Status and message of a short request by HTTP and of one by gRPC."""
    status, _, body = server.ask("POST", "/v2/models/slow/infer", json.dumps(rounds(1)).encode())
    by_http = status, None if status == 200 else json.loads(body)["error"]
    put = tritonclient.grpc.InferInput("rounds", [], "INT64").set_data_from_numpy(np.array(1))
    with tritonclient.grpc.InferenceServerClient(server.grpc) as client:
        try:
            client.infer("slow", [put])
        except InferenceServerException as error:
            return by_http, (error.status(), error.message())
    return by_http, ("answered", None)


def test_requests_beyond_the_concurrency_limit_are_refused(slow: Path) -> None:
    with serving.served(slow, "--max-requests", "1") as server, ThreadPoolExecutor() as pool:
        body = json.dumps(rounds(rounds_for(server, 1))).encode()
        while True:
            first = pool.submit(server.ask, "POST", "/v2/models/slow/infer", body)
            while not (in_flight(server) or first.done()):
                time.sleep(0.01)
            by_http, by_grpc = refusals(server)
            assert server.ask("GET", "/v2/health/live")[0] == 200  # not behind the others
            if not first.done():  # otherwise the others may have come too late
                break
        assert by_http == (503, "too many requests are under way")
        assert by_grpc[0] == "StatusCode.UNAVAILABLE"
        assert "too many" in str(by_grpc[1])
        assert first.result()[0] == 200
        assert one_round(server) == 200


def test_requests_beyond_the_time_limit_get_504(slow: Path) -> None:
    with serving.served(slow, "--timeout", "0.5", "--grace", "0.5") as server:
        count = rounds_for(server, 15)
        status, said = server.infer(rounds(count))
        assert (status, said) == (504, {"error": "it took more than 0.5 seconds"})
        assert server.ask("GET", "/v2/health/live")[0] == 200
        assert server.stop() == 1  # a thread still computes
        assert "stopped with requests unanswered" in server.log.read_text()


def test_a_body_that_does_not_arrive_gets_408(slow: Path) -> None:
    head = b"POST /v2/models/slow/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"
    with serving.served(slow, "--timeout", "0.5") as server, connected(server) as stream:
        stream.sendall(head + b"{")
        answer = b""
        while not answer.endswith(b"}"):
            answer += stream.recv(1 << 16)
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"the body has not arrived within 0.5 seconds" in answer


def wait_for_gone(server: Server, protocol: str) -> None:
    """Wait until a request is counted as one whose client has disconnected."""
    sample = f'saec_requests_total{{model="slow",protocol="{protocol}",status="gone"}} 1.0'
    deadline = time.monotonic() + serving.SECONDS
    while sample not in server.ask("GET", "/metrics")[2].decode():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_requests_of_disconnected_clients_are_cancelled(slow: Path) -> None:
    """One disconnects while it sends its body, one while the server computes."""
    head = b"POST /v2/models/slow/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"
    with serving.served(slow, "--max-requests", "1") as server:
        with connected(server) as stream:
            stream.sendall(head + b"{")
        wait_for_gone(server, "http")
        put = tritonclient.grpc.InferInput("rounds", [], "INT64")
        put.set_data_from_numpy(np.array(rounds_for(server, 1.2)))
        with tritonclient.grpc.InferenceServerClient(server.grpc) as client:
            with pytest.raises(InferenceServerException, match="Deadline Exceeded"):
                client.infer("slow", [put], client_timeout=0.3)
            wait_for_gone(server, "grpc")
            assert one_round(server) == 503  # the thread still computes
            deadline = time.monotonic() + serving.SECONDS
            while one_round(server) != 200:
                assert time.monotonic() < deadline
                time.sleep(0.05)


def test_running_http_requests_are_answered_at_shutdown(slow: Path) -> None:
    with serving.served(slow) as server, ThreadPoolExecutor() as pool:
        body = json.dumps(rounds(rounds_for(server, 0.8))).encode()
        by_http = pool.submit(server.ask, "POST", "/v2/models/slow/infer", body)
        while not in_flight(server):
            time.sleep(0.01)
        server.process.terminate()
        assert by_http.result()[0] == 200
        assert server.process.wait(serving.SECONDS) == 0
        with pytest.raises(ConnectionRefusedError):
            server.ask("GET", "/v2/health/live")


@pytest.mark.exhaustive
def test_running_grpc_requests_are_answered_at_shutdown(slow: Path) -> None:
    with serving.served(slow) as server:
        count = rounds_for(server, 0.8)
        put = tritonclient.grpc.InferInput("rounds", [], "INT64")
        put.set_data_from_numpy(np.array(count))
        with tritonclient.grpc.InferenceServerClient(server.grpc) as client:
            timer = threading.Timer(0.3, server.process.terminate)
            timer.start()
            result = client.infer("slow", [put]).as_numpy("result")
            timer.join()
        np.testing.assert_array_equal(result, np.eye(128))
        assert server.process.wait(serving.SECONDS) == 0


# What cannot be served


@pytest.mark.exhaustive(keep=1)
@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_a_port_in_use_is_reported(lookups: Server, kind: str) -> None:
    path = lookups.log.parent / "tables.saec"
    port = getattr(lookups, kind).partition(":")[2]
    other = "grpc" if kind == "http" else "http"
    ports = [f"--{kind}-port", port, f"--{other}-port", "0"]
    code, told = serving.refused(path, *ports)
    assert code == 2
    assert f"saec: cannot listen on 127.0.0.1:{port}" in told


@pytest.mark.parametrize("name", ["none.saec", "none.onnx", "bad.saec", "bad.onnx"])
def test_files_that_cannot_be_served_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.startswith("bad"):
        path.write_bytes(b"nothing that makes sense")
    limits = saec.serve.Limits(1 << 20, 1, 1, 1, 1)
    with pytest.raises(ArtifactError, match=f"{name}(: [nN]o such file| is no )"):
        saec.serve.serve(path, saec.serve.Address("127.0.0.1", 0, 0), limits)


@pytest.mark.parametrize("token", ["", "\n", "sés", "two\nlines"])
def test_invalid_tokens_are_refused_at_start(
    tmp_path: Path, token: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "token").write_text(token)
    assert main(["serve", "none.saec", "--token-file", str(tmp_path / "token")]) == 2
    said = "saec: the token must be printable ASCII, and not empty\n"
    assert capsys.readouterr().err == said


def test_two_sources_of_the_token_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "token").write_text("sesame")
    monkeypatch.setenv("SAEC_TOKEN", "x")
    assert main(["serve", "none.saec", "--token-file", str(tmp_path / "token")]) == 2
    assert "give --token-file or SAEC_TOKEN, not both" in capsys.readouterr().err


def test_the_token_is_read_from_a_file(tmp_path: Path) -> None:
    serving.write_artifact(tmp_path / "tables.saec", 0)
    (tmp_path / "token").write_text("sesame\n")
    with serving.served(
        tmp_path / "tables.saec", "--token-file", str(tmp_path / "token")
    ) as server:
        assert server.ask("GET", "/v2")[0] == 401
        assert server.ask("GET", "/v2", headers={"Authorization": "Bearer sesame"})[0] == 200


@pytest.mark.exhaustive
def test_a_server_on_all_interfaces_without_token_logs_a_warning(tmp_path: Path) -> None:
    serving.write_artifact(tmp_path / "tables.saec", 0)
    with serving.served(tmp_path / "tables.saec", "--host", "0.0.0.0") as server:
        assert "anyone who can reach 0.0.0.0 can use this server" in server.log.read_text()
