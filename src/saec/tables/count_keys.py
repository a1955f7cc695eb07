"""Count how often each key occurs in the columns of a log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from saec.errors import DataError, KeysError
from saec.keys.hashing import hash_keys
from saec.keys.kinds import KeyKind, kind_of
from saec.tables.log_blocks import column_keys, log_blocks, log_files
from saec.util.progress import track

__all__ = ["KeyCounts", "count_keys"]


@dataclass(frozen=True, eq=False)
class KeyCounts:
    """Counts (n,) float64 of keys, and the number of occurrences of other keys."""

    counts: NDArray[np.float64]
    unknown: float

    @property
    def unseen_share(self) -> float | None:
        """The share of occurrences that belong to other keys. None if there were none, for example
        because the keys were taken from this log, which then has no information on later rows."""
        return self.unknown / (self.unknown + float(self.counts.sum())) if self.unknown else None


def count_keys(
    paths: str | Path | Sequence[str | Path],
    columns: Mapping[str, str],
    keys: Mapping[str, ArrayLike],
    progress: bool = True,
) -> dict[str, KeyCounts]:
    """Count the keys of each field in a column of Parquet or CSV files.

    Args:
        paths: see :func:`saec.count_columns`.
        columns: the column with the keys, or lists of them, by field name; nulls are not counted.
        keys: the keys (n,) to count, by field name.
        progress: show a progress bar over the files.

    Raises:
        DataError: a file is missing, damaged, has no such column or no keys of that kind in it; or
            a field's keys do not occur.
        KeysError: see :func:`saec.hash_keys`.
    """
    counters = {name: _Counter(keys[name]) for name in columns}
    text = {columns[name] for name, own in counters.items() if own.kind == KeyKind.TEXT}
    wanted = sorted(set(columns.values()))
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    for path in track(log_files(given), description="counting keys", show=progress):
        for block in log_blocks(path, wanted, text):
            for name, column in columns.items():
                counters[name].add(path, column, block.column(column))
    for name, own in counters.items():
        if not own.by_row.any():
            raise DataError(f"{name}: column {columns[name]!r} has none of its keys")
    return {name: KeyCounts(own.by_row, own.unknown) for name, own in counters.items()}


class _Counter:
    """Counts of one field, by the ranks of its keys' hashes."""

    def __init__(self, keys: Any) -> None:
        hashes = hash_keys(keys)
        self.kind = kind_of(keys)
        self._order = np.argsort(hashes, kind="stable")
        self._sorted = hashes[self._order]
        self.counts = np.zeros(len(hashes) + 1, np.float64)  # the last count is that of other keys

    def add(self, path: Path, column: str, values: Any) -> None:
        found = column_keys(path, column, values)
        if not len(found):
            return
        if (kind_of(found) == KeyKind.TEXT) != (self.kind == KeyKind.TEXT):
            raise DataError(f"{path}: column {column!r} holds {kind_of(found)}, not {self.kind}")
        try:
            hashes = hash_keys(found)
        except KeysError as error:
            raise DataError(f"{path}: column {column!r}: {error}") from error
        places = np.searchsorted(self._sorted, hashes)
        last = len(self._sorted) - 1
        known = self._sorted[np.minimum(places, last)] == hashes
        places = np.where(known, places, last + 1)
        self.counts += np.bincount(places, minlength=len(self.counts))

    @property
    def unknown(self) -> float:
        return float(self.counts[-1])

    @property
    def by_row(self) -> NDArray[np.float64]:
        counts = np.empty(len(self._order), np.float64)
        counts[self._order] = self.counts[:-1]
        return counts
