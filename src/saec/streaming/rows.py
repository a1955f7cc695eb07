"""Rows of a table, or a vector of frequencies, in memory, in a file or in several files.

Code that streams through a table uses this interface, so that memory, files and shards are
read by the same code.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from hashlib import blake2b
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from saec.errors import CheckpointError

__all__ = ["ArrayRows", "FileRows", "JoinedRows", "Rows", "rows_of"]

_HASHED_BYTES = 1 << 24  # bytes that are hashed at once


class Rows(ABC):
    """Values of one dtype in rows; consecutive rows can be read.

    Args:
        shape: (n, dim) of a table, (n,) of a vector.
        dtype: of the values.
    """

    def __init__(self, shape: Sequence[int], dtype: DTypeLike) -> None:
        self.shape = tuple(shape)
        self.dtype = np.dtype(dtype)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """Two for a table, one for a vector."""
        return len(self.shape)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return len(self) * self.row_bytes

    @property
    def borders(self) -> tuple[int, ...]:
        """First row of each shard, and the number of rows: 0, ..., n."""
        return (0, len(self))

    @property
    def in_order(self) -> bool:
        """Whether reads that do not follow each other take much longer."""
        return False

    @abstractmethod
    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows ``start`` to ``stop``; must not be changed.

        Raises:
            CheckpointError: a file cannot be read, or is shorter than it was.
        """

    @abstractmethod
    def part(self, start: int, stop: int) -> Rows:
        """These rows as a separate object without references to the others."""

    @property
    @abstractmethod
    def identity(self) -> list[Any]:
        """A fingerprint of the rows, as JSON."""


class ArrayRows(Rows):
    """Rows of an array in memory, of any strides."""

    def __init__(self, array: NDArray[Any]) -> None:
        super().__init__(array.shape, array.dtype)
        self.array = array

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """See :class:`Rows`; a view."""
        return self.array[start:stop]

    def part(self, start: int, stop: int) -> ArrayRows:
        """See :class:`Rows`."""
        return ArrayRows(self.array[start:stop])

    @property
    def identity(self) -> list[Any]:
        """Shape, dtype and a hash of all bytes."""
        digest = blake2b(digest_size=16)
        block = max(1, _HASHED_BYTES // max(1, self.row_bytes))
        for start in range(0, len(self), block):
            digest.update(np.ascontiguousarray(self.read(start, start + block)).view(np.uint8).data)
        return ["memory", list(self.shape), self.dtype.name, digest.hexdigest()]


class FileRows(Rows):
    """Consecutive rows in a file.

    Read and not mapped: pages of a map count as memory of the process until the system reclaims
    them, and a pass over a table would touch all of them.

    Args:
        path: of the file.
        offset: of the first row, in bytes.
        shape: (n, dim) or (n,).
        dtype: as stored.
    """

    def __init__(
        self, path: str | os.PathLike[str], offset: int, shape: Sequence[int], dtype: DTypeLike
    ) -> None:
        super().__init__(shape, dtype)
        self.path = Path(path)
        self.offset = offset

    @classmethod
    def of(cls, mapped: np.memmap[Any, Any]) -> FileRows | None:
        """The rows of a map; None if they are not consecutive rows of a file."""
        whole = mapped
        while isinstance(whole.base, np.memmap):
            whole = whole.base
        simple = mapped.flags.c_contiguous and whole.flags.c_contiguous and mapped.size > 0
        if mapped.filename is None or mapped.mode == "c" or not simple:
            return None
        first = mapped.__array_interface__["data"][0] - whole.__array_interface__["data"][0]
        if not 0 <= first <= whole.nbytes - mapped.nbytes:
            return None
        return cls(mapped.filename, whole.offset + first, mapped.shape, mapped.dtype)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """See :class:`Rows`; a copy."""
        start, stop, _ = slice(start, stop).indices(len(self))
        values = np.empty((max(0, stop - start), *self.shape[1:]), dtype=self.dtype)
        left = values.reshape(-1).view(np.uint8).data
        place = self.offset + start * self.row_bytes
        try:
            with self.path.open("rb", buffering=0) as stream:
                while len(left):
                    count = os.preadv(stream.fileno(), [left], place)
                    if not count:
                        raise CheckpointError(f"{self.path} ends at byte {place}; rows are missing")
                    left, place = left[count:], place + count
        except OSError as error:
            raise CheckpointError(f"{self.path}: {error.strerror}") from error
        return values

    def mapped(self) -> NDArray[Any]:
        """All rows, mapped read-only.

        Raises:
            CheckpointError: the file cannot be mapped.
        """
        try:
            return np.memmap(self.path, self.dtype, "r", self.offset, self.shape)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self.path}: {error}") from error

    def part(self, start: int, stop: int) -> FileRows:
        """See :class:`Rows`."""
        start, stop, _ = slice(start, stop).indices(len(self))
        offset = self.offset + start * self.row_bytes
        return FileRows(self.path, offset, (stop - start, *self.shape[1:]), self.dtype)

    @property
    def identity(self) -> list[Any]:
        """Path, offset, and the file's size and modification time."""
        try:
            status = self.path.stat()
        except OSError as error:
            raise CheckpointError(f"{self.path}: {error.strerror}") from error
        place = [self.offset, list(self.shape), self.dtype.name]
        return [str(self.path.resolve()), *place, status.st_size, status.st_mtime_ns]


