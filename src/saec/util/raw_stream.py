"""Unbuffered streams, which may write a part of what they are given."""

from __future__ import annotations

import errno
import io
from typing import Any, BinaryIO

__all__ = ["whole_writes"]


def whole_writes(stream: BinaryIO) -> BinaryIO:
    """The stream itself, or, of one without a buffer, a stream that writes all it is given."""
    return _WholeWrites(stream) if isinstance(stream, io.RawIOBase) else stream  # type: ignore[return-value]


class _WholeWrites(io.BufferedIOBase):
    """Repeats writes until nothing is left; closing it leaves the raw stream open."""

    def __init__(self, raw: io.RawIOBase) -> None:
        self._raw = raw

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        given = memoryview(data)
        left = given.cast("B") if given.nbytes else b""
        while left:
            written = self._raw.write(left)
            if not written:  # None of a stream that does not block
                raise BlockingIOError(errno.EAGAIN, "it takes no more bytes for now")
            left = left[written:]
        return given.nbytes
