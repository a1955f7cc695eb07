"""Invalid requests to a real server: it rejects them with the protocol's errors and runs on."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import schemathesis
import schemathesis.checks
import serving
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import Server, tensor
from tritonclient.grpc import service_pb2

INFER = "/v2/models/tables/infer"
JSON_BYTES = "Inference-Header-Content-Length"
SLOW = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much]


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for this module, which also reloads its file; its log must stay free of faults."""
    path = tmp_path_factory.mktemp("victim") / "tables.saec"
    serving.write_artifact(path, 0)
    with serving.served(path) as server:
        yield server
        assert server.infer({"inputs": [tensor("user", [3])]})[0] == 200
    assert "Traceback" not in server.log.read_text()


@pytest.fixture(scope="module")
def schema(victim: Server) -> Any:
    """The OpenAPI schema that the server offers."""
    said = json.loads(victim.ask("GET", "/openapi.json")[2])
    loaded = schemathesis.openapi.from_dict(said)
    loaded.config.update(base_url=f"http://{victim.http}")
    return loaded


OPERATIONS = [
    ("/v2", "GET"),
    ("/v2/models/{name}", "GET"),
    ("/v2/models/{name}/versions/{version}", "GET"),
    ("/v2/models/{name}/ready", "GET"),
    ("/v2/models/{name}/versions/{version}/ready", "GET"),
    ("/v2/health/live", "GET"),
    ("/v2/health/ready", "GET"),
    ("/metrics", "GET"),
    ("/openapi.json", "GET"),
    ("/v2/models/{name}/infer", "POST"),
    ("/v2/models/{name}/versions/{version}/infer", "POST"),
    ("/v2/repository/models/{name}/load", "POST"),
]


def test_the_schema_has_every_operation(schema: Any) -> None:
    offered = {
        (path, method.upper())
        for path, methods in schema.raw_schema["paths"].items()
        for method in methods
    }
    assert offered == set(OPERATIONS)


# What a wrong request is answered depends on more than the schema can say.
CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
]


@pytest.mark.exhaustive(keep=4)
@pytest.mark.parametrize(
    ("path", "method", "mode"),
    [
        (path, method, mode)
        for path, method in OPERATIONS
        for mode in ("positive", "negative")
        if mode == "positive" or method == "POST"  # only a body can be wrong
    ],
)
def test_answers_conform_to_the_schema(
    schema: Any, victim: Server, path: str, method: str, mode: str
) -> None:
    """Status, content type and body of every answer are those that the schema declares."""
    operation = schema[path][method]
    generation = schemathesis.GenerationMode(mode)
    known = {"name": "tables", "version": "1"}
    named = {key: value for key, value in known.items() if f"{{{key}}}" in path}
    checks = schemathesis.checks.CHECKS.get_by_names(CHECKS)

    @given(
        operation.as_strategy(generation, path_parameters=named) | operation.as_strategy(generation)
    )
    @settings(max_examples=30, suppress_health_check=SLOW, database=None)
    def check(case: Any) -> None:
        case.call_and_validate(checks=checks)

    check()
    assert victim.ask("GET", "/v2/health/ready")[0] == 200


def valid_request() -> tuple[bytes, int]:
    ids = np.array([3, 141, 7])
    inputs = [
        {
            "name": "user",
            "datatype": "INT64",
            "shape": [3],
            "parameters": {"binary_data_size": ids.nbytes},
        },
        tensor("item", [[1, 2]], "INT32"),
    ]
    text = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    return text + ids.tobytes(), len(text)


@st.composite
def spoiled(draw: st.DrawFn) -> tuple[bytes, str]:
    """A valid request of JSON and bytes after some damage, and its header."""
    body, said = valid_request()
    held = bytearray(body)
    for _ in range(draw(st.integers(0, 4))):
        where = draw(st.integers(0, len(held)))
        match draw(st.sampled_from(["change", "cut", "add", "end"])):
            case "change" if where < len(held):
                held[where] = draw(st.integers(0, 255))
            case "cut":
                del held[where : where + draw(st.integers(1, 20))]
            case "add":
                held[where:where] = draw(st.binary(min_size=1, max_size=20))
            case _:
                del held[where:]
    header = st.just(said) | st.integers(-5, 400) | st.integers()
    return bytes(held), str(draw(header))


def test_damaged_http_requests_are_refused_or_answered(victim: Server) -> None:
    connection = http.client.HTTPConnection(victim.http, timeout=serving.SECONDS)

    @given(spoiled())
    @settings(max_examples=100, suppress_health_check=SLOW, database=None)
    def check(request: tuple[bytes, str]) -> None:
        body, header = request
        connection.request("POST", INFER, body, {JSON_BYTES: header})
        answer = connection.getresponse()
        told = answer.read()
        if answer.status != 200:
            assert answer.status == 400, told
            assert list(json.loads(told)) == ["error"]

    check()
    connection.close()
    body, said = valid_request()
    status, headers, _ = victim.ask("POST", INFER, body, {JSON_BYTES: str(said)})
    assert status == 200
    assert headers[JSON_BYTES.lower()].isdigit()


def messages() -> st.SearchStrategy[bytes]:
    """A valid message after some damage, or any bytes."""
    said = service_pb2.ModelInferRequest(model_name="tables")
    said.inputs.add(name="user", datatype="INT64", shape=[3])
    said.raw_input_contents.append(np.array([3, 141, 7]).tobytes())
    valid = said.SerializeToString()
    changed = st.tuples(st.integers(0, len(valid) - 1), st.binary(max_size=4)).map(
        lambda change: valid[: change[0]] + change[1] + valid[change[0] + len(change[1]) :]
    )
    return changed | st.binary(max_size=50)


def test_damaged_grpc_messages_are_refused_or_answered(victim: Server) -> None:
    refused = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}
    with grpc.insecure_channel(victim.grpc) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")

        @given(messages())
        @settings(max_examples=100, suppress_health_check=SLOW, database=None)
        def check(message: bytes) -> None:
            try:
                service_pb2.ModelInferResponse.FromString(infer(message, timeout=serving.SECONDS))
            except grpc.RpcError as error:
                assert error.code() in refused, error  # noqa: PT017

        check()
        live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
        assert service_pb2.ServerLiveResponse.FromString(live(b"")).live


LINES = st.sampled_from(
    [
        b"POST " + INFER.encode() + b" HTTP/1.1",
        b"GET /v2 HTTP/1.0",
        b"Host: x",
        b"Content-Length: 5",
        b"Content-Length: -5",
        b"Transfer-Encoding: chunked",
        b"Expect: 100-continue",
        b"Connection: close",
        JSON_BYTES.encode() + b": 3",
        b"",
        b"{}",
        b"5",
    ]
) | st.binary(max_size=30)


@pytest.mark.exhaustive
@given(st.lists(LINES, max_size=8))
@settings(max_examples=100, suppress_health_check=SLOW, database=None)
def test_random_lines_do_not_stop_the_server(victim: Server, lines: list[bytes]) -> None:
    host, _, port = victim.http.partition(":")
    with (
        socket.create_connection((host, int(port)), timeout=serving.SECONDS) as stream,
        contextlib.suppress(OSError),  # refused before the end
    ):
        stream.sendall(b"\r\n".join(lines))
        stream.shutdown(socket.SHUT_WR)
        first = stream.recv(1 << 16)
        assert not first or first.startswith(b"HTTP/1.1 ")
        assert b" 500 " not in first.partition(b"\r\n")[0]
    assert victim.process.poll() is None
