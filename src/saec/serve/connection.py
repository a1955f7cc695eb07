"""HTTP connections whose heads are bounded."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["BoundedConnection"]

_MOST_HEAD_BYTES = 1 << 16


class BoundedConnection(HttpToolsProtocol):
    """Ends connections whose request line, headers or trailers do not end.

    The parser keeps all of these, however long; bodies are bounded by who reads them.
    """

    _beside_body = 0  # bytes that have come since the last of a body

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        self._beside_body += len(data)
        super().data_received(data)
        if self._beside_body > _MOST_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response(f"A head has more than {_MOST_HEAD_BYTES} bytes.")

    def on_message_begin(self) -> None:
        """A head begins."""
        self._beside_body = 0
        super().on_message_begin()

    def on_body(self, body: bytes) -> None:
        """A part of a body has come."""
        self._beside_body = 0
        super().on_body(body)
