"""Any click log in one CSV or Parquet file, described by a column spec."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from saec.errors import DataError
from saec.reference.datasets.source import (
    TEST_SHARE,
    VALIDATION_SHARE,
    LogRows,
    binary_labels,
    complete,
    random_split,
    read_table,
    split_off_validation,
)
from saec.reference.log import SPLITS, TEST, TRAIN, VALIDATION, Column

__all__ = ["ColumnSpec", "columns"]


@dataclass(frozen=True)
class ColumnSpec:
    """Which columns of a file mean what.

    Args:
        label: column of 0 and 1.
        fields: one column per field.
        crosses: tuples of columns whose combinations are the features of further fields, named
            ``a|b``; the columns need not be fields themselves.
        time: column of numbers or ISO dates; the latest 20 % of the rows are then for testing and
            the latest 10 % of the others for validation. Rows of one time may be parted.
        split: column that holds ``train``, ``validation`` and ``test``; if none is
            ``validation``, a random 10 % of the training rows are.

    With neither ``time`` nor ``split``, rows are split at random.

    Raises:
        DataError: no fields, a field twice, or both ``time`` and ``split``.
    """

    label: str
    fields: tuple[str, ...]
    crosses: tuple[tuple[str, ...], ...] = ()
    time: str | None = None
    split: str | None = None

    def __post_init__(self) -> None:
        names = [*self.fields, *map("|".join, self.crosses)]
        if not names:
            raise DataError("a column spec needs at least one field")
        for name in names:
            if names.count(name) > 1:
                raise DataError(f"field {name!r} occurs twice in the column spec")
        if self.label in self.columns:
            raise DataError(f"the label {self.label!r} cannot be a field too")
        if self.time is not None and self.split is not None:
            raise DataError(f"split by time {self.time!r} or by {self.split!r}, not by both")

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that fields and crosses are made of, each once."""
        parts = (part for cross in self.crosses for part in cross)
        return tuple(dict.fromkeys([*self.fields, *parts]))


def columns(path: Path, seed: int, *, spec: ColumnSpec) -> LogRows:
    """A CSV (``.csv``, ``.csv.gz``; all values are strings) or Parquet file.

    Args:
        path: the file.
        seed: of the split, where it is random.
        spec: what its columns mean.
    """
    other = [name for name in (spec.time, spec.split) if name is not None]
    frame = read_table(path, (spec.label, *spec.columns, *other))
    values: dict[str, Column] = {name: frame[name] for name in spec.fields}
    for parts in spec.crosses:
        values["|".join(parts)] = tuple(frame[part] for part in parts)
    return LogRows(values, binary_labels(path, frame[spec.label]), _split(path, frame, spec, seed))


def _split(path: Path, frame: pl.DataFrame, spec: ColumnSpec, seed: int) -> NDArray[np.int8]:
    rng = np.random.default_rng(seed)
    if spec.time is not None:
        return _split_by_time(_times(path, frame[spec.time]))
    if spec.split is None:
        return random_split(frame.height, rng)
    split = _given_split(path, frame[spec.split])
    return split if (split == VALIDATION).any() else split_off_validation(split, rng)


def _split_by_time(times: pl.Series) -> NDArray[np.int8]:
    order = times.arg_sort().to_numpy()
    rows = len(order)
    tests = round(TEST_SHARE * rows)
    validations = round(VALIDATION_SHARE * (rows - tests))
    split = np.full(rows, TRAIN)
    split[order[rows - tests - validations :]] = VALIDATION
    split[order[rows - tests :]] = TEST
    return split


def _times(path: Path, column: pl.Series) -> pl.Series:
    """``column`` as something that sorts by time."""
    if complete(path, column).dtype != pl.String:
        return column
    numbers = column.cast(pl.Float64, strict=False)
    if not numbers.has_nulls():
        return numbers
    for parsed in _parsed_dates(column):
        if not parsed.has_nulls():
            return parsed
    raise DataError(
        f"{path}: {column.name!r} holds neither numbers nor ISO dates only; row 0 is {column[0]!r}"
    )


def _parsed_dates(column: pl.Series) -> Iterable[pl.Series]:
    for form in ("%Y-%m-%d", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f"):
        yield column.str.to_datetime(form, strict=False)


def _given_split(path: Path, column: pl.Series) -> NDArray[np.int8]:
    texts = column.cast(pl.String)
    known = texts.is_in(SPLITS).fill_null(False)
    if not known.all():
        row = (~known).arg_max() or 0
        raise DataError(
            f"{path}: {column.name!r} of row {row} is {column[row]!r}, not {', '.join(SPLITS)}"
        )
    places = {name: place for place, name in enumerate(SPLITS)}
    return texts.replace_strict(places, return_dtype=pl.Int8).to_numpy().copy()
