"""Keys of a model's tables: fields with keys from tables with ids, and the reverse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from saec.errors import FieldError, KeysError, ModuleError, SaecError, array_of
from saec.format.compressed import Compressed
from saec.format.keyed_field import KeyedField
from saec.format.raw_field import RawField
from saec.keys.hashing import hash_keys
from saec.keys.kinds import KeyKind
from saec.tables.field import Field

__all__ = [
    "KeysByField",
    "TableKeys",
    "as_table_keys",
    "by_ids",
    "default_row",
    "given_keys",
    "harm_of_unknown_keys",
    "keyed_table",
    "padding_key",
    "plain_array",
    "plain_keys",
    "rows_of",
]

_DRAWN = 1 << 16  # unknown keys


@dataclass(frozen=True, eq=False)
class TableKeys:
    """The keys of a table's rows.

    Args:
        keys: (n,) integers or strings, as in :class:`saec.Field`: the key of each row.
        rows: (n,) numbers of the rows that ``keys`` belong to; None if every row has one.
        unseen: the number of the row that the model uses for unknown keys.
        unseen_share: see :class:`saec.Field`; if None, the share of row ``unseen`` in all
            lookups, if it has any.
        exact: see :class:`saec.Field`.

    Raises:
        FieldError: ``unseen`` is not the number of a row.
    """

    keys: ArrayLike | Tensor
    rows: ArrayLike | Tensor | None = None
    unseen: int | None = None
    unseen_share: float | None = None
    exact: bool | int = False

    def __post_init__(self) -> None:
        given = self.unseen
        if given is not None and (
            isinstance(given, bool) or not isinstance(given, int | np.integer)
        ):
            raise FieldError(f"unseen is the number of a row, not {given!r}")


KeysByField = Mapping[str, "TableKeys | ArrayLike | Tensor"]


def as_table_keys(given: KeysByField | None) -> dict[str, TableKeys]:
    """Keys by field; a plain array has the key of each row."""
    return {
        name: keys if isinstance(keys, TableKeys) else TableKeys(keys)
        for name, keys in (given or {}).items()
    }


def keyed_table(
    name: str, weights: NDArray[Any], frequencies: NDArray[Any], keys: TableKeys
) -> Field:
    """The field of a table whose rows have keys.

    Raises:
        FieldError: keys, rows, weights or frequencies cannot be used; see :class:`saec.Field`.
    """
    counts = np.asarray(frequencies)
    if counts.shape != (len(weights),):
        raise FieldError(
            f"field {name!r}: weights have {len(weights)} rows, frequencies {counts.shape}"
        )
    own, rows = plain_keys(name, keys), rows_of(name, keys, len(weights))
    share, unseen = keys.unseen_share, keys.unseen
    if share is None and unseen is not None and 0 <= unseen < len(counts) and counts[unseen] > 0:
        share = float(counts[unseen] / counts.sum(dtype=np.float64))
    options: dict[str, Any] = {"keys": own, "unseen_share": share, "exact": keys.exact}
    if rows is None:
        return Field(name, weights, counts, unseen=unseen, **options)
    if len(own) != len(rows):
        raise FieldError(f"field {name!r}: {len(own)} keys for {len(rows)} rows")
    if unseen is not None:
        _check_unseen(name, unseen, len(weights))
        options["unseen"] = weights[unseen].astype(np.float32)
    return Field(name, weights[rows], counts[rows], **options)


def _check_unseen(name: str, row: int, count: int) -> None:
    if not 0 <= row < count:
        raise FieldError(f"field {name!r}: unseen is row {row}, outside [0, {count})")


def by_ids(
    result: Compressed, keys: Mapping[str, TableKeys], sizes: Mapping[str, int]
) -> Compressed:
    """``result`` with fields with keys replaced by tables of the rows of each id's key.

    Ids without keys have the default row. ``sizes``: number of ids of each field.

    Raises:
        ModuleError: the keys of a field are not given.
        FieldError: their rows, or that of unknown keys, are out of range.
    """
    return Compressed(
        [
            _by_ids(field, keys, sizes[name]) if isinstance(field, KeyedField) else field
            for name, field in result.items()
        ]
    )


def given_keys(field: KeyedField, keys: Mapping[str, TableKeys]) -> TableKeys:
    """The keys of a field's table.

    Raises:
        ModuleError: they are not given.
    """
    if field.name not in keys:
        raise ModuleError(f"{field.place} has keys, and the model's table has ids: give its keys")
    return keys[field.name]


def default_row(field: KeyedField) -> NDArray[np.float32]:
    """The row (dim,) of unknown keys."""
    row: NDArray[np.float32] = field.axes[-1].astype(np.float32)
    return row


def _by_ids(field: KeyedField, keys: Mapping[str, TableKeys], size: int) -> RawField:
    own, default = given_keys(field, keys), default_row(field)
    weights = np.tile(default, (size, 1))
    rows = rows_of(field.name, own, len(weights))
    weights[slice(None) if rows is None else rows] = field.lookup(plain_keys(field.name, own))
    if own.unseen is not None:
        _check_unseen(field.name, own.unseen, size)
        weights[own.unseen] = default
    return RawField(field.name, weights)


def harm_of_unknown_keys(field: KeyedField, share: float, metric: NDArray[np.float64]) -> float:
    """Expected nats lost by unknown keys that are taken for known ones, to second order.

    share: share of unknown keys in all lookups; metric: (dim, dim), the field's loss metric.
    """
    hashes = np.random.default_rng(0).integers(0, 1 << 64, _DRAWN, dtype=np.uint64)
    away = field.rows_of_hashes(hashes).astype(np.float64) - field.axes[-1]
    return share / 2 * float(np.einsum("nd,de,ne->", away, metric, away)) / _DRAWN


def padding_key(field: KeyedField, keys: TableKeys, row: int) -> int:
    """The key, as an int64, of the row at ``padding_idx`` of a table with keys.

    Raises:
        ModuleError: that row has no key.
    """
    own = plain_keys(field.name, keys)
    rows = None if keys.rows is None else _rows(field.name, keys.rows)
    places = [row] if rows is None else np.flatnonzero(rows == row).tolist()
    if not places:
        raise ModuleError(f"{field.place}: row {row}, at padding_idx, has no key")
    key = own[places[0]]
    if field.key_kind == KeyKind.TEXT:
        return int(hash_keys([key], seed=field.seed).view(np.int64)[0])
    return int(np.array([key]).astype(np.int64)[0])


def plain_keys(name: str, keys: TableKeys) -> Any:
    """The keys of field ``name``, as an array in memory if they are a tensor.

    Raises:
        KeysError: the tensor cannot be an array.
    """
    given = keys.keys
    if not isinstance(given, Tensor):
        return given
    return plain_array(given, f"field {name!r}: keys", KeysError)


def plain_array(values: ArrayLike | Tensor, what: str, failure: type[SaecError]) -> NDArray[Any]:
    """Values as an array in memory; see :func:`~saec.errors.array_of`."""
    return array_of(values.cpu() if isinstance(values, Tensor) else values, what, failure)


def rows_of(name: str, keys: TableKeys, count: int) -> NDArray[np.int64] | None:
    """Checked numbers of the rows of a table of ``count`` rows that have keys; None for all.

    Raises:
        FieldError: they are not integers, out of range, or not all different.
    """
    if keys.rows is None:
        return None
    rows = _rows(name, keys.rows)
    outside = (rows < 0) | (rows >= count)
    if outside.any():
        at = int(outside.argmax())
        raise FieldError(f"field {name!r}: key {at} is of row {rows[at]}, outside [0, {count})")
    if len(np.unique(rows)) < len(rows):
        raise FieldError(f"field {name!r}: a row has two keys")
    return rows.astype(np.int64)


def _rows(name: str, given: ArrayLike | Tensor) -> NDArray[np.integer[Any]]:
    rows = plain_array(given, f"field {name!r}: rows of keys", FieldError)
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise FieldError(
            f"field {name!r}: rows of keys are integers (n,), not {rows.dtype} {rows.shape}"
        )
    return rows
