"""Zip archives whose members are stored as they are, and may be read where they lie in the file."""

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

# What damaged bytes make zipfile, zlib and the readers here raise. All else is a fault of ours.
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
    """A zip archive that is a file, or lies in one.

    first: byte of the file at which the archive begins.
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
            ValueError: it takes more than ``most`` bytes, or is packed in a way in which it could
                take any number of bytes before that is noticed.
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
        """The byte of the file at which a member's content begins.

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
        first: byte of it at which the archive begins.
        length: bytes of the archive.
        directory: bytes that the list of its members may take.

    Raises:
        CheckpointError: there is no such file, or it is no regular one.
        OSError, zipfile.BadZipFile: it cannot be opened.
    """
    with open_regular(path, CheckpointError) as file:
        size = os.fstat(file.fileno()).st_size
        window = _FileWindow(file, first, size - first if length is None else length)
        stream = _Bounded(window, directory)
        with zipfile.ZipFile(stream) as opened:
            yield Archive(path, first, opened, stream)


class _Bounded(io.BufferedReader):
    """A stream that gives no more than so many bytes at once: zipfile reads a directory whole."""

    def __init__(self, window: _FileWindow, most: int) -> None:
        super().__init__(window)
        self._length, self._most = window.length, most

    def read(self, size: int | None = -1, /) -> bytes:
        # No more than there is: Python allocates what is asked for before it reads.
        wanted = min(self._most + 1, max(self._length - self.tell(), 0))
        content = super().read(wanted if size is None or size < 0 else min(size, wanted))
        if len(content) > self._most:
            raise zipfile.BadZipFile(f"more than {self._most} bytes in a piece, as of a directory")
        return content


class _FileWindow(io.RawIOBase):
    """A run of bytes of a file as a file of its own."""

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
