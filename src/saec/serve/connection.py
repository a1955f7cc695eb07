"""HTTP connections that are bounded in number, in the bytes of their heads and in time.

uvicorn bounds the time between two requests (``timeout_keep_alive``) and refuses requests beyond
``limit_concurrency``, good ones too. It has no deadline for a first head, for one that comes byte
by byte, or for an answer that its client does not read, and no bound on open connections.
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
    """Of connections.

    Attributes:
        seconds: for a head to arrive, and for a client to read what it is sent.
        connections: open at once.
    """

    seconds: float
    connections: int


class BoundedConnection(HttpToolsProtocol):
    """Ends connections whose request line, headers or trailers do not end, or do not arrive.

    The parser keeps all of these, however long; bodies are bounded by who reads them.
    """

    _beside_body = 0  # bytes that have come since the last of a body
    _idle_since = 0.0

    def __init__(self, *arguments: Any, bounds: Bounds, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._bounds = bounds
        self._timers: dict[str, asyncio.TimerHandle] = {}  # of a head, and of what is unsent

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        # Writing is paused while anything is unsent, so a pause is the time that it lies there.
        transport.set_write_buffer_limits(high=0)
        self._idle_since = self.loop.time()
        self._start("head")
        self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        super().connection_lost(exc)
        self._unset_keepalive_if_required()  # uvicorn keeps the timer, and with it this, on errors
        self._stop("head")
        self._stop("unsent")

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        self._beside_body += len(data)
        if "head" not in self._timers and self._idle:
            self._start("head")
        super().data_received(data)
        if self._beside_body > _MOST_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response(f"A head has more than {_MOST_HEAD_BYTES} bytes.")

    def on_message_begin(self) -> None:
        """A head begins."""
        self._beside_body = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """A head has come."""
        self._stop("head")
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of a body has come."""
        self._beside_body = 0
        super().on_body(body)

    def on_response_complete(self) -> None:
        """An answer has been written, though perhaps not sent."""
        self._idle_since = self.loop.time()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Something is unsent."""
        super().pause_writing()
        self._start("unsent")

    def resume_writing(self) -> None:
        """All is sent."""
        self._stop("unsent")
        super().resume_writing()

    @property
    def _idle(self) -> bool:
        """Whether no request is under way."""
        return self.cycle is None or self.cycle.response_complete

    def _start(self, timer: str) -> None:
        # Closing would wait for what is unsent.
        self._timers[timer] = self.loop.call_later(self._bounds.seconds, self.transport.abort)

    def _stop(self, timer: str) -> None:
        if timer in self._timers:
            self._timers.pop(timer).cancel()

    def _make_room(self) -> None:
        """End a connection if there are too many.

        That is the one that has been idle longest, of those without any request so far if there
        are such. So clients that only connect displace each other, not those that ask.
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
