"""Count how often each feature occurs: in arrays, in batches, or in the columns of files."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from saec.errors import DataError, IdError, array_of
from saec.tables.log_blocks import column_ids, log_blocks, log_files, log_rows
from saec.util.atomic_file import reserve
from saec.util.progress import bar, track

__all__ = ["count_batches", "count_columns", "count_ids", "unseen_frequency"]

Counts = NDArray[np.int64]

# Larger ids are hashes, not row numbers: counts up to them would take 17 GB and more.
MAX_UNBOUNDED_ID = (1 << 31) - 1


def count_ids(ids: ArrayLike, vocab_size: int) -> Counts:
    """Count feature ids.

    Args:
        ids: integers of any dtype and shape, each in ``[0, vocab_size)``.
        vocab_size: number of features.

    Returns:
        ``(vocab_size,)`` int64 counts.

    Raises:
        IdError: an id is out of range (the first one is named), or ids are not integers.
    """
    counter = _FieldCounts("ids", vocab_size)
    counter.add(ids)
    return counter.counts


def count_batches(
    batches: Iterable[Mapping[str, ArrayLike]],
    vocab_sizes: Mapping[str, int] | None = None,
    progress: bool = True,
) -> dict[str, Counts]:
    """Count feature ids over an iterable of batches ``{field: ids}``.

    Args:
        batches: ids of each field, integers of any dtype and shape. A batch may lack fields.
        vocab_sizes: the fields to count and the number of their features; other entries of a batch
            (labels, dense inputs) are ignored. None counts all, up to the largest id seen.
        progress: show a progress bar.

    Returns:
        ``{field: (vocab_size,) int64}``.

    Raises:
        IdError: an id is out of range, or ids are not integers.
        DataError: a field of ``vocab_sizes`` occurs in no batch, there are no batches, or one is
            not a mapping.
    """
    counters = {name: _FieldCounts(name, size) for name, size in (vocab_sizes or {}).items()}
    seen: dict[str, None] = {}
    for batch in track(batches, description="counting ids", show=progress):
        if not isinstance(batch, Mapping):
            raise DataError(f"a batch is a mapping {{field: ids}}, not {type(batch).__name__}")
        for name, ids in batch.items():
            seen[name] = None
            if vocab_sizes is None and name not in counters:
                counters[name] = _FieldCounts(name, None)
            if name in counters:
                counters[name].add(ids)
    missing = ", ".join(repr(name) for name in counters if name not in seen)
    if missing or not seen:
        found = ", ".join(map(repr, seen)) or "nothing"
        raise DataError(f"no batch holds {missing or 'a field'}; the batches hold {found}")
    return {name: counter.counts for name, counter in counters.items()}


def count_columns(
    paths: str | Path | Sequence[str | Path],
    columns: Mapping[str, str],
    vocab_sizes: Mapping[str, int] | None = None,
    progress: bool = True,
    folder: str | Path | None = None,
) -> dict[str, Counts]:
    """Count feature ids in columns of Parquet or CSV files, a block of rows at a time.

    Columns hold integers, or lists of integers, of which every element counts. Nulls are skipped.

    Args:
        paths: a file, a directory (searched recursively), a pattern with ``*``, or several of
            these. Parquet ends in ``.parquet``, CSV in ``.csv`` or ``.csv.gz``.
        columns: the column with each field's ids, by field name.
        vocab_sizes: number of features by field name; None counts up to the largest id seen.
        progress: show a progress bar of rows.
        folder: keep the counts in new files of this folder, memory-mapped, instead of in memory.
            The files remain. Requires vocab_sizes.

    Returns:
        ``{field: (vocab_size,) int64}``.

    Raises:
        DataError: no such file, an unreadable file, a missing column or one of another type.
        IdError: an id is out of range.
        OptionalDependencyError: pyarrow is not installed.
    """
    files = log_files([paths] if isinstance(paths, str | Path) else paths)
    if not columns:
        raise DataError("no columns were given to count")
    if vocab_sizes is not None and set(vocab_sizes) != set(columns):
        odd = ", ".join(map(repr, sorted(set(vocab_sizes) ^ set(columns))))
        raise DataError(f"columns and vocab_sizes must name the same fields; they differ in {odd}")
    if folder is not None and vocab_sizes is None:
        raise DataError("counts in a folder need vocab_sizes")
    counters = {
        name: _FieldCounts(name, None if vocab_sizes is None else vocab_sizes[name], folder)
        for name in columns
    }
    wanted = list(dict.fromkeys(columns.values()))
    with bar("counting ids", log_rows(files), progress) as rows:
        for file in files:
            for block in log_blocks(file, wanted):
                for name, column in columns.items():
                    counters[name].add(column_ids(file, column, block.column(column)))
                rows.advance(block.num_rows)
    return {name: counter.counts for name, counter in counters.items()}


def unseen_frequency(counts: ArrayLike) -> float:
    """Expected occurrences of features never seen, in a log as long as the one counted.

    Good-Turing estimate: unseen features together have probability n1 / N, where n1 is the number
    of features seen exactly once (I. J. Good, The population frequencies of species and the
    estimation of population parameters, Biometrika 40, 1953). So n1 is the frequency of the row
    that all of them share. It is at least 1, because that row is used as soon as a new feature
    occurs.
    """
    return max(1.0, float(np.count_nonzero(np.asarray(counts) == 1)))


class _FieldCounts:
    """Counts of one field; the array grows with the ids if the size of the vocabulary is not
    known."""

    def __init__(self, name: str, vocab_size: int | None, folder: str | Path | None = None) -> None:
        if vocab_size is not None and not _is_size(vocab_size):
            raise IdError(
                f"{name!r} has a vocabulary of {vocab_size!r}; it must be at least 1, and whole"
            )
        self._name = name
        self._fixed = vocab_size is not None
        self._limit = MAX_UNBOUNDED_ID + 1 if vocab_size is None else vocab_size
        self._counts = _zeros(vocab_size or 0, folder)
        self._size = vocab_size or 0

    @property
    def counts(self) -> Counts:
        return self._counts[: self._size]

    def add(self, given: ArrayLike) -> None:
        ids = _array(self._name, given)
        if ids.size == 0:
            return
        if ids.dtype.kind not in "iu":
            raise IdError(f"{self._name!r}: ids must be integers, not {ids.dtype}")
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= self._limit:
            self._refuse(ids)
        self._grow(high + 1)
        # Not bincount: it would scan the whole vocabulary for each small block of ids.
        np.add.at(self._counts, ids.astype(np.intp, copy=False), 1)

    def _grow(self, size: int) -> None:
        if size > len(self._counts):
            larger = _zeros_in_memory(max(size, 2 * len(self._counts)))
            larger[: self._size] = self.counts
            self._counts = larger
        self._size = max(self._size, size)

    def _refuse(self, ids: NDArray[Any]) -> None:
        bad = int(ids[(ids < 0) | (ids >= self._limit)].flat[0])
        if self._fixed or bad < 0:
            valid = f"0 to {self._limit - 1}" if self._fixed else "0 or more"
            raise IdError(f"{self._name!r}: id {bad} is out of range; ids go from {valid}")
        raise IdError(
            f"{self._name!r}: id {bad} is above {MAX_UNBOUNDED_ID}; give a vocab_size, or map "
            "hashed values to 0, 1, 2, ... first"
        )


def _is_size(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and int(value) > 0


def _array(name: str, ids: ArrayLike) -> NDArray[Any]:
    return np.asarray(array_of(ids, f"{name!r}: ids", IdError))


def _zeros(size: int, folder: str | Path | None) -> Counts:
    """``size`` zeros in memory, or in a new file of ``folder``."""
    if folder is None:
        return _zeros_in_memory(size)
    path = Path(folder) / f"counts-{secrets.token_hex(8)}"
    try:
        with path.open("x+b") as file:
            reserve(file, 8 * size, Path(folder))
            return np.memmap(path, np.int64, "r+", shape=(size,))
    except BaseException as error:
        with suppress(OSError):
            path.unlink()
        if isinstance(error, OSError):
            raise DataError(f"cannot write to {folder}: {error.strerror}") from error
        raise


def _zeros_in_memory(size: int) -> Counts:
    try:
        return np.zeros(size, np.int64)
    except (MemoryError, ValueError) as error:
        raise IdError(f"counts of {size} features take {8 * size} bytes of memory") from error
