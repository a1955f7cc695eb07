"""Responses to requests whose bodies have not been read to their end."""

from __future__ import annotations

import asyncio
import contextlib

from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Lingering"]


class Lingering:
    """Responds early and closes late.

    A server that rejects a body and closes at once resets the connection while the client still
    sends, and most clients then never see the reason. So the response is sent, further bytes are
    discarded for some seconds, and then the connection is closed.
    """

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request; the ASGI interface."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        unread = b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"
        # Such a client sends the body only after a 100 Continue.
        waits = headers.get(b"expect", b"").lower() == b"100-continue"

        async def noted_receive() -> Message:
            nonlocal unread
            message = await receive()
            unread = unread and message["type"] == "http.request" and message["more_body"]
            return message

        async def lingering_send(message: Message) -> None:
            if not unread:
                await send(message)
            elif message["type"] == "http.response.start":
                await send({**message, "headers": [*message["headers"], (b"connection", b"close")]})
            else:  # this application's responses have one part
                await send({**message, "more_body": True})
                if not waits:
                    await self._drained(receive)
                await send({"type": "http.response.body", "body": b""})

        await self._app(scope, noted_receive, lingering_send)

    async def _drained(self, receive: Receive) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._seconds):
                while (await receive()).get("more_body"):
                    pass
