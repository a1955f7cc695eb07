"""Columns of values become ids by training frequency."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from saec.errors import DataError
from saec.keys.hashing import hash_keys
from saec.reference.log import MISSING, TRAIN, UNSEEN, Column, Log
from saec.tables.counting import unseen_frequency

__all__ = ["encode"]


def encode(
    columns: Mapping[str, Column],
    labels: ArrayLike,
    split: ArrayLike,
    name: str,
    *,
    truth: NDArray[np.float32] | None = None,
    vocabularies: bool = False,
    keys: bool = False,
) -> Log:
    """Turn columns of values into a :class:`Log`, with ids assigned from the training rows.

    The features of a field are numbered from 1 by count, ties by value (those of a cross by the
    ids of its parts), so that the ids depend on nothing but the data. A missing value is a feature.

    Args:
        columns: field name to one value per row: integers, strings, floats or dates. A tuple of
            columns is a cross, whose features are the combinations of their values.
        labels: one 0 or 1 per row.
        split: one 0 (train), 1 (validation) or 2 (test) per row.
        name: of the task.
        truth: true click probabilities, where known.
        vocabularies: keep the original values, as strings (500 MB and more for large logs).
        keys: keep them as keys of 64 bits, a row at a time.

    Raises:
        DataError: columns of unequal length or of no usable type, a label that is not 0 or 1, no
            training rows.
    """
    if not columns:
        raise DataError(f"log {name!r}: there are no fields")
    checked = _checked_labels(labels, name)
    parts = _checked_split(split, len(checked), name)
    encoder = _Encoder(parts == TRAIN, vocabularies, keys)
    ids = np.empty((len(checked), len(columns)), np.int32)
    frequencies, values = {}, {}
    asked = np.empty(ids.shape, np.uint64) if keys else None
    for place, (field, column) in enumerate(columns.items()):
        coded = encoder.encode(field, column)
        ids[:, place] = coded.ids
        frequencies[field] = coded.counts
        values[field] = coded.values
        if asked is not None and coded.keys is not None:
            asked[:, place] = coded.keys
    return Log(
        name=name,
        field_names=tuple(columns),
        ids=ids,
        labels=checked,
        split=parts,
        frequencies=frequencies,
        vocabularies={k: v for k, v in values.items() if v is not None} if vocabularies else None,
        truth=truth,
        keys=asked,
    )


@dataclass(frozen=True)
class _EncodedColumn:
    """A column as ids, with its frequencies and (if kept) its values by id, and the key of each
    row."""

    ids: NDArray[np.int32]
    counts: NDArray[np.float64]
    values: NDArray[Any] | None
    keys: NDArray[np.uint64] | None


class _Encoder:
    """Encodes columns against the same training rows; each part of a cross only once."""

    def __init__(self, train: NDArray[np.bool_], keep_values: bool, keep_keys: bool) -> None:
        self._train = train
        self._keep_values = keep_values
        self._keep_keys = keep_keys
        # The column is kept beside its result, or its id() could be that of another one later.
        self._done: dict[int, tuple[object, _EncodedColumn]] = {}

    def encode(self, field: str, column: Column) -> _EncodedColumn:
        if not isinstance(column, tuple):
            return self._encode_values(field, column)
        if not column:
            raise DataError(f"field {field!r}: a cross of no columns")
        result = self._encode_values(field, column[0])
        for part in column[1:]:
            result = self._cross(result, self._encode_values(field, part))
        return result

    def _encode_values(self, field: str, column: ArrayLike | pl.Series) -> _EncodedColumn:
        known = self._done.get(id(column))
        if known is not None:
            return known[1]
        series = _as_series(field, column)
        if len(series) != len(self._train):
            raise DataError(
                f"field {field!r} has {len(series)} rows, the labels have {len(self._train)}"
            )
        ranks, distinct = _rank(series)
        ids, counts, kept = _by_frequency(ranks, len(distinct), self._train)
        values = None
        if self._keep_values:
            texts = pl.Series(distinct).gather(kept).cast(pl.String).fill_null(MISSING)
            values = np.array([UNSEEN, *texts], object)
        keys = _keys_of(series) if self._keep_keys else None
        coded = _EncodedColumn(ids, counts, values, keys)
        self._done[id(column)] = (column, coded)
        return coded

    def _cross(self, left: _EncodedColumn, right: _EncodedColumn) -> _EncodedColumn:
        # A combination with an unseen part was never in training either, so ids can be combined
        # instead of values; as both are int32, the product fits int64 however large they are.
        width = len(right.counts)
        ranks, distinct = _rank_integers(left.ids.astype(np.int64) * width + right.ids)
        ids, counts, kept = _by_frequency(ranks, len(distinct), self._train)
        values = None
        if left.values is not None and right.values is not None:
            pairs = distinct[kept]
            texts = left.values[pairs // width] + "|" + right.values[pairs % width]
            values = np.concatenate([np.array([UNSEEN], object), texts])
        keys = None
        if left.keys is not None and right.keys is not None:
            keys = hash_keys(left.keys) ^ hash_keys(right.keys, seed=1)
        return _EncodedColumn(ids, counts, values, keys)


def _as_series(field: str, column: ArrayLike | pl.Series) -> pl.Series:
    try:
        series = column if isinstance(column, pl.Series) else pl.Series(np.asarray(column))
    except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
        raise DataError(f"field {field!r}: its values have no common type: {error}") from error
    if series.dtype.is_nested() or series.dtype == pl.Object:
        raise DataError(f"field {field!r} holds {series.dtype}, not single values")
    return series


def _keys_of(series: pl.Series) -> NDArray[np.uint64]:
    """Integers as they are, anything else as a hash."""
    if series.dtype.is_integer() and not series.has_nulls():
        wide = series if series.dtype == pl.UInt64 else series.cast(pl.Int64)
        return wide.to_numpy().view(np.uint64)
    return hash_keys(series.cast(pl.String).fill_null(MISSING))


def _rank(series: pl.Series) -> tuple[NDArray[np.intp], pl.Series | NDArray[np.int64]]:
    """The place of each value among the distinct ones in ascending order, and these."""
    if series.dtype.is_integer() and series.dtype != pl.UInt64 and not series.has_nulls():
        return _rank_integers(series.cast(pl.Int64).to_numpy())
    distinct = series.unique().sort()
    places = pl.DataFrame({"value": distinct}).with_row_index("place")
    found = pl.DataFrame({"value": series}).join(
        places, on="value", how="left", nulls_equal=True, maintain_order="left"
    )
    return found["place"].to_numpy().astype(np.intp), distinct


def _rank_integers(values: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    if len(values) == 0:
        return np.empty(0, np.intp), np.empty(0, np.int64)
    low, high = int(values.min()), int(values.max())
    if high - low > 4 * len(values):
        distinct, ranks = np.unique(values, return_inverse=True)
        return ranks, distinct
    # Values in a narrow range need no sorting.
    present = np.zeros(high - low + 1, np.bool_)
    present[values - low] = True
    places = np.cumsum(present, dtype=np.intp) - 1
    return places[values - low], np.flatnonzero(present) + low


def _by_frequency(
    ranks: NDArray[np.intp], distinct: int, train: NDArray[np.bool_]
) -> tuple[NDArray[np.int32], NDArray[np.float64], NDArray[np.intp]]:
    """Ids of the rows, frequencies by id, and the rank of ids 1, 2, ... ."""
    counts = np.bincount(ranks[train], minlength=distinct)
    order = np.argsort(-counts, kind="stable")
    kept = order[: np.count_nonzero(counts)]
    ids = np.zeros(distinct, np.int32)
    ids[kept] = np.arange(1, len(kept) + 1, dtype=np.int32)
    frequencies = np.empty(len(kept) + 1)
    frequencies[1:] = counts[kept]
    frequencies[0] = unseen_frequency(frequencies[1:])
    return ids[ranks], frequencies, kept


def _checked_labels(labels: ArrayLike, name: str) -> NDArray[np.float32]:
    array = np.asarray(labels)
    if array.ndim != 1 or array.dtype.kind not in "biuf":
        raise DataError(
            f"log {name!r}: labels are {array.dtype} of shape {array.shape}, not one number per row"
        )
    if len(array) == 0:
        raise DataError(f"log {name!r} has no rows")
    return array.astype(np.float32)


def _checked_split(split: ArrayLike, rows: int, name: str) -> NDArray[np.int8]:
    array = np.asarray(split)
    if array.shape != (rows,) or array.dtype.kind not in "iu":
        raise DataError(
            f"log {name!r}: split is {array.dtype} of shape {array.shape}, "
            f"not one integer for each of {rows} rows"
        )
    inside = (array >= 0) & (array <= 2)
    if not inside.all():  # before the cast, which would turn 256 into 0
        row = int(np.argmin(inside))
        raise DataError(
            f"log {name!r}: the split of row {row} is {array[row]}; it must be 0, 1 or 2"
        )
    if not (array == TRAIN).any():
        raise DataError(f"log {name!r}: none of the {rows} rows is for training")
    return array.astype(np.int8)
