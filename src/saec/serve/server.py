"""Both servers in one process, from the first socket to the last response."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import cast

import uvicorn

from saec.errors import DataError
from saec.serve import grpc_service, rest
from saec.serve.connection import BoundedConnection, Bounds
from saec.serve.descriptors import connections_within, quiet_about_descriptors
from saec.serve.heap import keep_trimming
from saec.serve.service import Limits, Service

__all__ = ["Address", "serve"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_KEEP_ALIVE_SECONDS = 75  # longer than clients' pools keep an unused connection
_BACKLOG = 128  # clients that wait to be accepted
# asyncio accepts as many at once as its own backlog. A small number, so that the data of a new
# client are read before a flood of newer connections displaces it.
_ACCEPTED_AT_ONCE = 8

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Address:
    """Addresses to listen on; port 0 is any free one.

    Raises:
        DataError: both ports are the same.
    """

    host: str
    http_port: int
    grpc_port: int

    def __post_init__(self) -> None:
        if self.http_port == self.grpc_port != 0:
            raise DataError(f"HTTP and gRPC need two ports, not {self.http_port} for both")


def serve(
    path: Path,
    address: Address,
    limits: Limits,
    token: str | None = None,
    on_ready: Callable[[str, Address], None] = lambda name, address: None,
    patches: Path | None = None,
    dense: Path | None = None,
) -> bool:
    """Serve the model in ``path`` until SIGTERM or SIGINT; call this in the main thread.

    Args:
        path: an artifact, or an ONNX file (``.onnx``).
        address: addresses to listen on.
        limits: limits of requests and connections.
        token: required from clients for everything except health; None for no token.
        on_ready: called with the model's name and the ports once requests are accepted.
        patches: a folder: patches of the artifact in it are used in their order, also those that
            arrive later.
        dense: an ONNX file that computes scores from the artifact's rows (docs/serve.md).

    Returns:
        Whether every request was answered before the end; if not, threads are still at work.

    Raises:
        ArtifactError: the file cannot be served.
        DataError: a port is not available.
    """
    service = Service(path, limits, token, patches, dense)
    return asyncio.run(_serve(service, address, on_ready))


class _HttpServer(uvicorn.Server):
    """Leaves signals to this module, and signals when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listens = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listening in sockets or ():
            listening.listen(_BACKLOG)  # asyncio has set its own
        self.listens.set()


async def _serve(
    service: Service, address: Address, on_ready: Callable[[str, Address], None]
) -> bool:
    version = metadata.version("saec")
    limits = service.limits
    connections = connections_within(limits.connections)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(quiet_about_descriptors())
    for number in _SIGNALS:
        loop.add_signal_handler(number, stop.set)
    with _listening(address) as listening:
        http_port = listening.getsockname()[1]
        http = _HttpServer(_http_config(service, version, connections))
        grpc_server, grpc_port = await grpc_service.start(
            service, version, address.host, address.grpc_port, connections
        )
        answering = asyncio.create_task(http.serve([listening]))
        beside = [asyncio.create_task(task) for task in (service.slot.watch(), keep_trimming())]
        try:
            await _until(http.listens, answering)
            on_ready(service.slot.name, Address(address.host, http_port, grpc_port))
            await _until(stop, answering)
            _log.info("stopping: requests under way have %g seconds", limits.grace)
        finally:
            # A failed start must stop both servers, because gRPC's threads keep a process alive.
            service.drain()
            for task in beside:
                task.cancel()
            http.should_exit = True
            await asyncio.gather(
                answering,
                grpc_server.stop(limits.grace),
                service.slot.close(max(1.0, limits.grace)),
                return_exceptions=True,
            )
            service.close()
    return service.work.abandoned == 0 and not service.slot.loading


def _http_config(service: Service, version: str, connections: int) -> uvicorn.Config:
    bounds = Bounds(service.limits.seconds, connections)
    return uvicorn.Config(
        rest.application(service, version),
        http=cast("type[asyncio.Protocol]", partial(BoundedConnection, bounds=bounds)),
        lifespan="off",
        log_config=None,
        log_level=logging.ERROR,  # its warnings concern errors of clients, one line for each
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=_ACCEPTED_AT_ONCE,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(1, round(service.limits.grace)),
    )


async def _until(event: asyncio.Event, serving: asyncio.Task[None]) -> None:
    """Wait for ``event`` or the end of ``serving``; raises the error that ended it."""
    waiting = asyncio.create_task(event.wait())
    await asyncio.wait((waiting, serving), return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if serving.done():
        serving.result()


def _listening(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    # asyncio sends small packets at once (TCP_NODELAY) only if the protocol is named.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address.host, address.http_port))
        # Two sockets with SO_REUSEADDR may be bound to one port, but only one of them may listen.
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        place = f"{address.host}:{address.http_port}"
        raise DataError(f"cannot listen on {place}: {error.strerror}") from error
    return listening
