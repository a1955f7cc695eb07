"""Atomic writing of files."""

from __future__ import annotations

import errno
import mmap
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from saec.errors import DataError, SaecError
from saec.util.raw_stream import whole_writes
from saec.util.remote_file import as_url, check_url, local, upload

__all__ = [
    "cause",
    "checked_target",
    "followed",
    "let_go",
    "readable_file",
    "reserve",
    "sync_directory",
    "take_status",
    "target_name",
    "whole_file",
]

# Errors of file systems that cannot reserve space.
_CANNOT_RESERVE = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_ZEROS = bytes(1 << 20)

_KINDS = {
    stat.S_IFBLK: "a block device",
    stat.S_IFCHR: "a character device",
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
}

_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{16}\.part", re.DOTALL)


@contextmanager
def whole_file(
    path: str | os.PathLike[str] | BinaryIO, failure: type[SaecError] = DataError
) -> Iterator[BinaryIO]:
    """Yield a stream into a temporary file beside ``path``, which replaces ``path`` at the end.

    Several processes, also on several machines, may write the same file at once: the last one wins.
    A symbolic link is followed. An existing file keeps its mode and owner; a new one follows the
    umask. For a URL, the file is uploaded at the end. A stream is written directly.

    Raises:
        SaecError: of the kind ``failure``: the file cannot be written, or ``path`` is not a regular
            file; ``path`` is unchanged.
        OptionalDependencyError: ``path`` is a URL, and fsspec cannot open it.
    """
    if not isinstance(path, str | os.PathLike):
        with _into_stream(path, failure):
            yield whole_writes(path)
        return
    url = as_url(path)
    if url is None:
        with _replacing(checked_target(path, failure), failure) as stream:
            yield stream
        return
    check_url(url, failure)
    with tempfile.TemporaryDirectory(prefix="saec-") as folder:
        made = Path(folder, "made")
        with _replacing(made, failure) as stream:
            yield stream
        upload(made, url, failure)


@contextmanager
def _into_stream(stream: BinaryIO, failure: type[SaecError]) -> Iterator[None]:
    """Convert errors of a stream into ``failure``; what is no stream for bytes fails at once."""
    try:
        try:
            stream.write(b"")
        except (AttributeError, TypeError) as error:
            raise failure(
                f"give a path or a binary stream to write to, not {type(stream).__name__}"
            ) from error
        except ValueError as error:  # it is closed
            raise failure(f"cannot write to the stream: {error}") from error
        yield
    except OSError as error:
        raise failure(f"cannot write to the stream: {error.strerror or error}") from error


@contextmanager
def _replacing(target: Path, failure: type[SaecError]) -> Iterator[BinaryIO]:
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.part")
    try:
        with temporary.open("xb") as stream:
            yield stream
            stream.flush()
            take_status(temporary, target)
            os.fsync(stream.fileno())
        temporary.replace(target)
    except BaseException as error:
        why = cause(error, target.parent) if isinstance(error, OSError) else ""
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise failure(f"cannot write {target}: {why}") from error
        raise
    sync_directory(target.parent)


@contextmanager
def readable_file(
    source: str | os.PathLike[str] | bytes | BinaryIO, failure: type[SaecError] = DataError
) -> Iterator[Path]:
    """Yield a local file with the content of a path, URL, bytes or stream.

    Raises:
        SaecError: of the kind ``failure``: ``source`` cannot be read, or is none of these.
        OptionalDependencyError: ``source`` is a URL, and fsspec cannot open it.
    """
    if isinstance(source, str | os.PathLike):
        yield local(source, failure)
        return
    try:
        content = source.read() if hasattr(source, "read") else source
    except (OSError, ValueError) as error:  # also if it is closed
        raise failure(f"cannot read the stream: {error}") from error
    if not isinstance(content, bytes | bytearray | memoryview):
        raise failure(f"give a path, bytes or a binary stream, not {type(content).__name__}")
    # Memory maps of the file stay valid without its name.
    with tempfile.NamedTemporaryFile(prefix="saec-") as file:
        try:
            file.write(content)
            file.flush()
        except OSError as error:
            why = cause(error, Path(file.name).parent)
            raise failure(f"cannot write {len(content)} bytes to {file.name}: {why}") from error
        yield Path(file.name)


