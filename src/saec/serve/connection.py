"""HTTP connections with limits on their number, on the bytes of their heads and on time.

uvicorn limits the time between two requests (``timeout_keep_alive``) and rejects all requests
beyond ``limit_concurrency``. It has no deadline for the first head, for a head that arrives byte
by byte or for a response that its client does not read, and no limit of open connections.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["BoundedConnection", "Bounds"]

_MOST_HEAD_BYTES = 1 << 16


@dataclass(frozen=True)
class Bounds:
    """Limits of connections.

    Attributes:
        seconds: for a head to arrive, and for a client to read a response.
        connections: largest number of open connections.
    """

    seconds: float
    connections: int


class BoundedConnection(HttpToolsProtocol):
    """Ends connections whose request line, headers or trailers are too long or do not arrive.

    The parser has no limit for these; the readers of bodies limit them.
    """

    _beside_body = 0  # bytes received since the last part of a body
    _idle_since = 0.0

    def __init__(self, *arguments: Any, bounds: Bounds, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._bounds = bounds
        self._timers: dict[str, asyncio.TimerHandle] = {}  # for a head, and for unsent data

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Handle a new connection."""
        super().connection_made(transport)
        # Writing is paused while data are unsent, so a pause lasts exactly as long as unsent data.
        transport.set_write_buffer_limits(high=0)
        self._idle_since = self.loop.time()
        self._start("head")
        self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """Handle the end of the connection."""
        super().connection_lost(exc)
        self._unset_keepalive_if_required()  # on errors uvicorn keeps it, and so this object
        self._stop("head")
        self._stop("unsent")

    def data_received(self, data: bytes) -> None:
        """Handle received bytes."""
        self._beside_body += len(data)
        if "head" not in self._timers and self._idle:
            self._start("head")
        super().data_received(data)
        if self._beside_body > _MOST_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response(f"A head has more than {_MOST_HEAD_BYTES} bytes.")

    def on_message_begin(self) -> None:
        """Handle the start of a head."""
        self._beside_body = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Handle a complete head."""
        self._stop("head")
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Handle a part of a body."""
        self._beside_body = 0
        super().on_body(body)

    def on_response_complete(self) -> None:
        """Handle a response that is written, but perhaps not sent yet."""
        self._idle_since = self.loop.time()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Start the timer for unsent data."""
        super().pause_writing()
        self._start("unsent")

    def resume_writing(self) -> None:
        """Stop the timer for unsent data."""
        self._stop("unsent")
        super().resume_writing()

    @property
    def _idle(self) -> bool:
        """Whether no request is in progress."""
        return self.cycle is None or self.cycle.response_complete

    def _start(self, timer: str) -> None:
        # close() would wait for unsent data
        self._timers[timer] = self.loop.call_later(self._bounds.seconds, self.transport.abort)

    def _stop(self, timer: str) -> None:
        if timer in self._timers:
            self._timers.pop(timer).cancel()

    def _make_room(self) -> None:
        """Close a connection if there are too many.

        This is the connection that has been idle longest, among those without any request so far if
        there are such. So clients that only connect displace each other, not those that send
        requests.
        """
        most = self._bounds.connections
        if len(self.connections) <= most:
            return
        held = [cast("BoundedConnection", other) for other in self.connections]
        held = [other for other in held if not other.transport.is_closing()]
        if len(held) > most:
            idle = [other for other in held if other._idle and other is not self]
            idle.sort(key=lambda other: (other.cycle is not None, other._idle_since))
            (idle[0] if idle else self).transport.abort()
