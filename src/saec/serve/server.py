"""Both servers in one process, from the first socket to the last answer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import uvicorn

from saec.errors import DataError
from saec.serve import grpc_service, rest
from saec.serve.connection import BoundedConnection
from saec.serve.service import Limits, Service

__all__ = ["Address", "serve"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_KEEP_ALIVE_SECONDS = 75  # longer than clients' pools keep a connection that nobody uses

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Address:
    """Where to listen; port 0 is any free one."""

    host: str
    http_port: int
    grpc_port: int


def serve(
    path: Path,
    address: Address,
    limits: Limits,
    token: str | None = None,
    on_ready: Callable[[str, Address], None] = lambda name, address: None,
) -> bool:
    """Serve the model in ``path`` until SIGTERM or SIGINT; call this in the main thread.

    Args:
        path: an artifact, or an ONNX file (``.onnx``).
        address: where to listen.
        limits: what to take on.
        token: that clients must show for all but health.
        on_ready: is told the model's name, and the ports, once requests are taken.

    Returns:
        Whether every request was answered before the end; if not, threads are still at work.

    Raises:
        ArtifactError: the file cannot be served.
        DataError: a port cannot be had.
    """
    service = Service(path, limits, token)
    return asyncio.run(_serve(service, address, on_ready))


class _HttpServer(uvicorn.Server):
    """Leaves signals to us, and says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listens = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listens.set()


async def _serve(
    service: Service, address: Address, on_ready: Callable[[str, Address], None]
) -> bool:
    version = metadata.version("saec")
    limits = service.limits
    listening = _listening(address)
    with listening:
        grpc_server, grpc_port = await grpc_service.start(
            service, version, address.host, address.grpc_port
        )
        http = _HttpServer(
            uvicorn.Config(
                rest.application(service, version),
                http=BoundedConnection,
                lifespan="off",
                log_config=None,
                log_level=logging.WARNING,
                access_log=False,
                server_header=False,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=max(1, round(limits.grace)),
            )
        )
        stop = asyncio.Event()
        for number in _SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        answering = asyncio.create_task(http.serve([listening]))
        await http.listens.wait()
        on_ready(
            service.slot.name,
            Address(address.host, listening.getsockname()[1], grpc_port),
        )
        watching = asyncio.create_task(service.slot.watch())
        await stop.wait()
        _log.info("stopping: requests under way have %g seconds", limits.grace)
        service.ready = False
        watching.cancel()
        http.should_exit = True
        await asyncio.gather(answering, grpc_server.stop(limits.grace))
    service.work.close()
    return service.work.abandoned == 0


def _listening(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    # Only where the protocol is named does asyncio send small packets at once (TCP_NODELAY).
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address.host, address.http_port))
    except OSError as error:
        listening.close()
        place = f"{address.host}:{address.http_port}"
        raise DataError(f"cannot listen on {place}: {error.strerror}") from error
    return listening
