"""Files of numpy: ``.npy`` and ``.npz``."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from saec.errors import CheckpointError
from saec.sources.archive import DAMAGED, Archive, open_archive
from saec.sources.source import Arrays, unreadable
from saec.streaming.rows import ArrayRows, FileRows, Rows, rows_of
from saec.util.messages import first_line
from saec.util.regular_file import check_regular, mistaken_for

__all__ = ["MOST_PACKED_BYTES", "read_npy", "read_npz"]

MOST_PACKED_BYTES = 1 << 30  # of all packed arrays of an archive


def read_npy(path: Path) -> Arrays:
    """One array, named like the file; in Fortran order it is mapped.

    Raises:
        CheckpointError: it is not a ``.npy`` file, truncated, or holds Python objects.
    """
    check_regular(path, CheckpointError)
    try:
        # Not np.load, which would open a zip or a pickle, depending on the file's first bytes.
        mapped = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # numpy's reader may raise any error for a damaged header
        raise unreadable(path, error) from error
    return {path.stem: rows_of(mapped)}


def read_npz(path: Path) -> Arrays:
    """All arrays of an archive; packed ones are read into memory.

    Raises:
        CheckpointError: it is not a ``.npz`` file, truncated, or holds Python objects.
    """
    check_regular(path, CheckpointError)
    if not zipfile.is_zipfile(path):
        said = mistaken_for(path)
        raise CheckpointError(f"{path}: not an .npz file (no zip archive), or truncated{said}")
    try:
        with open_archive(path.absolute()) as archive:
            members = [m for m in archive.opened.infolist() if m.filename.endswith(".npy")]
            _check_packed(members)
            return {m.filename.removesuffix(".npy"): _member(archive, m) for m in members}
    except DAMAGED as error:
        raise unreadable(path, error) from error


def _check_packed(members: Sequence[zipfile.ZipInfo]) -> None:
    packed = sum(m.file_size for m in members if m.compress_type != zipfile.ZIP_STORED)
    if packed > MOST_PACKED_BYTES:
        raise ValueError(
            f"packed arrays of {packed} bytes, which would all be read into memory; the limit is "
            f"{MOST_PACKED_BYTES}; write them with numpy.savez, which does not pack"
        )


def _member(archive: Archive, member: zipfile.ZipInfo) -> Rows:
    if member.compress_type != zipfile.ZIP_STORED:
        return _packed(archive, member)
    first = archive.place(member)
    stream = archive.stream
    stream.seek(first)
    shape, fortran, dtype = _header(stream, member.filename)
    rows = FileRows(archive.path, archive.first + stream.tell(), shape or (1,), dtype)
    if rows.offset + rows.nbytes > archive.first + first + member.file_size:
        raise ValueError(f"{member.filename} is truncated")
    if fortran and rows.ndim > 1 and rows.nbytes:
        return ArrayRows(np.memmap(archive.path, dtype, "r", rows.offset, shape, "F"))
    return rows


def _packed(archive: Archive, member: zipfile.ZipInfo) -> Rows:
    stream = BytesIO(archive.read(member, MOST_PACKED_BYTES))
    shape, fortran, dtype = _header(stream, member.filename)
    values = stream.getbuffer()[stream.tell() :]
    if math.prod(shape) * dtype.itemsize > len(values):
        raise ValueError(f"{member.filename} is truncated")
    array = np.ndarray(shape, dtype, values, order="F" if fortran else "C")
    return ArrayRows(array if shape else array.reshape(1))


def _header(stream: BinaryIO, name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, order and dtype of an array; afterwards the stream is at its values."""
    known = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    try:
        version = np.lib.format.read_magic(stream)
        read = known.get(version)
        shape, fortran, dtype = ((), False, np.dtype(np.void)) if read is None else read(stream)
    except Exception as error:  # numpy's reader may raise any error for a damaged header
        raise ValueError(first_line(error)) from error
    if version not in known:
        raise ValueError(f"{name} is of version {version}, for records")
    if dtype.hasobject:
        raise ValueError(f"{name} holds Python objects")
    if any(n < 0 for n in shape):
        raise ValueError(f"{name} has the shape {shape}")
    return shape, fortran, dtype
