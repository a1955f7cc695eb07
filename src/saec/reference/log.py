"""The training log in the form that models read: one table of feature ids, checked once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from saec.errors import DataError
from saec.tables.counting import unseen_frequency

__all__ = ["SPLITS", "TEST", "TRAIN", "UNSEEN", "VALIDATION", "Column", "Log", "encode"]

# Place in this tuple = value in Log.split.
SPLITS = ("train", "validation", "test")
TRAIN, VALIDATION, TEST = np.int8(0), np.int8(1), np.int8(2)

UNSEEN = "<unseen>"
MISSING = "<missing>"

# One value per row, or a tuple of such columns: their cross.
Column = ArrayLike | pl.Series | tuple[ArrayLike | pl.Series, ...]


@dataclass(frozen=True, eq=False, repr=False)
class Log:
    """Examples of a click model: feature ids per field, a label, and a part each.

    Args:
        name: the task's name.
        field_names: in the order of the columns of ``ids``.
        ids: ``(rows, fields)`` int32. Per field, ids follow the frequency among the training
            rows: 1 is the most frequent feature. 0 stands for all that training never saw.
        labels: ``(rows,)`` float32, 1 for a click and 0 for none.
        split: ``(rows,)`` int8: 0 = train, 1 = validation, 2 = test.
        frequencies: per field ``(vocab_size,)`` float64: occurrences in the training rows. Entry
            0 is the number expected of unseen features
            (:func:`saec.tables.counting.unseen_frequency`).
        vocabularies: per field ``(vocab_size,)`` original values as strings, by id, or None.
        truth: ``(rows,)`` float32 true click probabilities, or None where nobody knows them.

    Raises:
        DataError: these do not fit together, or a value is out of its range.
    """

    name: str
    field_names: tuple[str, ...]
    ids: NDArray[np.int32]
    labels: NDArray[np.float32]
    split: NDArray[np.int8]
    frequencies: dict[str, NDArray[np.float64]]
    vocabularies: dict[str, NDArray[Any]] | None = None
    truth: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        _check_names(self)
        _check_rows(self)
        _check_values(self)

    def __repr__(self) -> str:
        features = sum(self.vocab_sizes.values())
        return (
            f"Log({self.name!r}, {len(self.labels)} rows, {len(self.field_names)} fields, "
            f"{features} features)"
        )

    @property
    def vocab_sizes(self) -> dict[str, int]:
        """Features per field, the unseen one included, in the order of the fields."""
        return {name: len(self.frequencies[name]) for name in self.field_names}

    def rows(self, part: str) -> NDArray[np.intp]:
        """Indices of the rows of ``"train"``, ``"validation"`` or ``"test"``, ascending.

        Raises:
            DataError: there is no such part.
        """
        if part not in SPLITS:
            raise DataError(f"no part {part!r} of a log; there are {', '.join(SPLITS)}")
        return np.flatnonzero(self.split == SPLITS.index(part))


def encode(
    columns: Mapping[str, Column],
    labels: ArrayLike,
    split: ArrayLike,
    name: str,
    *,
    truth: NDArray[np.float32] | None = None,
    vocabularies: bool = False,
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

    Raises:
        DataError: columns of unequal length or of no usable type, a label that is not 0 or 1, no
            training rows.
    """
    if not columns:
        raise DataError(f"log {name!r}: there are no fields")
    checked = _checked_labels(labels, name)
    parts = _checked_split(split, len(checked), name)
    encoder = _Encoder(parts == TRAIN, vocabularies)
    ids = np.empty((len(checked), len(columns)), np.int32)
    frequencies, values = {}, {}
    for place, (field, column) in enumerate(columns.items()):
        coded = encoder.encode(field, column)
        ids[:, place] = coded.ids
        frequencies[field] = coded.counts
        values[field] = coded.values
    return Log(
        name=name,
        field_names=tuple(columns),
        ids=ids,
        labels=checked,
        split=parts,
        frequencies=frequencies,
        vocabularies={k: v for k, v in values.items() if v is not None} if vocabularies else None,
        truth=truth,
    )


@dataclass(frozen=True)
class _EncodedColumn:
    """A column as ids, with its frequencies and (if kept) its values by id."""

    ids: NDArray[np.int32]
    counts: NDArray[np.float64]
    values: NDArray[Any] | None


class _Encoder:
    """Encodes columns against the same training rows; each part of a cross only once."""

    def __init__(self, train: NDArray[np.bool_], keep_values: bool) -> None:
        self._train = train
        self._keep_values = keep_values
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
        coded = _EncodedColumn(ids, counts, values)
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
        return _EncodedColumn(ids, counts, values)


def _as_series(field: str, column: ArrayLike | pl.Series) -> pl.Series:
    try:
        series = column if isinstance(column, pl.Series) else pl.Series(np.asarray(column))
    except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
        raise DataError(f"field {field!r}: its values have no common type: {error}") from error
    if series.dtype.is_nested() or series.dtype == pl.Object:
        raise DataError(f"field {field!r} holds {series.dtype}, not single values")
    return series


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


def _check_names(log: Log) -> None:
    if len(set(log.field_names)) != len(log.field_names) or not log.field_names:
        raise DataError(f"log {log.name!r}: field names are {log.field_names}; they must differ")
    for what, given in (("frequencies", log.frequencies), ("vocabularies", log.vocabularies)):
        if given is not None and set(given) != set(log.field_names):
            raise DataError(
                f"log {log.name!r}: {what} are given for {_listed(list(given))}, "
                f"the fields are {_listed(log.field_names)}"
            )
    for name, values in (log.vocabularies or {}).items():
        if len(values) != len(log.frequencies[name]):
            raise DataError(
                f"log {log.name!r}, field {name!r}: {len(values)} values, "
                f"{len(log.frequencies[name])} frequencies"
            )


def _check_rows(log: Log) -> None:
    shape = (len(log.labels), len(log.field_names))
    if log.ids.dtype != np.int32 or log.ids.shape != shape:
        raise DataError(
            f"log {log.name!r}: ids are {log.ids.dtype} of shape {log.ids.shape}; "
            f"{shape[0]} labels and {shape[1]} fields need int32 of shape {shape}"
        )
    for what, array in (("labels", log.labels), ("split", log.split), ("truth", log.truth)):
        if array is not None and array.shape != shape[:1]:
            raise DataError(f"log {log.name!r}: {shape[0]} rows of ids, {what} {array.shape}")


def _check_values(log: Log) -> None:
    _check_range(log, "label", log.labels, (log.labels == 0) | (log.labels == 1), "0 or 1")
    _check_range(log, "split", log.split, (log.split >= 0) & (log.split <= 2), "0, 1 or 2")
    if log.truth is not None:
        inside = (log.truth >= 0) & (log.truth <= 1)
        _check_range(log, "true click probability", log.truth, inside, "from 0 to 1")
    for column, (name, size) in zip(log.ids.T, log.vocab_sizes.items(), strict=True):
        inside = (column >= 0) & (column < size)
        _check_range(log, f"id in field {name!r}", column, inside, f"from 0 to {size - 1}")


def _check_range(
    log: Log, what: str, values: NDArray[Any], good: NDArray[np.bool_], allowed: str
) -> None:
    if not good.all():
        row = int(np.argmin(good))
        raise DataError(
            f"log {log.name!r}: the {what} of row {row} is {values[row]}; it must be {allowed}"
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))
