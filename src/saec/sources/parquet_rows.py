"""Rows in the row groups of a Parquet file, decoded batch by batch."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saec.errors import CheckpointError, SaecError, require
from saec.streaming.rows import Rows
from saec.util.messages import first_line
from saec.util.regular_file import check_regular, mistaken_for

__all__ = ["Column", "ParquetRows", "open_parquet"]

# Values decoded at a time. Memory grows with this number and not with the row group.
_BATCH_VALUES = 1 << 18
_PAGE_BUFFER_BYTES = 1 << 20  # pages are read through this buffer instead of whole column chunks
_OPEN_READERS = 8

Array = NDArray[Any]


@dataclass(frozen=True)
class Column:
    """Values of a row: ``dim`` in a column of lists or in as many columns; one if ``dim`` is 0."""

    names: tuple[str, ...]
    dtype: np.dtype[Any]
    dim: int


class ParquetRows(Rows):
    """Rows of a Parquet file.

    Args:
        path: of the file.
        column: the columns to read.
        groups: number of rows of each row group of the file.
        first_id: the id of the file's first row, with which a column ``id`` is compared; None if
            there is no such column.
        start: first of these rows in the file.
        stop: end of these rows; the end of the file if None.
    """

    def __init__(
        self,
        path: Path,
        column: Column,
        groups: Sequence[int],
        first_id: int | None,
        start: int = 0,
        stop: int | None = None,
    ) -> None:
        self._firsts = (0, *accumulate(groups))
        self._span = start, self._firsts[-1] if stop is None else stop
        rows = self._span[1] - start
        super().__init__((rows, column.dim) if column.dim else (rows,), column.dtype)
        self.path, self._column, self._first_id = path, column, first_id

    @property
    def borders(self) -> tuple[int, ...]:
        """See :class:`~saec.streaming.rows.Rows`; the first rows of row groups."""
        start, stop = self._span
        inner = {first - start for first in self._firsts if start < first < stop}
        return (0, *sorted(inner), len(self))

    @property
    def in_order(self) -> bool:
        """See :class:`~saec.streaming.rows.Rows`; a row group is decoded from its first row on."""
        return True

    def read(self, start: int, stop: int) -> Array:
        """See :class:`~saec.streaming.rows.Rows`; a copy.

        If the rows follow those read last, here or for another part of the same file, decoding
        continues there.

        Raises:
            CheckpointError: the file is damaged or has changed, or the rows hold nulls, values that
                are not finite, lists of another length, or ids out of order.
        """
        start, stop, _ = slice(start, stop).indices(len(self))
        values = np.empty((max(0, stop - start), *self.shape[1:]), self.dtype)
        first, last = self._span[0] + start, self._span[0] + stop
        for group, (begin, end) in enumerate(zip(self._firsts, self._firsts[1:], strict=False)):
            a, b = max(first, begin), min(last, end)
            if a < b:
                self._read_group(group, a - begin, values[a - first : b - first])
        return values

    def part(self, start: int, stop: int) -> ParquetRows:
        """See :class:`~saec.streaming.rows.Rows`."""
        start, stop, _ = slice(start, stop).indices(len(self))
        groups = np.diff(self._firsts).tolist()
        span = self._span[0] + start, self._span[0] + max(start, stop)
        return ParquetRows(self.path, self._column, groups, self._first_id, *span)

    @property
    def identity(self) -> list[Any]:
        """Path, columns, rows, and the file's size and modification time."""
        names = list(self._column.names)
        return [str(self.path.resolve()), names, *self._span, *_stamp(self.path)]

    def _read_group(self, group: int, start: int, out: Array) -> None:
        """Rows of a row group, from ``start`` on, as many as ``out`` takes."""
        first = self._firsts[group]
        due = None if self._first_id is None else self._first_id + first
        key = (self.path, self._column, group, due, *_stamp(self.path))
        reader = _taken(key, start)
        if reader is None:
            reader = _RowGroupReader(self.path, self._column, group, first, due)
        reader.read(start, out)
        if first + reader.at < self._firsts[group + 1]:
            _keep(key, reader)


