"""Avazu click-through rate prediction, as in the Kaggle challenge of 2014."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from saec.errors import DataError
from saec.reference.datasets.source import (
    LogRows,
    binary_labels,
    check_max_rows,
    check_separators,
    random_split,
    read_table,
)
from saec.reference.log import Column

__all__ = ["avazu"]

FIELDS = (
    "C1",
    "banner_pos",
    "site_id",
    "site_domain",
    "site_category",
    "app_id",
    "app_domain",
    "app_category",
    "device_id",
    "device_ip",
    "device_model",
    "device_type",
    "device_conn_type",
    *(f"C{k}" for k in range(14, 22)),
)
# With them, the columns of the file: its ``id`` is unique to the row and no field.
COLUMNS = ("click", "hour", *FIELDS)


def avazu(path: Path, seed: int, *, max_rows: int | None = None) -> LogRows:
    """Whether an advertisement is clicked; rows are split at random.

    The column ``hour`` (YYMMDDHH) becomes two fields: the hour of the day and the weekday (Monday
    is 1).

    Args:
        path: ``train.csv`` (or ``.csv.gz``), or a Parquet file with the same columns.
        seed: of the split.
        max_rows: only the first so many; all 40,428,967 need some 15 GB of memory.
    """
    check_max_rows(max_rows)
    frame = read_table(path, COLUMNS, rows=max_rows)
    if path.suffix != ".parquet":
        check_separators(path, ",", len(COLUMNS) + 1, None if max_rows is None else max_rows + 1)
    time = _time(path, frame["hour"])
    columns: dict[str, Column] = {"hour": time.dt.hour(), "weekday": time.dt.weekday()}
    columns |= {name: frame[name] for name in FIELDS}
    labels = binary_labels(path, frame["click"])
    return LogRows(columns, labels, random_split(len(labels), np.random.default_rng(seed)))


def _time(path: Path, hours: pl.Series) -> pl.Series:
    texts = hours.cast(pl.String)
    # The hour alone is no time for the parser, so it gets its minutes.
    times = (texts + "00").str.to_datetime("%y%m%d%H%M", strict=False)
    if times.has_nulls():
        row = int(times.is_null().arg_max() or 0)
        raise DataError(f"{path}: the hour of row {row} is {hours[row]!r}, not YYMMDDHH")
    return times