def checked_target(path: str | os.PathLike[str], failure: type[SaecError] = DataError) -> Path:
    """The file that writing to ``path`` creates or replaces: ``path``, or the target of a link.

    Nothing is opened, so a named pipe does not block. A URL is returned unchanged.

    Raises:
        SaecError: of the kind ``failure``: ``path`` is not a regular file but, for example, a
            device, which a new file must not replace.
    """
    if as_url(path) is not None:
        return Path(path)
    try:
        mode = Path(path).stat().st_mode
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        why = getattr(error, "strerror", None) or error
        raise failure(f"cannot write {os.fspath(path)}: {why}") from error
    else:
        if not stat.S_ISREG(mode):
            kind = _KINDS.get(stat.S_IFMT(mode), "a special file")
            raise failure(f"cannot write {os.fspath(path)}: it is {kind}")
    return followed(path)


def followed(path: str | os.PathLike[str]) -> Path:
    """``path``, or the target of a symbolic link."""
    target = Path(path)
    return Path(os.path.realpath(target)) if target.is_symlink() else target


def reserve(
    file: BinaryIO, nbytes: int, folder: Path, failure: type[SaecError] = DataError
) -> None:
    """Make the empty ``file`` one of ``nbytes`` zeros with reserved space on the disk.

    Writing to a map of a sparse file ends the process with SIGBUS when the disk is full. On file
    systems that cannot reserve space the zeros are written. On copy-on-write file systems (ZFS,
    compressed btrfs) neither is a guarantee.

    Args:
        file: open for reading and writing.
        nbytes: size of the file.
        folder: of the file, for the error.
        failure: the kind of the error.

    Raises:
        SaecError: there is not enough space; names the space that there is.
    """
    free = _free(folder)
    try:
        _allocate(file.fileno(), nbytes)
    except OSError as error:
        raise failure(
            f"cannot write {nbytes} bytes to {folder}: {error.strerror}; {free} bytes are free"
        ) from error


def cause(error: OSError, folder: Path) -> str:
    """The reason why a file of ``folder`` cannot be written, for a message; the free space if
    full."""
    why = error.strerror or str(error)
    return f"{why}; {_free(folder)} bytes are free" if error.errno in _NO_SPACE else why


def _allocate(handle: int, nbytes: int) -> None:
    try:
        os.posix_fallocate(handle, 0, nbytes)
    except AttributeError:  # macOS
        _write_zeros(handle, nbytes)
    except OSError as error:
        if error.errno not in _CANNOT_RESERVE:
            raise
        _write_zeros(handle, nbytes)


def _write_zeros(handle: int, nbytes: int) -> None:
    place = 0
    while place < nbytes:
        place += os.pwrite(handle, _ZEROS[: nbytes - place], place)


def _free(folder: Path) -> int:
    try:
        found = os.statvfs(folder)
    except OSError:
        return 0
    return found.f_bavail * found.f_frsize


def take_status(made: Path, existing: Path) -> None:
    """Give a file that replaces ``existing`` its mode and, as far as permitted, its owner."""
    try:
        status = existing.stat()
    except FileNotFoundError:
        return
    with suppress(OSError):
        os.chown(made, status.st_uid, status.st_gid)
    made.chmod(stat.S_IMODE(status.st_mode) & 0o777)


def target_name(file: Path) -> str:
    """The final name of a temporary file of :func:`whole_file`; for another file, its own name."""
    found = _TEMPORARY.fullmatch(file.name)
    return found[1] if found else file.name


def sync_directory(directory: Path) -> None:
    """Make the present names of the folder's files durable across a power failure."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def let_go(array: NDArray[Any]) -> None:
    """Release the pages of a mapped file behind ``array``, which count as memory of this process.

    Array and file do not change; pages are read again when needed. Arrays that do not map a
    file, private copies of one, and arrays with gaps are left alone.
    """
    whole = array
    while isinstance(whole.base, np.ndarray):
        whole = whole.base
    pages: object = whole.base
    if not isinstance(whole, np.memmap) or not isinstance(pages, mmap.mmap) or whole.mode == "c":
        return
    # A map begins at a page, before the first byte of the numpy array.
    start = _address(array) - _address(whole) + whole.offset % mmap.ALLOCATIONGRANULARITY
    first = start // mmap.PAGESIZE * mmap.PAGESIZE
    if array.size and array.flags.c_contiguous:
        pages.madvise(mmap.MADV_DONTNEED, first, start - first + array.nbytes)


def _address(array: NDArray[Any]) -> int:
    address: int = array.__array_interface__["data"][0]
    return address
