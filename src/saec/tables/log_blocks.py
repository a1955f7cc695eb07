"""Columns of logs in Parquet and CSV files, a block of rows at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from saec.errors import DataError, did_you_mean, require
from saec.util.regular_file import check_regular, mistaken_for
from saec.util.remote_file import local

__all__ = ["column_ids", "column_keys", "log_blocks", "log_files", "log_rows"]

# Rows decoded at a time. Memory grows with this number and not with the size of the file.
BATCH_ROWS = 1 << 16
CSV_BLOCK_BYTES = 1 << 18  # small, because many blocks are read ahead
# Parquet pages are read through a buffer of this size instead of whole column chunks.
PAGE_BUFFER_BYTES = 1 << 20


def log_files(paths: Sequence[str | Path]) -> list[Path]:
    """Files of a log: given files, those in given folders, and those that match given patterns.

    Raises:
        DataError: a path has no files, or there are no paths.
    """
    if not paths:
        raise DataError("no files were given to count in")
    files: list[Path] = []
    for path in paths:
        try:
            found = _expand(local(path, DataError))
        except (OSError, ValueError, NotImplementedError) as error:  # no file name or pattern
            raise DataError(f"{path}: {_first_line(error)}") from error
        if not found:
            raise DataError(f"{path}: no such file, or no Parquet or CSV file in it")
        files += found
    return files


def _expand(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if _kind(file) is not None)
    return sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))


def _kind(path: Path) -> str | None:
    if path.suffix == ".parquet":
        return "parquet"
    return "csv" if path.name.endswith((".csv", ".csv.gz")) else None


def log_rows(files: Sequence[Path]) -> int | None:
    """Rows of all files; None if some are CSV, which do not state their number of rows."""
    if any(_kind(file) != "parquet" for file in files):
        return None
    total = 0
    for file in files:
        with _open_parquet(file) as opened:
            total += opened.metadata.num_rows
    return total


def log_blocks(path: Path, columns: list[str], text: Collection[str] = ()) -> Iterator[Any]:
    """Record batches of at most some tens of thousands of rows.

    ``text``: the columns that hold strings in CSV files, all others hold integers.

    Raises:
        DataError: the file is unreadable, or lacks a column.
        OptionalDependencyError: pyarrow is not installed.
    """
    check_regular(path, DataError)
    arrow = require("pyarrow", "data")
    kind = _kind(path)
    if kind is None:
        raise DataError(f"{path}: neither .parquet nor .csv")
    parquet = kind == "parquet"
    try:
        yield from _parquet_blocks(path, columns) if parquet else _csv_blocks(path, columns, text)
    except (arrow.ArrowException, OSError, KeyError) as error:
        raise DataError(f"{path}: {_first_line(error)}{mistaken_for(path)}") from error


def _open_parquet(path: Path) -> Any:
    check_regular(path, DataError)
    parquet = require("pyarrow.parquet", "data")
    arrow = require("pyarrow", "data")
    try:
        # Not pyarrow.dataset: it decodes whole row groups, which may be as large as the file.
        return parquet.ParquetFile(path, buffer_size=PAGE_BUFFER_BYTES, pre_buffer=False)
    except (arrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: {_first_line(error)}{mistaken_for(path)}") from error


def _parquet_blocks(path: Path, columns: list[str]) -> Iterator[Any]:
    with _open_parquet(path) as file:
        present = file.schema_arrow.names
        for column in columns:
            if column not in present:
                raise DataError(
                    f"{path}: no column {column!r}; there are {', '.join(present)}"
                    f"{did_you_mean(column, present)}"
                )
            if present.count(column) > 1:
                raise DataError(f"{path}: {present.count(column)} columns are named {column!r}")
        yield from file.iter_batches(batch_size=BATCH_ROWS, columns=columns)


def _csv_blocks(path: Path, columns: list[str], text: Collection[str]) -> Iterator[Any]:
    csv = require("pyarrow.csv", "data")
    arrow = require("pyarrow", "data")
    # Types are given, not inferred: the first block may hold nothing but nulls.
    types = {name: arrow.string() if name in text else arrow.int64() for name in columns}
    with csv.open_csv(
        path,
        read_options=csv.ReadOptions(block_size=CSV_BLOCK_BYTES),
        convert_options=csv.ConvertOptions(include_columns=columns, column_types=types),
    ) as reader:
        yield from reader


def column_ids(path: Path, column: str, values: Any) -> NDArray[Any]:
    """The integers of a column of a block, also those in lists; nulls are left out.

    Raises:
        DataError: it holds something else.
    """
    types, values = require("pyarrow", "data").types, _flat(values)
    if not types.is_integer(values.type):
        raise DataError(
            f"{path}: column {column!r} holds {values.type}, not integer ids or lists of them"
        )
    result: NDArray[Any] = values.drop_null().to_numpy()
    return result


def _first_line(error: BaseException) -> str:
    return str(error).strip("'\"").split("\n", 1)[0]


def column_keys(path: Path, column: str, values: Any) -> Any:
    """The integers or strings of a column of a block, also those in lists, as a pyarrow array;
    nulls are left out.

    Raises:
        DataError: it holds something else.
    """
    types, values = require("pyarrow", "data").types, _flat(values)
    texts = (types.is_string, types.is_large_string, types.is_dictionary, types.is_string_view)
    if not types.is_integer(values.type) and not any(check(values.type) for check in texts):
        raise DataError(f"{path}: column {column!r} holds {values.type}, not keys or lists of them")
    return values.drop_null()


def _flat(values: Any) -> Any:
    types = require("pyarrow", "data").types
    lists = (types.is_list, types.is_large_list, types.is_fixed_size_list)
    while any(is_list(values.type) for is_list in lists):
        values = values.flatten()
    return values
