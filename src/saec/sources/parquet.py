"""Parquet: one row per feature, with its vector, its frequency and, if present, its id."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from saec.errors import CheckpointError, require
from saec.sources.parquet_rows import Column, ParquetRows, open_parquet
from saec.sources.source import Arrays, Source
from saec.streaming.rows import JoinedRows, Rows
from saec.util.messages import listed

__all__ = ["read_parquet"]

ID, FREQUENCY, VECTOR = "id", "frequency", "vector"

# Lists of a fixed length take no bytes of the file if rows are null or equal.
MOST_DIM = 1 << 20

_PART = re.compile(r"(?P<prefix>.*\D)?(?P<number>\d+)", re.DOTALL)


@dataclass(frozen=True)
class _ColumnLayout:
    """The columns of a file; all files of a table are alike."""

    vector: Column | None
    frequency: Column | None
    has_ids: bool
    names: tuple[str, ...] = field(compare=False)

    def __str__(self) -> str:
        columns = [column for column in (self.vector, self.frequency) if column is not None]
        words = [f"{c.names[0]} {c.dtype}" + (f" x {c.dim}" if c.dim else "") for c in columns]
        return ", ".join((["ids"] if self.has_ids else []) + words)


@dataclass(frozen=True)
class _File:
    """A file with rows. groups: rows of its row groups; first_id: None if it has no ids."""

    path: Path
    layout: _ColumnLayout
    groups: tuple[int, ...]
    first_id: int | None


def read_parquet(tables: dict[str, list[Path]]) -> Source:
    """Tables, frequencies or both; only the files' footers and first rows are read.

    The vector is the column ``vector``, or the only column of lists, or otherwise the columns that
    are named by a prefix and 0, 1, ..., dim - 1. The frequency is the column ``frequency``. Ids, in
    a column ``id``, must be 0, 1, 2, ... in the order of the rows; the first of each file is
    checked here, the others when rows are read.

    Args:
        tables: for each name, its files in the order of their rows.

    Raises:
        CheckpointError: a file is damaged, a column is missing or of another type, or ids are not
            in order.
        OptionalDependencyError: pyarrow is not installed.
    """
    arrays: Arrays = {}
    counts: Arrays = {}
    read: dict[str, list[Path]] = {}
    for name, paths in tables.items():
        files = _files(paths)
        read[name] = [file.path for file in files]
        layout = files[0].layout
        if layout.vector is not None:
            arrays[name] = _rows(files, layout.vector)
        if layout.frequency is not None:
            counts[name] = _rows(files, layout.frequency)
    reason = "" if arrays else _no_vectors(files[0].path, layout.names)
    return Source(arrays, counts, len(tables) == 1, reason, files=read)


def _rows(files: Sequence[_File], column: Column) -> Rows:
    parts = [ParquetRows(f.path.absolute(), column, f.groups, f.first_id) for f in files]
    return parts[0] if len(parts) == 1 else JoinedRows(parts)


def _files(paths: Sequence[Path]) -> list[_File]:
    """The files that have rows, checked to be shards of one table."""
    files: list[_File] = []
    first_id = 0
    for path in paths:
        with open_parquet(path) as opened:
            groups = [opened.metadata.row_group(i).num_rows for i in range(opened.num_row_groups)]
            if not sum(groups):
                continue
            layout = _layout(path, opened)
            if layout.has_ids:
                _check_first_id(path, opened, first_id)
        files.append(_File(path, layout, tuple(groups), first_id if layout.has_ids else None))
        first_id += sum(groups)
        _check_alike(files[0], files[-1])
    if not files:
        raise CheckpointError(f"{paths[0].parent}: {listed(path.name for path in paths)}: no rows")
    return files


def _check_alike(first: _File, other: _File) -> None:
    """Shards of one table have the same columns; without ids, their names differ in numbers."""
    if other.layout != first.layout:
        raise CheckpointError(
            f"{other.path}: holds {other.layout}, but {first.path}: {first.layout}; "
            "a table's files must be alike"
        )
    if first.first_id is None and not _prefix(first.path) == _prefix(other.path):
        raise CheckpointError(
            f"{other.path}: {first.path.name} and {other.path.name} do not look like shards of one "
            "table; give each table a folder of its own, or a table in several files a column "
            f"{ID!r}"
        )


def _prefix(path: Path) -> str:
    """The text before the first number, and before the suffix."""
    return re.split(r"\d", path.stem, maxsplit=1)[0]


def _no_vectors(path: Path, names: Sequence[str]) -> str:
    return (
        f"{path}: no vectors: neither a column {VECTOR!r}, nor a single column of lists, nor "
        f"columns like v0, v1, ...; there are {listed(names)}"
    )


def _layout(path: Path, opened: Any) -> _ColumnLayout:
    schema = opened.schema_arrow
    twice = [name for name in schema.names if schema.names.count(name) > 1]
    if twice:
        raise CheckpointError(
            f"{path}: {len(twice)} columns are named {listed(sorted(set(twice)))}"
        )
    types = dict(zip(schema.names, schema.types, strict=True))
    has_ids = ID in types
    if has_ids and not require("pyarrow", "data").types.is_integer(types[ID]):
        raise CheckpointError(f"{path}: column {ID!r} holds {types[ID]}, not integers")
    frequency = None
    if FREQUENCY in types:
        frequency = Column((FREQUENCY,), _dtype(path, FREQUENCY, types[FREQUENCY], "iuf"), 0)
    vector = _vector(path, opened, types)
    if vector is None and frequency is None:
        raise CheckpointError(_no_vectors(path, schema.names))
    return _ColumnLayout(vector, frequency, has_ids, tuple(schema.names))


def _vector(path: Path, opened: Any, types: dict[str, Any]) -> Column | None:
    """The columns of the vectors; None if there are none."""
    kinds = require("pyarrow", "data").types
    checks = (kinds.is_list, kinds.is_large_list, kinds.is_fixed_size_list)
    lists = [name for name, kind in types.items() if any(check(kind) for check in checks)]
    chosen = [VECTOR] if VECTOR in lists else lists
    if len(chosen) == 1:
        kind = types[chosen[0]]
        dtype = _dtype(path, chosen[0], kind.value_type, "f")
        if kinds.is_fixed_size_list(kind):
            dim = kind.list_size
        else:
            first = _first_value(path, opened, chosen[0])
            dim = len(first) if first.is_valid else 1  # a null is detected when it is read
        if dim < 1:
            raise CheckpointError(f"{path}: column {chosen[0]!r} holds empty lists")
        if dim > MOST_DIM:
            raise CheckpointError(
                f"{path}: column {chosen[0]!r} has lists of {dim}; at most {MOST_DIM} are read"
            )
        return Column((chosen[0],), dtype, dim)
    numbered = _numbered(types) if not chosen else []
    if not numbered:
        return None
    kinds_of = {_dtype(path, name, types[name], "f") for name in numbered}
    if len(kinds_of) > 1:
        raise CheckpointError(f"{path}: columns {listed(numbered)} are of several types")
    return Column(tuple(numbered), kinds_of.pop(), len(numbered))


def _numbered(names: Iterable[str]) -> list[str]:
    """The columns PREFIX0, PREFIX1, ..., in this order; none if there is more than one prefix."""
    found: dict[str, dict[int, str]] = {}
    for name in names:
        part = _PART.fullmatch(name)
        if part is not None:
            found.setdefault(part["prefix"] or "", {})[int(part["number"])] = name
    whole = [by for by in found.values() if sorted(by) == list(range(len(by)))]
    return [whole[0][i] for i in range(len(whole[0]))] if len(whole) == 1 else []


def _dtype(path: Path, name: str, kind: Any, allowed: str) -> np.dtype[Any]:
    try:
        dtype: np.dtype[Any] = np.dtype(kind.to_pandas_dtype())
    except (NotImplementedError, TypeError):
        dtype = np.dtype(object)
    if dtype.kind not in allowed:
        numbers = "floating-point numbers" if allowed == "f" else "numbers"
        raise CheckpointError(f"{path}: column {name!r} holds {kind}, not {numbers}")
    return dtype


def _check_first_id(path: Path, opened: Any, due: int) -> None:
    """Detect files in a wrong order before anything is done with their rows."""
    # Not by the statistics in the footer: pyarrow crashes if those are damaged.
    found = _first_value(path, opened, ID).as_py()
    if found != due:
        raise CheckpointError(
            f"{path}: begins with id {found}, not {due}; write the rows in the order of "
            "their ids, 0, 1, 2, ..., over the files in the order of their names"
        )


def _first_value(path: Path, opened: Any, column: str) -> Any:
    for batch in opened.iter_batches(batch_size=1, columns=[column], use_threads=False):
        return batch.column(0)[0]
    raise CheckpointError(f"{path}: damaged: a file with rows, but without a first one")