class _RowGroupReader:
    """Reads a row group once, from its first row to its last."""

    def __init__(
        self, path: Path, column: Column, group: int, first: int, first_id: int | None
    ) -> None:
        self._path, self._column, self._group = path, column, group
        self._first, self._first_id = first, first_id
        self._blocks = self._decoded()
        self._left: Array | None = None
        self.at = 0

    def read(self, start: int, out: Array) -> None:
        """Skip to row ``start`` of the row group and fill ``out``."""
        stop = start + len(out)
        while self.at < stop:
            block = next(self._blocks, None) if self._left is None else self._left
            if block is None:
                raise CheckpointError(
                    f"{self._path}: row group {self._group} is shorter than it was"
                )
            count = min(len(block), stop - self.at)
            wanted = block[max(0, start - self.at) : count]
            done = max(self.at, start) - start
            out[done : done + len(wanted)] = wanted
            self._left = block[count:] if count < len(block) else None
            self.at += count

    def _decoded(self) -> Iterator[Array]:
        """Blocks of checked rows."""
        names = [*self._column.names, *(["id"] if self._first_id is not None else [])]
        at = 0
        with open_parquet(self._path) as opened:
            for batch in opened.iter_batches(
                batch_size=max(1, _BATCH_VALUES // max(1, self._column.dim)),
                row_groups=[self._group],
                columns=names,
                use_threads=False,
            ):
                yield self._values(batch, at)
                at += batch.num_rows

    def _values(self, batch: Any, at: int) -> Array:
        for name in batch.schema.names:
            self._refuse(
                name, at, batch.column(name).is_null().to_numpy(zero_copy_only=False), "null"
            )
        if self._first_id is not None:
            ids = batch.column("id").to_numpy()
            wrong = ids != np.arange(len(ids), dtype=np.int64) + (self._first_id + at)
            self._refuse(
                "id", at, wrong, "an id out of order; write rows in the order of their ids"
            )
        values: Array
        if self._column.dim == 0:
            values = batch.column(self._column.names[0]).to_numpy()
        elif len(self._column.names) == 1:
            values = self._lists(batch.column(self._column.names[0]), at)
        else:
            values = np.stack(
                [batch.column(name).to_numpy() for name in self._column.names], axis=1
            )
        bad: Array = ~np.isfinite(values).reshape(len(values), -1)
        alone = len(self._column.names) == 1
        for number, name in enumerate(self._column.names):
            own = bad if alone else bad[:, number : number + 1]
            self._refuse(name, at, np.any(own, axis=1), "a value that is not finite")
        return values

    def _lists(self, column: Any, at: int) -> Array:
        dim = self._column.dim
        if not hasattr(column, "flatten"):
            raise CheckpointError(
                f"{self._path}: column {self._column.names[0]!r} holds {column.type}, and no lists"
            )
        if hasattr(column, "value_lengths"):
            lengths = column.value_lengths().to_numpy()
            self._refuse(
                self._column.names[0], at, lengths != dim, f"a list that is not {dim} long"
            )
        flat = column.flatten()
        if flat.null_count:
            nulls = flat.is_null().to_numpy(zero_copy_only=False).reshape(-1, dim).any(axis=1)
            self._refuse(self._column.names[0], at, nulls, "null")
        values: Array = flat.to_numpy(zero_copy_only=False).reshape(-1, dim)
        return values

    def _refuse(self, name: str, at: int, wrong: Array, what: str) -> None:
        if wrong.any():
            row = at + int(np.argmax(wrong))
            raise CheckpointError(
                f"{self._path}: column {name!r} holds {what} in row {row} of row group "
                f"{self._group}, row {self._first + row} of the file"
            )


# Readers stay where they last stopped, so that parts read one after the other continue there.
_readers: OrderedDict[tuple[object, ...], _RowGroupReader] = OrderedDict()
_lock = threading.Lock()


def _taken(key: tuple[object, ...], start: int) -> _RowGroupReader | None:
    """A reader of this thread that has not yet passed row ``start``, if there is one."""
    with _lock:
        reader = _readers.pop(key, None)
    return reader if reader is not None and reader.at <= start else None


def _keep(key: tuple[object, ...], reader: _RowGroupReader) -> None:
    with _lock:
        _readers[key] = reader
        if len(_readers) > _OPEN_READERS:
            _readers.popitem(last=False)


@contextmanager
def open_parquet(path: Path) -> Iterator[Any]:
    """The file; only its footer is read here.

    Raises:
        CheckpointError: it is missing or not a Parquet file, or its content is damaged.
        OptionalDependencyError: pyarrow is not installed.
    """
    check_regular(path, CheckpointError)
    parquet, arrow = require("pyarrow.parquet", "data"), require("pyarrow", "data")
    try:
        with parquet.ParquetFile(path, buffer_size=_PAGE_BUFFER_BYTES, pre_buffer=False) as opened:
            yield opened
    except SaecError:
        raise
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: {first_line(error)}{mistaken_for(path)}") from error


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error
    return status.st_size, status.st_mtime_ns
