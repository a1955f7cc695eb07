"""Safe opening of untrusted files: regular files only, and never more bytes than a limit.

A path may lead to a device, or to a pipe on which a reader waits forever, and a file may claim
any size. Every reader of files opens them here.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from saec.errors import SaecError

__all__ = ["check_header", "check_regular", "mistaken_for", "open_regular", "read_regular"]

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)

# First bytes of files that are often found in place of others, their kinds, and where they fit.
_SNIFFED = 512  # bytes
_BEGINNINGS = (
    (b"version https://git-lfs.github.com/spec/", "a Git LFS pointer; run 'git lfs pull'"),
    (b"<!doctype html", "an HTML page; the download has failed"),
    (b"<html", "an HTML page; the download has failed"),
    (b"<?xml", "an XML text; the download may have failed"),
    (b"PK\3\4", "a zip archive", ".npz", ".pt", ".pth", ".bin", ".ckpt"),
    (b"\x1f\x8b", "packed by gzip"),
    (b"\x28\xb5\x2f\xfd", "packed by zstd"),
    (b"\x89HDF\r\n", "an HDF5 file"),
    (b"PAR1", "a Parquet file", ".parquet"),
    (b"\x93NUMPY", "an .npy file", ".npy"),
)


def check_regular(path: str | os.PathLike[str], failure: type[SaecError]) -> int:
    """The size in bytes of the regular file ``path``; links are followed.

    Raises:
        SaecError: of the kind ``failure``: there is no file, or it is a folder, a pipe, a socket or
            a device; the message names the kind.
    """
    try:
        held = Path(path).stat()
    except FileNotFoundError as error:
        raise failure(f"{path}: no such file") from error
    except OSError as error:
        raise failure(f"{path}: {error.strerror}") from error
    except ValueError as error:  # a null byte
        raise failure(f"{os.fspath(path)!r} is no name of a file: {error}") from error
    if not stat.S_ISREG(held.st_mode):
        kind = next((name for check, name in _KINDS if check(held.st_mode)), "something else")
        raise failure(f"{path} is {kind}, not a regular file")
    return held.st_size


@contextmanager
def open_regular(path: str | os.PathLike[str], failure: type[SaecError]) -> Iterator[BinaryIO]:
    """A regular file, open for reading.

    Raises:
        SaecError: of the kind ``failure``: see :func:`check_regular`, or it cannot be opened.
    """
    check_regular(path, failure)
    try:
        # The file may have been replaced by a pipe since; opening that would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise failure(f"{path}: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as stream:
        yield stream


def read_regular(path: str | os.PathLike[str], most: int, failure: type[SaecError]) -> bytes:
    """All bytes of a regular file.

    Raises:
        SaecError: of the kind ``failure``: see :func:`open_regular`, or there are more than
            ``most`` bytes.
    """
    with open_regular(path, failure) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > most:
            raise failure(f"{path} takes {size} bytes; the limit for such a file is {most}")
        try:
            # Not the limit: Python allocates the requested bytes before it reads.
            return stream.read(size)
        except OSError as error:
            raise failure(f"{path}: {error.strerror}") from error


def check_header(path: str | os.PathLike[str], most: int, failure: type[SaecError]) -> None:
    """Raise ``failure`` if a safetensors file is not a regular file, or has a header of over
    ``most`` bytes."""
    with open_regular(path, failure) as stream:
        size = int.from_bytes(stream.read(8), "little")
    if most < size <= check_regular(path, failure):
        raise failure(f"{path}: a header of {size} bytes; at most {most} are read")


def mistaken_for(path: str | os.PathLike[str]) -> str:
    """The kind of a file by its first bytes, for the end of a message about a failed read.

    Returns:
        ``"; it is ..."``, or nothing if the kind is unknown.
    """
    try:
        with open_regular(path, SaecError) as stream:
            begin = stream.read(_SNIFFED)
    except (SaecError, OSError):
        return ""
    text = begin.removeprefix(b"\xef\xbb\xbf").lstrip()
    suffix = Path(path).suffix
    found = (
        what
        for said, what, *right in _BEGINNINGS
        if text[: len(said)].lower() == said.lower() and suffix not in right
    )
    what = "empty" if not begin else next(found, "")
    return what and f"; {Path(path).name} is {what}"
