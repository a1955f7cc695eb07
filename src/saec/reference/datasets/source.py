"""Functions for all loaders: read files with named errors, and split rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from saec.errors import DataError
from saec.reference.log import TEST, TRAIN, VALIDATION, Column

__all__ = [
    "LogRows",
    "binary_labels",
    "check_max_rows",
    "check_separators",
    "complete",
    "existing",
    "not_empty",
    "numbers",
    "random_negatives",
    "random_split",
    "read_csv",
    "read_lines",
    "read_table",
    "reading",
    "split_off_validation",
]

TEST_SHARE = 0.2
VALIDATION_SHARE = 0.1


@dataclass(frozen=True, eq=False)
class LogRows:
    """Result of a loader, ready for :func:`saec.reference.encode`."""

    columns: Mapping[str, Column]
    labels: NDArray[Any]
    split: NDArray[np.int8]


def check_max_rows(rows: int | None) -> None:
    """Check a limit of rows; None is no limit.

    Raises:
        DataError: it is below 1.
    """
    if rows is not None and rows < 1:
        raise DataError(f"max_rows is {rows}; it must be at least 1")


def existing(path: Path) -> Path:
    """``path``, if it exists.

    Raises:
        DataError: it does not.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or directory")
    return path


def read_table(
    path: Path, required: Sequence[str], optional: Sequence[str] = (), rows: int | None = None
) -> pl.DataFrame:
    """Read columns of a Parquet file, or of a CSV file (``.csv``, ``.csv.gz``) as strings.

    Args:
        path: the file; Parquet if its name ends so, else CSV with a header.
        required: columns that must be there.
        optional: columns read if they are there.
        rows: only the first so many.

    Raises:
        DataError: the file is missing, unreadable or empty, or a required column is missing.
    """
    if path.suffix != ".parquet":
        return read_csv(path, required, optional, rows=rows)
    with reading(path):
        found = list(pl.read_parquet_schema(path))
    columns = _present(path, found, required, optional)
    with reading(path):
        frame = pl.read_parquet(path, columns=columns, n_rows=rows)
    return not_empty(path, frame)


def read_csv(
    path: Path,
    required: Sequence[str],
    optional: Sequence[str] = (),
    *,
    rows: int | None = None,
) -> pl.DataFrame:
    """Read columns of a CSV file with a header, as strings; an empty field is null.

    Strings keep what numbers would lose, such as the zeros of a zip code.

    Raises:
        DataError: as :func:`read_table`.
    """
    with reading(path):
        found = pl.read_csv(path, n_rows=0, infer_schema=False, encoding="utf8-lossy").columns
    columns = _present(path, found, required, optional)
    with reading(path):
        frame = pl.read_csv(
            path, columns=columns, infer_schema=False, n_rows=rows, encoding="utf8-lossy"
        )
    return not_empty(path, frame)


def read_lines(path: Path, separator: str, names: Sequence[str]) -> pl.DataFrame:
    """Read a Latin-1 file whose fields are separated by a string such as ``::``, as strings.

    Raises:
        DataError: the file is missing, unreadable or empty, or a line has another number of fields.
    """
    with reading(path):
        # Not splitlines(): it also breaks at characters that Latin-1 titles may hold.
        lines = existing(path).read_text("latin-1").removesuffix("\n").split("\n")
    if lines == [""]:
        raise DataError(f"{path}: the file is empty")
    series = pl.Series("line", lines).str.strip_suffix("\r")
    _check_counts(path, series.str.count_matches(separator, literal=True), len(names), separator)
    parts = series.str.split_exact(separator, len(names) - 1).struct.rename_fields(list(names))
    return parts.struct.unnest()


def check_separators(path: Path, separator: str, fields: int, rows: int | None = None) -> None:
    """Check that all lines of a text file have ``fields`` fields; quoting is not known here.

    CSV readers fill short lines up with nulls, so that a truncated file would pass unnoticed.

    Raises:
        DataError: one has not; its number is given.
    """
    with reading(path):
        lines = pl.scan_csv(
            path,
            has_header=False,
            separator="\x01",  # in no such file, so that a line is one column
            quote_char=None,
            new_columns=["line"],
            schema={"line": pl.String},
            n_rows=rows,
        )
        counts = lines.select(
            pl.col("line").str.count_matches(separator, literal=True).cast(pl.UInt16)
        ).collect(engine="streaming")
    _check_counts(path, counts["line"].fill_null(0), fields, separator)


