"""Keys of a table's rows, in files and in columns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from saec.errors import CheckpointError, did_you_mean, require
from saec.sources.numpy_files import read_npy
from saec.sources.parquet_rows import open_parquet
from saec.util.messages import first_line, listed
from saec.util.regular_file import read_regular

__all__ = ["MOST_KEY_BYTES", "key_column", "read_key_file"]

MOST_KEY_BYTES = 8 << 30  # of a text
_KEY = "key"


def read_key_file(path: Path) -> Any:
    """The keys in a file, one for each row of a table.

    Args:
        path: ``.npy`` with int64 or uint64 (n,); ``.txt``, a key in each line, all of them strings;
            or ``.parquet`` with a column ``key``, or with one column.

    Returns:
        An array or a list, as :class:`saec.Field` takes it.

    Raises:
        CheckpointError: the file is missing, damaged, or of another kind.
        OptionalDependencyError: pyarrow is needed and not installed.
    """
    if path.suffix == ".npy":
        (rows,) = read_npy(path).values()
        if rows.ndim != 1 or rows.dtype.kind not in "iu":
            raise CheckpointError(
                f"{path}: keys are integers (n,), not {rows.dtype} of shape {rows.shape}; strings "
                "are read from .txt and .parquet"
            )
        return rows.read(0, len(rows))
    if path.suffix == ".txt":
        text = read_regular(path, MOST_KEY_BYTES, CheckpointError)
        lines = text.removesuffix(b"\n").split(b"\n") if text else []
        return [line.removesuffix(b"\r") for line in lines]
    if path.suffix == ".parquet":
        return key_column([path], None)
    raise CheckpointError(f"{path}: keys are read from .npy, .txt and .parquet files")


def key_column(files: Sequence[Path], column: str | None) -> Any:
    """The keys in a column of Parquet files, in the order of their rows, as a pyarrow array.

    ``column``: None for a column named ``key``, or the only one.

    Raises:
        CheckpointError: a file is damaged or has no such column.
        OptionalDependencyError: pyarrow is not installed.
    """
    arrow = require("pyarrow", "data")
    parts = []
    for path in files:
        with open_parquet(path) as opened:
            name = _column(path, opened.schema_arrow.names, column)
            try:
                parts += opened.read(columns=[name], use_threads=False).column(0).chunks
            except (arrow.ArrowException, OSError) as error:
                raise CheckpointError(f"{path}: column {name!r}: {first_line(error)}") from error
    try:
        return arrow.chunked_array(parts)
    except (arrow.ArrowException, ValueError) as error:
        raise CheckpointError(f"{files[0]}: keys: {first_line(error)}") from error


def _column(path: Path, names: Sequence[str], column: str | None) -> str:
    if column is None:
        column = names[0] if len(names) == 1 else _KEY
    if names.count(column) != 1:
        raise CheckpointError(
            f"{path}: {names.count(column) or 'no'} column {column!r} of keys; there are "
            f"{listed(names)}{did_you_mean(column, names)}"
        )
    return column
