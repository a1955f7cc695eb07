"""Clients that keep connections open: they are ended, and do not delay other clients."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import serving
import tritonclient.grpc
from serving import Server, tensor

INFER = b"POST /v2/models/tables/infer HTTP/1.1\r\nHost: x\r\n"
GOOD = {"inputs": [tensor("user", [3, 141])]}
CONNECTIONS = 12
WAIT = 1.0  # the server's --timeout
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with short time limits and few connections."""
    path = tmp_path_factory.mktemp("hostile") / "tables.saec"
    serving.write_artifact(path, 0)
    options = ["--timeout", str(WAIT), "--max-connections", str(CONNECTIONS), "--max-requests", "4"]
    with serving.served(path, *options) as server:
        yield server


@contextlib.contextmanager
def connections(address: str, count: int, sent: bytes = b"") -> Iterator[list[socket.socket]]:
    """Open connections, each of which has sent ``sent``."""
    host, _, port = address.partition(":")
    with contextlib.ExitStack() as stack:
        streams = []
        for _ in range(count):
            stream = stack.enter_context(socket.create_connection((host, int(port)), timeout=20))
            stream.sendall(sent)
            streams.append(stream)
        yield streams


def ended(stream: socket.socket) -> bool:
    """Whether the server has closed a connection by now."""
    stream.setblocking(False)
    try:
        while stream.recv(1 << 16):
            pass
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + serving.SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def descriptors(server: Server) -> int:
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


HEADS = {
    "nothing": (b"", b""),
    "line ends": (b"", b"\r\n"),
    "line": (b"GET /", b"x"),
    "headers": (INFER + b"A: ", b"x"),
    "second head": (b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\nGET /", b"x"),
    "body": (INFER + b"Content-Length: 9999\r\n\r\n", b" "),
    "chunks": (INFER + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "trailer": (INFER + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nA: ", b"x"),
    "unread body": (b"GET /v2 HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n", b" "),
}


@pytest.mark.exhaustive
@pytest.mark.alone
def test_slow_requests_are_ended(server: Server) -> None:
    """Clients that send one byte of a request every 50 ms without an end."""
    with contextlib.ExitStack() as stack:
        streams = {
            name: (stack.enter_context(connections(server.http, 1, first))[0], more)
            for name, (first, more) in HEADS.items()
        }
        start, took = time.monotonic(), dict.fromkeys(HEADS, 0.0)
        while streams:
            assert time.monotonic() - start < 20, list(streams)
            time.sleep(0.05)
            for name, (stream, more) in list(streams.items()):
                with contextlib.suppress(OSError):
                    stream.sendall(more)
                if ended(stream):
                    took[name] = time.monotonic() - start
                    del streams[name]
    assert min(took.values()) > 0.8 * WAIT, took.items()
    assert max(took.values()) < 10 * WAIT, took.items()


@pytest.mark.exhaustive
def test_slow_bodies_do_not_block_other_requests(server: Server) -> None:
    """There are more slow bodies than requests may run at a time."""
    with connections(server.http, 8, INFER + b"Content-Length: 99\r\n\r\n{") as streams:
        for _ in range(5):
            assert server.infer(GOOD)[0] == 200
        wait_until(lambda: all(map(ended, streams)))


def test_connections_that_read_no_answer_are_closed(server: Server) -> None:
    ids = np.zeros(1 << 20, np.int32)
    said = '{"inputs":[{"name":"user","datatype":"INT32","shape":[%d],"parameters":{"binary_data_size":%d}}],"parameters":{"binary_data_output":true}}'  # noqa: E501
    text = (said % (ids.size, ids.nbytes)).encode()
    head = b"Content-Length: %d\r\nInference-Header-Content-Length: %d\r\n\r\n"
    body = text + ids.tobytes()
    request = INFER + head % (len(body), len(text)) + body
    before = descriptors(server)
    with connections(server.http, 2, request):
        wait_until(lambda: descriptors(server) > before)
        wait_until(lambda: descriptors(server) <= before)  # while they are still connected
    assert server.infer(GOOD)[0] == 200


def test_connections_beyond_the_limit_close_idle_ones(server: Server) -> None:
    before = descriptors(server)
    with connections(server.http, 1, b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n") as (kept,):
        assert kept.recv(1 << 16).startswith(b"HTTP/1.1 200")
        with connections(server.http, 10 * CONNECTIONS) as streams:
            wait_until(lambda: descriptors(server) <= before + CONNECTIONS)
            assert server.infer(GOOD)[0] == 200  # on a connection of its own
            assert sum(map(ended, streams)) >= 9 * CONNECTIONS
            kept.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            assert kept.recv(1 << 16).startswith(b"HTTP/1.1 200")


@pytest.mark.exhaustive
def test_grpc_connections_without_http2_are_ended(server: Server) -> None:
    before = descriptors(server)
    with tritonclient.grpc.InferenceServerClient(server.grpc) as client:
        assert client.is_server_live()
        for sent in (b"", b"x", PREFACE):
            with connections(server.grpc, 3 * CONNECTIONS, sent) as streams:
                wait_until(lambda: all(map(ended, streams)))
        assert client.is_server_live()
    wait_until(lambda: descriptors(server) <= before)


def test_grpc_messages_that_do_not_arrive_are_ended(server: Server) -> None:
    def nothing() -> Iterator[bytes]:
        time.sleep(3 * WAIT)
        yield b""

    with grpc.insecure_channel(server.grpc) as channel:
        call = channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError, match="has not arrived within 1 seconds") as caught:
            call(nothing())
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        with pytest.raises(grpc.RpcError, match="the call has no message") as caught:
            call(iter([]))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_errors_of_clients_are_not_logged(server: Server) -> None:
    reset = struct.pack("ii", 1, 0)
    for sent in (
        b"\0" * 100,
        b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    ):
        with connections(server.http, CONNECTIONS, sent) as streams:
            for stream in streams:
                stream.recv(1 << 16)
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
    assert server.infer(GOOD)[0] == 200
    assert server.log.read_text() == ""


@pytest.mark.exhaustive
def test_the_server_survives_running_out_of_descriptors(tmp_path: Path) -> None:
    path = tmp_path / "tables.saec"
    serving.write_artifact(path, 0)
    with serving.served(path, "--timeout", "1", descriptors=64) as server:
        with contextlib.ExitStack() as stack:
            for address in (server.http, server.grpc):
                stack.enter_context(connections(address, 100))
            assert server.infer(GOOD)[0] == 200
            serving.write_artifact(path, 1)  # read while the connections are there
            assert server.ask("POST", "/v2/repository/models/tables/load")[0] == 200
        assert server.infer(GOOD)[0] == 200
        assert len(server.log.read_bytes()) < 4000
        assert "16 connections at once in place of 256: 64 files may be open" in (
            server.log.read_text()
        )
