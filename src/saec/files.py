"""Files that are written whole or not at all."""

from __future__ import annotations

import mmap
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from saec.errors import DataError, SaecError

__all__ = ["let_go", "sync_directory", "target_name", "whole_file"]

_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{16}\.part", re.DOTALL)


@contextmanager
def whole_file(
    path: str | os.PathLike[str], failure: type[SaecError] = DataError
) -> Iterator[BinaryIO]:
    """A stream into a sibling temporary file, which takes the place of ``path`` at the end.

    Several may write the same file at once, from several machines: the last one's stays.

    Raises:
        SaecError: of the kind ``failure``: the file cannot be written; ``path`` is as it was.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.part")
    try:
        with temporary.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(target)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise failure(f"cannot write {target}: {error.strerror}") from error
        raise
    sync_directory(target.parent)


def target_name(file: Path) -> str:
    """The name that a temporary file of :func:`whole_file` was to get; another file's own name."""
    found = _TEMPORARY.fullmatch(file.name)
    return found[1] if found else file.name


def sync_directory(directory: Path) -> None:
    """Have what its files are called now survive a power cut."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def let_go(array: NDArray[Any]) -> None:
    """Have the pages of a file that ``array`` maps no longer count as memory of this process.

    Nothing changes in the array or the file; pages come back as they are needed. Arrays that map no
    file, or whose changes the file does not get, stay as they are, and so does what has gaps.
    """
    whole = array
    while isinstance(whole.base, np.ndarray):
        whole = whole.base
    pages: object = whole.base
    if not isinstance(whole, np.memmap) or not isinstance(pages, mmap.mmap) or whole.mode == "c":
        return
    # A map begins at a page, and so before what numpy shows of it.
    start = _address(array) - _address(whole) + whole.offset % mmap.ALLOCATIONGRANULARITY
    first = start // mmap.PAGESIZE * mmap.PAGESIZE
    if array.size and array.flags.c_contiguous:
        pages.madvise(mmap.MADV_DONTNEED, first, start - first + array.nbytes)


def _address(array: NDArray[Any]) -> int:
    address: int = array.__array_interface__["data"][0]
    return address
