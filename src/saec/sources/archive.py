"""Zip archives whose members may be stored uncompressed and then are read directly in the file."""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from saec.errors import CheckpointError
from saec.util.regular_file import open_regular

__all__ = ["DAMAGED", "Archive", "open_archive"]

# Errors of zipfile, zlib and the readers here for damaged bytes. All others are bugs.
DAMAGED = (
    ValueError,
    OSError,
    EOFError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)

_PIECE = 1 << 15  # bytes that are unpacked at once

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, ..., lengths of the name and the extra field


@dataclass(frozen=True, eq=False)
class Archive:
    """A zip archive in a file, possibly as a part of it.

    first: first byte of the archive in the file.
    """

    path: Path
    first: int
    opened: zipfile.ZipFile
    stream: BinaryIO

    def member(self, name: str) -> zipfile.ZipInfo:
        """The member of this name.

        Raises:
            ValueError: there is none.
        """
        if name not in self.opened.NameToInfo:
            raise ValueError(f"there is no {name!r} in it")
        return self.opened.getinfo(name)

    def read(self, member: zipfile.ZipInfo | str, most: int) -> bytearray:
        """A member's content, unpacked.

        Raises:
            ValueError: it takes more than ``most`` bytes, or its compression method could produce
                any number of bytes before this is detected.
        """
        info = self.member(member) if isinstance(member, str) else member
        if info.file_size > most:
            raise ValueError(f"{info.filename} takes {info.file_size} bytes; the limit is {most}")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{info.filename} is packed otherwise than by deflate")
        content = bytearray()
        with self.opened.open(info) as packed:
            while len(content) <= info.file_size and (piece := packed.read(_PIECE)):
                content += piece
        if len(content) != info.file_size:
            raise ValueError(f"{info.filename} takes other than {info.file_size} bytes")
        return content

    def place(self, member: zipfile.ZipInfo) -> int:
        """The first byte of a member's content in the file.

        Raises:
            ValueError: it is packed or encrypted, or not within the archive.
        """
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
            raise ValueError(f"{member.filename} is packed or encrypted")
        # Lengths here differ from those in the archive's directory: writers pad for alignment.
        self.stream.seek(member.header_offset)
        header = self.stream.read(_LOCAL_HEADER.size)
        if len(header) < _LOCAL_HEADER.size:
            raise ValueError(f"{member.filename} is not where the directory says")
        signature, name, extra = _LOCAL_HEADER.unpack(header)
        begin = int(member.header_offset + _LOCAL_HEADER.size + name + extra)
        if signature != b"PK\3\4" or begin + member.file_size > self.stream.seek(0, os.SEEK_END):
            raise ValueError(f"{member.filename} is not where the directory says")
        return self.first + begin


@contextmanager
def open_archive(
    path: Path, first: int = 0, length: int | None = None, directory: int = 64 << 20
) -> Iterator[Archive]:
    """Open the archive in ``length`` bytes from ``first`` on; a whole file if None.

    Args:
        path: of the file.
        first: first byte of the archive in the file.
        length: bytes of the archive.
        directory: limit of the bytes of the list of members.

    Raises:
        CheckpointError: there is no such file, or it is not a regular one.
        OSError, zipfile.BadZipFile: it cannot be opened.
    """
    with open_regular(path, CheckpointError) as file:
        size = os.fstat(file.fileno()).st_size
        window = _FileWindow(file, first, size - first if length is None else length)
        stream = _Bounded(window, directory)
        with zipfile.ZipFile(stream) as opened:
            yield Archive(path, first, opened, stream)


class _Bounded(io.BufferedReader):
    """A stream with a limit of the bytes per read, because zipfile reads a directory at once."""

    def __init__(self, window: _FileWindow, most: int) -> None:
        super().__init__(window)
        self._length, self._most = window.length, most

    def read(self, size: int | None = -1, /) -> bytes:
        # No more than there is, because Python allocates the requested bytes before it reads.
        wanted = min(self._most + 1, max(self._length - self.tell(), 0))
        content = super().read(wanted if size is None or size < 0 else min(size, wanted))
        if len(content) > self._most:
            raise zipfile.BadZipFile(f"more than {self._most} bytes in a piece, as of a directory")
        return content


class _FileWindow(io.RawIOBase):
    """Consecutive bytes of a file as a file object."""

    def __init__(self, stream: BinaryIO, first: int, length: int) -> None:
        self._stream, self._first, self.length, self._at = stream, first, length, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.length}[whence]
        if origin + offset < 0:
            raise OSError("before the beginning")
        self._at = origin + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        self._stream.seek(self._first + self._at)
        count = max(0, min(len(buffer), self.length - self._at))
        found = self._stream.read(count)
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)
