"""The gRPC side of the protocol."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from saec.errors import DataError
from saec.serve import grpc_body
from saec.serve.grpc_messages import SERVICE, message
from saec.serve.protocol import Answer, InferRequest, RefusedError, Status, TensorSpec, invalid
from saec.serve.service import EXTENSIONS, Service

__all__ = ["start"]

_Ask = Callable[[bytes], Awaitable[Any]]

_IDLE_MILLISECONDS = 75_000

_log = logging.getLogger(__name__)


async def start(
    service: Service, server_version: str, host: str, port: int, connections: int
) -> tuple[Any, int]:
    """A server that listens on ``port``, or on any free port for 0; returns it and the port.

    Args:
        service: model, limits and access.
        server_version: version that the metadata show.
        host: address to listen on.
        port: port to listen on.
        connections: largest number of open connections; new ones beyond it are closed.

    Raises:
        DataError: the port is not available.
    """
    limits = service.limits
    options = [
        ("grpc.max_allowed_incoming_connections", connections),
        # Time for the HTTP/2 handshake, then limit of idle time; clients reconnect by themselves.
        ("grpc.server_handshake_timeout_ms", round(1000 * limits.seconds)),
        ("grpc.max_connection_idle_ms", _IDLE_MILLISECONDS),
        # Clients that disappeared without closing do not answer pings.
        ("grpc.keepalive_time_ms", _IDLE_MILLISECONDS),
        ("grpc.max_concurrent_streams", limits.requests),  # calls per connection; others wait
        ("grpc.max_receive_message_length", limits.max_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", 0),  # two servers on one port would share its clients
    ]
    server = grpc.aio.server(options=options)
    calls = _Calls(service, server_version)
    handlers = {
        "ServerLive": _handler(calls.server_live, limits.seconds),
        "ServerReady": _handler(calls.server_ready, limits.seconds),
        "ModelReady": _handler(calls.model_ready, limits.seconds),
        "ServerMetadata": _handler(calls.server_metadata, limits.seconds, service),
        "ModelMetadata": _handler(calls.model_metadata, limits.seconds, service),
        "ModelInfer": _handler(calls.model_infer, limits.seconds, service),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        bound: int = server.add_insecure_port(address)
    except RuntimeError as error:
        raise DataError(f"cannot listen on {address}: {error}") from error
    await server.start()
    return server, bound


def _handler(ask: _Ask, seconds: float, private: Service | None = None) -> Any:
    """Call ``answer`` with a request's bytes; requires the token if the service is ``private``.

    On the wire a call with one message is a stream of one message. gRPC has no deadline for the
    message of a call that is not a stream, and calls the handler only after it has arrived.
    """

    async def handle(_: Any, context: Any) -> bytes:
        try:
            if private is not None:
                private.check_token(dict(context.invocation_metadata()).get("authorization"))
            answer = await ask(await _message(context, seconds))
        except RefusedError as refusal:
            return _refused(context, refusal.status, str(refusal))
        except Exception:
            _log.exception("a gRPC call failed")
            return _refused(context, Status.FAILED, "the server failed; its log says how")
        return answer if isinstance(answer, bytes) else answer.SerializeToString()

    return grpc.stream_unary_rpc_method_handler(handle)


async def _message(context: Any, seconds: float) -> bytes:
    try:
        async with asyncio.timeout(seconds):
            raw = await context.read()
    except TimeoutError as error:
        raise RefusedError(
            Status.SLOW, f"the message has not arrived within {seconds:g} seconds"
        ) from error
    if not isinstance(raw, bytes):
        raise invalid("the call has no message")
    return raw


def _refused(context: Any, status: Status, message: str) -> bytes:
    # abort() would raise an error that holds the message in a reference cycle, freed much later.
    context.set_code(grpc.StatusCode[status.grpc])
    context.set_details(message)
    return b""


class _Calls:
    """One method for each of the protocol's, from a message's bytes to a response."""

    def __init__(self, service: Service, server_version: str) -> None:
        self._service = service
        self._server_version = server_version

    async def server_live(self, raw: bytes) -> Any:
        return message("ServerLiveResponse")(live=True)

    async def server_ready(self, raw: bytes) -> Any:
        return message("ServerReadyResponse")(ready=self._service.ready)

    async def model_ready(self, raw: bytes) -> Any:
        said = _parsed("ModelReadyRequest", raw)
        self._service.version(said.name, said.version)
        return message("ModelReadyResponse")(ready=self._service.ready)

    async def server_metadata(self, raw: bytes) -> Any:
        return message("ServerMetadataResponse")(
            name="saec", version=self._server_version, extensions=EXTENSIONS
        )

    async def model_metadata(self, raw: bytes) -> Any:
        said = _parsed("ModelMetadataRequest", raw)
        current = self._service.version(said.name, said.version)
        return message("ModelMetadataResponse")(
            name=said.name,
            versions=[str(current.number)],
            platform=current.model.platform,
            inputs=_tensors(current.model.inputs),
            outputs=_tensors(current.model.outputs),
        )

    async def model_infer(self, raw: bytes) -> bytes:
        service = self._service
        with service.metrics.request("grpc"), service.work.admitted():
            said = _parsed("ModelInferRequest", raw)
            current = service.version(said.model_name, said.model_version)

            def decode() -> tuple[InferRequest, Callable[[Answer], bytes]]:
                as_raw = bool(said.raw_input_contents)
                return grpc_body.decode(said), lambda answer: _written(answer, as_raw)

            pairs = zip(said.inputs, said.raw_input_contents, strict=False)
            tensors = sum(len(own) for tensor, own in pairs if tensor.datatype != "BYTES")
            return await service.infer(current, decode, len(raw) - tensors)


def _written(answer: Answer, as_raw: bool) -> bytes:
    raw: bytes = grpc_body.encode(answer, as_raw).SerializeToString()
    return raw


def _parsed(name: str, raw: bytes) -> Any:
    said = message(name)()
    try:
        said.ParseFromString(raw)
    except DecodeError as error:
        raise invalid(f"this is no {name}: {error}") from error
    return said


def _tensors(specs: Sequence[TensorSpec]) -> list[Any]:
    kind = message("ModelMetadataResponse.TensorMetadata")
    return [kind(name=spec.name, datatype=spec.datatype, shape=spec.shape) for spec in specs]
