"""What was found where tables are kept, and how it is described in messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from saec.errors import CheckpointError
from saec.streaming.rows import Rows
from saec.util.messages import first_line
from saec.util.regular_file import mistaken_for

__all__ = ["TABLE_DTYPES", "Arrays", "Source", "describe", "unreadable"]


Arrays = dict[str, Rows]

TABLE_DTYPES = tuple(
    np.dtype(dtype) for dtype in (np.float64, np.float32, np.float16, ml_dtypes.bfloat16)
)


@dataclass(frozen=True)
class Source:
    """Arrays of any shape, by name, and the frequencies that some files keep next to their rows.

    nameless: the only array has no name but that of its file.
    files: of each table in Parquet files, these in the order of its rows.
    keys: of the rows of each table that has them, (n,) as :class:`saec.Field` takes them.
    without_tables: why there are none, where more is known than that.
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
        """The vectors of real numbers, those next to rows among them."""
        return self.counts | {
            name: rows
            for name, rows in self.arrays.items()
            if rows.ndim == 1 and (rows.dtype.kind in "iuf" or rows.dtype in TABLE_DTYPES)
        }


def describe(arrays: Mapping[str, Rows], most: int = 8) -> str:
    """Arrays for a message, not more than fit."""
    if not arrays:
        return "nothing that can be read"
    parts = [f"{name} {rows.shape} {rows.dtype}" for name, rows in list(arrays.items())[:most]]
    return "; ".join(parts) + (f"; and {len(arrays) - most} more" if len(arrays) > most else "")


def unreadable(path: Path, error: BaseException) -> CheckpointError:
    """What to raise for a file that is not what its name says."""
    said = f"{first_line(error)}{mistaken_for(path)}"
    return CheckpointError(f"{path}: cannot be read as {path.suffix}: {said}")