def numbers(path: Path, column: pl.Series, dtype: type[pl.DataType] = pl.Int64) -> pl.Series:
    """``column`` cast to a number type; null stays null.

    Raises:
        DataError: a value is no such number; it and its row are given.
    """
    cast = column.str.strip_chars() if column.dtype == pl.String else column
    result = cast.cast(dtype, strict=False)
    bad = result.is_null() & column.is_not_null()
    if bad.any():
        row = int(bad.arg_max() or 0)
        kind = "an integer" if dtype.is_integer() else "a number"
        raise DataError(f"{path}: {column.name!r} of row {row} is {column[row]!r}, not {kind}")
    return result


def complete(path: Path, column: pl.Series) -> pl.Series:
    """``column``, if no value is missing.

    Raises:
        DataError: one is; its row is given.
    """
    if column.has_nulls():
        row = column.is_null().arg_max()
        raise DataError(f"{path}: {column.name!r} of row {row} is missing")
    return column


def binary_labels(path: Path, column: pl.Series) -> NDArray[np.float32]:
    """Labels ``(rows,)`` float32 out of a column of 0 and 1.

    Raises:
        DataError: a value is missing or something else; it and its row are given.
    """
    values = numbers(path, column, pl.Float64)
    good = ((values == 0) | (values == 1)).fill_null(False)
    if not good.all():
        row = int((~good).arg_max() or 0)
        raise DataError(f"{path}: {column.name!r} of row {row} is {column[row]!r}, not 0 or 1")
    return values.to_numpy().astype(np.float32)


def random_split(units: int, rng: np.random.Generator) -> NDArray[np.int8]:
    """Split units (rows, sessions): 20 % test, and 10 % of the others validation."""
    split = np.full(units, TRAIN)
    order = rng.permutation(units)
    tests = round(TEST_SHARE * units)
    split[order[:tests]] = TEST
    split[order[tests : tests + round(VALIDATION_SHARE * (units - tests))]] = VALIDATION
    return split


def split_off_validation(split: NDArray[np.int8], rng: np.random.Generator) -> NDArray[np.int8]:
    """A copy of ``split`` in which a random 10 % of the training rows are validation."""
    result = split.copy()
    train = rng.permutation(np.flatnonzero(split == TRAIN))
    result[train[: round(VALIDATION_SHARE * len(train))]] = VALIDATION
    return result


def random_negatives(
    events: int, at: NDArray[np.intp], window: int, rng: np.random.Generator
) -> NDArray[np.intp]:
    """For each event ``at``, another drawn evenly from those at most ``window`` places away.

    With events in order of time, a negative is as popular as things were at that time. It can
    happen to equal the positive; then the example says that both are likely.
    """
    low = np.maximum(at - window, 0)
    high = np.minimum(at + window, events - 1)
    return rng.integers(low, high, endpoint=True)


def not_empty(path: Path, frame: pl.DataFrame) -> pl.DataFrame:
    """``frame``, if it has rows.

    Raises:
        DataError: it has none.
    """
    if frame.height == 0:
        raise DataError(f"{path}: there are no rows")
    return frame


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what goes wrong while a file is read into an error that names it.

    Raises:
        DataError: the file is missing, or reading it failed.
    """
    existing(path)
    try:
        yield
    except (pl.exceptions.PolarsError, OSError, EOFError) as error:
        first = str(error).strip().split("\n", 1)[0]
        raise DataError(f"{path}: cannot be read: {first}") from error


def _present(
    path: Path, found: Sequence[str], required: Sequence[str], optional: Sequence[str]
) -> list[str]:
    missing = [name for name in required if name not in found]
    if missing:
        raise DataError(
            f"{path}: no column {', '.join(map(repr, missing))}; "
            f"there are {', '.join(map(repr, found))}"
        )
    return list(dict.fromkeys([*required, *(name for name in optional if name in found)]))


def _check_counts(path: Path, separators: pl.Series, fields: int, separator: str) -> None:
    bad = separators != fields - 1
    if bad.any():
        line = int(bad.arg_max() or 0)
        raise DataError(
            f"{path}: line {line + 1} has {separators[line] + 1} fields "
            f"separated by {separator!r}, not {fields}"
        )
