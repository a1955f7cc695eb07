"""Records of a fixed size that are appended and read again: in memory, or in a file."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import DTypeLike, NDArray

from saec.errors import ArtifactError
from saec.util.atomic_file import cause

__all__ = ["Records"]


class Records:
    """Records in the order in which they are appended; :meth:`close` frees them.

    Args:
        dtype: of a record, without padding that matters.
        folder: of a file without a name, which the system removes, however the process ends. It is
            read and written, not mapped: pages of a map count as memory of the process. None for
            memory.
    """

    def __init__(self, dtype: DTypeLike, folder: Path | None = None) -> None:
        self.dtype = np.dtype(dtype)
        self.borders = [0]  # of the blocks as they were appended
        self._folder = folder
        with self._failing("write to"):
            made = io.BytesIO() if folder is None else tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self._stream = cast(io.BufferedRandom, made)

    def close(self) -> None:
        """Free them."""
        with suppress(OSError):  # of a full disk, to which nothing more needs to be written
            self._stream.close()

    def __len__(self) -> int:
        return self.borders[-1]

    def append(self, records: NDArray[Any]) -> None:
        """Append ``records`` (n,).

        Raises:
            ArtifactError: the disk is full, or fails.
        """
        own = np.ascontiguousarray(records, self.dtype)
        with self._failing("write to"):
            self._stream.seek(0, io.SEEK_END)
            self._stream.write(own.view(np.uint8).data)
            self._stream.flush()
        self.borders.append(len(self) + len(own))

    def read(self, spans: Iterable[tuple[int, int]]) -> NDArray[Any]:
        """The records of all ``spans``, each from a first one to before a last one.

        Raises:
            ArtifactError: the disk fails.
        """
        wanted = [(first, last) for first, last in spans if first < last]
        found = np.empty(sum(last - first for first, last in wanted), self.dtype)
        left, size = found.view(np.uint8).data, self.dtype.itemsize
        with self._failing("read from"):
            for first, last in wanted:
                self._stream.seek(first * size)
                count = self._stream.readinto(left[: (last - first) * size])
                assert count == (last - first) * size, "nobody else writes to the file"
                left = left[count:]
        return found

    def blocks(self) -> Iterator[NDArray[Any]]:
        """All records, in blocks as they were appended."""
        for span in pairwise(self.borders):
            yield self.read([span])

    @contextmanager
    def _failing(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            folder = self._folder or Path()
            raise ArtifactError(f"cannot {what} {folder}: {cause(error, folder)}") from error
