"""Files of numpy: ``.npy`` and ``.npz``."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from saec.errors import CheckpointError
from saec.rows import ArrayRows, FileRows, Rows, rows_of
from saec.sources.archive import Archive, open_archive
from saec.sources.source import Arrays, unreadable

__all__ = ["read_npy", "read_npz"]


def read_npy(path: Path) -> Arrays:
    """One array, named like the file; in Fortran's order it is mapped.

    Raises:
        CheckpointError: it is no ``.npy`` file, truncated, or holds Python objects.
    """
    try:
        # Not np.load, which would open a zip or try a pickle by the file's first bytes.
        return {path.stem: rows_of(np.lib.format.open_memmap(path, mode="r"))}
    except Exception as error:  # a broken header may raise anything
        raise unreadable(path, error) from error


def read_npz(path: Path) -> Arrays:
    """All arrays of an archive; those that are packed are read into memory.

    Raises:
        CheckpointError: it is no ``.npz`` file, truncated, or holds Python objects.
    """
    if not zipfile.is_zipfile(path):
        raise CheckpointError(f"{path}: not an .npz file (no zip archive), or truncated")
    try:
        with open_archive(path.absolute()) as archive:
            return {
                member.filename.removesuffix(".npy"): _member(archive, member)
                for member in archive.opened.infolist()
                if member.filename.endswith(".npy")
            }
    except Exception as error:  # a broken archive may raise anything
        raise unreadable(path, error) from error


def _member(archive: Archive, member: zipfile.ZipInfo) -> Rows:
    if member.compress_type != zipfile.ZIP_STORED:
        with archive.opened.open(member) as packed:
            return ArrayRows(np.lib.format.read_array(packed, allow_pickle=False))
    first = archive.place(member)
    stream = archive.stream
    stream.seek(first)
    version = np.lib.format.read_magic(stream)
    known = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in known:
        raise ValueError(f"{member.filename} is of version {version}, for records")
    shape, fortran, dtype = known[version](stream)
    if dtype.hasobject:
        raise ValueError(f"{member.filename} holds Python objects")
    if any(n < 0 for n in shape):
        raise ValueError(f"{member.filename} has the shape {shape}")
    rows = FileRows(archive.path, stream.tell(), shape or (1,), dtype)
    if rows.offset + rows.nbytes > first + member.file_size:
        raise ValueError(f"{member.filename} is truncated")
    if fortran and rows.ndim > 1 and rows.nbytes:
        return ArrayRows(np.memmap(archive.path, dtype, "r", rows.offset, shape, "F"))
    return rows
