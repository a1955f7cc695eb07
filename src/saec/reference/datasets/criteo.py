"""Criteo display advertising, as in the Kaggle challenge of 2014: 13 counts, 26 categories."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from saec.reference.datasets.source import (
    LogRows,
    binary_labels,
    check_max_rows,
    check_separators,
    not_empty,
    numbers,
    random_split,
    read_table,
    reading,
)
from saec.reference.log import Column

__all__ = ["criteo"]

COUNTS = tuple(f"I{k}" for k in range(1, 14))
CATEGORIES = tuple(f"C{k}" for k in range(1, 27))
COLUMNS = ("label", *COUNTS, *CATEGORIES)

# Counts up to here are categories of their own.
SMALL = 2


def criteo(path: Path, seed: int, *, max_rows: int | None = None) -> LogRows:
    """Whether an advertisement is clicked; rows are split at random.

    A count x above 2 becomes the category floor(log(x)^2), a smaller one is a category by itself,
    as in the winning solution (Y. Juan, Y. Zhuang, W. Chin, 3 Idiots' Approach for Display
    Advertising Challenge, 2014), and a missing value is one more category.

    Args:
        path: ``train.txt`` (or ``.gz``): tab-separated, no header, empty fields; or a Parquet file
            with the columns label, I1 to I13 and C1 to C26.
        seed: of the split.
        max_rows: only the first so many; all 45,840,617 need some 20 GB of memory.
    """
    check_max_rows(max_rows)
    if path.suffix == ".parquet":
        frame = read_table(path, COLUMNS, rows=max_rows)
    else:
        frame = _read_text(path, max_rows)
    columns: dict[str, Column] = {}
    for name in COUNTS:
        columns[name] = _bucket(numbers(path, frame[name]))
    for name in CATEGORIES:
        columns[name] = frame[name]
    labels = binary_labels(path, frame["label"])
    return LogRows(columns, labels, random_split(len(labels), np.random.default_rng(seed)))


def _read_text(path: Path, rows: int | None) -> pl.DataFrame:
    check_separators(path, "\t", len(COLUMNS), rows)
    with reading(path):
        frame = pl.read_csv(
            path,
            separator="\t",
            has_header=False,
            quote_char=None,
            schema=dict.fromkeys(COLUMNS, pl.String),
            n_rows=rows,
        )
    return not_empty(path, frame)


def _bucket(counts: pl.Series) -> pl.Series:
    # The logarithm's square starts at 1, so that adding SMALL keeps it clear of the small counts.
    large = (counts.cast(pl.Float64).log() ** 2).floor() + SMALL
    frame = pl.DataFrame({"small": counts, "large": large})
    chosen = pl.when(pl.col("small") > SMALL).then("large").otherwise("small")
    return frame.select(chosen.cast(pl.Int32).alias(counts.name)).to_series()
