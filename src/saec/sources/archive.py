"""Zip archives whose members are stored as they are, and may be read where they lie in the file."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Archive", "open_archive"]

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, ..., lengths of the name and the extra field


@dataclass(frozen=True, eq=False)
class Archive:
    """A zip archive that is a file, or lies in one.

    first: byte of the file at which the archive begins.
    """

    path: Path
    first: int
    opened: zipfile.ZipFile
    stream: io.BufferedIOBase

    def place(self, member: zipfile.ZipInfo) -> int:
        """The byte of the file at which a member's content begins.

        Raises:
            ValueError: it is packed or encrypted, or not within the archive.
        """
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
            raise ValueError(f"{member.filename} is packed or encrypted")
        # Lengths here differ from those in the archive's directory: writers pad for alignment.
        self.stream.seek(member.header_offset)
        header = self.stream.read(_LOCAL_HEADER.size)
        signature, name, extra = _LOCAL_HEADER.unpack(header)
        begin = int(member.header_offset + _LOCAL_HEADER.size + name + extra)
        if signature != b"PK\3\4" or begin + member.file_size > self.stream.seek(0, os.SEEK_END):
            raise ValueError(f"{member.filename} is not where the directory says")
        return self.first + begin


@contextmanager
def open_archive(path: Path, first: int = 0, length: int | None = None) -> Iterator[Archive]:
    """Open the archive in ``length`` bytes from ``first`` on; a whole file unless told.

    Raises:
        OSError, zipfile.BadZipFile: it cannot be opened.
    """
    with path.open("rb") as file:
        stream: io.BufferedIOBase = file
        if length is not None:
            stream = io.BufferedReader(_Window(file, first, length))
        with zipfile.ZipFile(stream) as opened:
            yield Archive(path, first, opened, stream)


class _Window(io.RawIOBase):
    """A run of bytes of a file as a file of its own."""

    def __init__(self, stream: io.BufferedReader, first: int, length: int) -> None:
        self._stream, self._first, self._length, self._at = stream, first, length, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._length}[whence]
        if origin + offset < 0:
            raise OSError("before the beginning")
        self._at = origin + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        self._stream.seek(self._first + self._at)
        count = max(0, min(len(buffer), self._length - self._at))
        found = self._stream.readinto(memoryview(buffer)[:count])
        self._at += found
        return found