class JoinedRows(Rows):
    """Shards of a table, one after the other.

    Args:
        shards: at least one; equal in dtype and in all but their number of rows.
    """

    def __init__(self, shards: Sequence[Rows]) -> None:
        first = shards[0]
        for number, shard in enumerate(shards):
            if (shard.dtype, shard.shape[1:]) != (first.dtype, first.shape[1:]):
                raise CheckpointError(
                    f"shard {number} has rows of {shard.dtype} {shard.shape[1:]}, "
                    f"shard 0 of {first.dtype} {first.shape[1:]}"
                )
        self.shards = tuple(shards)
        self._firsts = (0, *accumulate(len(shard) for shard in shards))
        super().__init__((self._firsts[-1], *first.shape[1:]), first.dtype)

    @property
    def borders(self) -> tuple[int, ...]:
        """See :class:`Rows`; includes those inside shards."""
        inner = [
            first + border
            for first, shard in zip(self._firsts, self.shards, strict=False)
            for border in shard.borders[:-1]
            if len(shard)
        ]
        return (*inner, len(self)) if inner else (0, 0)

    @property
    def in_order(self) -> bool:
        """See :class:`Rows`; as for any of the shards."""
        return any(shard.in_order for shard in self.shards)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """See :class:`Rows`; a copy if rows are in several shards."""
        pieces = [shard.read(a, b) for shard, a, b in self._touched(start, stop)]
        if len(pieces) == 1:
            return pieces[0]
        empty = np.empty((0, *self.shape[1:]), self.dtype)
        return np.concatenate(pieces) if pieces else empty

    def part(self, start: int, stop: int) -> Rows:
        """See :class:`Rows`."""
        pieces = [shard.part(a, b) for shard, a, b in self._touched(start, stop)]
        return pieces[0] if len(pieces) == 1 else JoinedRows(pieces or [self.shards[0].part(0, 0)])

    @property
    def identity(self) -> list[Any]:
        """Those of the shards."""
        return [shard.identity for shard in self.shards]

    def _touched(self, start: int, stop: int) -> list[tuple[Rows, int, int]]:
        """Shards that contain some of the rows, and the ranges of rows in them."""
        start, stop, _ = slice(start, stop).indices(len(self))
        return [
            (shard, max(start - first, 0), min(stop - first, len(shard)))
            for first, shard in zip(self._firsts, self.shards, strict=False)
            if max(start, first) < min(stop, first + len(shard))
        ]


def rows_of(values: Rows | NDArray[Any] | ArrayLike) -> Rows:
    """``values`` as rows: unchanged, of the file that they map, or of an array."""
    if isinstance(values, Rows):
        return values
    array = np.asanyarray(values)
    found = FileRows.of(array) if isinstance(array, np.memmap) else None
    return ArrayRows(array) if found is None else found
