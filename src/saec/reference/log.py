"""The training log in the form that models read: one table of feature ids, checked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from saec.errors import DataError

__all__ = ["SPLITS", "TEST", "TRAIN", "UNSEEN", "VALIDATION", "Column", "Log"]

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
            (:func:`saec.unseen_frequency`).
        vocabularies: per field ``(vocab_size,)`` original values as strings, by id, or None.
        truth: ``(rows,)`` float32 true click probabilities, or None where nobody knows them.
        keys: ``(rows, fields)`` uint64, the original value of each id, of strings and crosses a
            hash; or None. Those of unseen features differ, unlike their ids.

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
    keys: NDArray[np.uint64] | None = None

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
        """Indices (n,) of the rows of ``"train"``, ``"validation"`` or ``"test"``, ascending.

        Raises:
            DataError: there is no such part.
        """
        if part not in SPLITS:
            raise DataError(f"no part {part!r} of a log; there are {', '.join(SPLITS)}")
        return np.flatnonzero(self.split == SPLITS.index(part))


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
    if log.keys is not None and (log.keys.dtype != np.uint64 or log.keys.shape != shape):
        raise DataError(
            f"log {log.name!r}: keys are {log.keys.dtype} of shape {log.keys.shape}, "
            f"not uint64 of shape {shape}"
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
