"""Arrays found in files, and their description in messages."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from saec.errors import CheckpointError
from saec.streaming.rows import Rows
from saec.util.messages import first_line, listed
from saec.util.regular_file import mistaken_for

__all__ = ["TABLE_DTYPES", "Arrays", "Source", "describe", "name_unread", "unreadable"]

logger = logging.getLogger(__name__)

Arrays = dict[str, Rows]

TABLE_DTYPES = tuple(
    np.dtype(dtype) for dtype in (np.float64, np.float32, np.float16, ml_dtypes.bfloat16)
)


@dataclass(frozen=True)
class Source:
    """Arrays of any shape, by name, and frequencies that some files have beside their rows.

    nameless: the only array has no name except that of its file.
    files: of each table in Parquet files, in the order of its rows.
    keys: of the rows of each table that has them, (n,), in a form for :class:`saec.Field`.
    without_tables: the reason why there are no tables, if it is known.
    """

    arrays: Arrays
    counts: Arrays = field(default_factory=dict)
    nameless: bool = False
    without_tables: str = ""
    files: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    keys: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tables(self) -> Arrays:
        """The two-dimensional floating-point arrays."""
        return {
            name: rows
            for name, rows in self.arrays.items()
            if rows.ndim == 2 and rows.dtype in TABLE_DTYPES
        }

    @property
    def vectors(self) -> Arrays:
        """The vectors of real numbers, including those beside rows."""
        return self.counts | {
            name: rows
            for name, rows in self.arrays.items()
            if rows.ndim == 1 and (rows.dtype.kind in "iuf" or rows.dtype in TABLE_DTYPES)
        }


def describe(arrays: Mapping[str, Rows], most: int = 8) -> str:
    """A list of the arrays for a message, shortened to a limit."""
    if not arrays:
        return "nothing that can be read"
    parts = [f"{name} {rows.shape} {rows.dtype}" for name, rows in list(arrays.items())[:most]]
    return "; ".join(parts) + (f"; and {len(arrays) - most} more" if len(arrays) > most else "")


def name_unread(path: Path, reasons: Mapping[str, str], others: bool) -> None:
    """Log a warning that names the tensors of a file that cannot be read, if there are any.

    Args:
        path: of the file or folder.
        reasons: what each of them is, by name.
        others: whether there are tensors that can be read.

    Raises:
        CheckpointError: there are no others.
    """
    if not reasons:
        return
    named = listed(f"{name} is {reason}" for name, reason in reasons.items())
    said = f"{path}: tensors that cannot be read: {named}"
    if not others:
        raise CheckpointError(said)
    logger.warning("%s", said)


def unreadable(path: Path, error: BaseException) -> CheckpointError:
    """The error for a file whose content does not fit its name."""
    said = f"{first_line(error)}{mistaken_for(path)}"
    return CheckpointError(f"{path}: cannot be read as {path.suffix}: {said}")
