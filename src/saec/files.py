"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from saec.errors import DataError, SaecError

__all__ = ["sync_directory", "target_name", "whole_file"]

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
