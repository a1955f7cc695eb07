"""Rows of an artifact in the plain tables of a model, which is then trained on from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from saec.errors import IdError, ModuleError
from saec.format.compressed import Compressed
from saec.format.compressed_field import CompressedField
from saec.format.keyed_field import KeyedField
from saec.torch.model.field_names import renamed
from saec.torch.model.find_tables import Ranges, named_tables
from saec.torch.model.model_table import ModelTable, RowRange
from saec.torch.model.table_keys import (
    KeysByField,
    TableKeys,
    as_table_keys,
    default_row,
    given_keys,
    plain_array,
    plain_keys,
    rows_of,
)

__all__ = ["warm_start_"]

_BLOCK = 1 << 16  # rows that are decoded at a time


def warm_start_(
    model: nn.Module,
    result: Compressed,
    *,
    keys: KeysByField | None = None,
    ids: Mapping[str, ArrayLike | Tensor] | None = None,
    ranges: Ranges | None = None,
    names: Mapping[str, str] | None = None,
) -> dict[str, NDArray[np.bool_]]:
    """Give the plain tables of a model the rows of an artifact, to train on from them.

    So a trainer need not keep full tables from one day to the next. The tables may have new rows,
    and may be of the day's features only. Rows that the artifact does not have keep their values,
    for example those with which the model was initialised; so do rows at ``padding_idx``. Tables
    are decoded 65,536 rows at a time.

    Args:
        model: holds a plain table of every field of ``result``.
        result: the artifact, such as ``saec.load("base.saec", patches=[...])``.
        keys: by field with keys, the key (n,) of each row of the model's table, or a
            :class:`TableKeys`, whose row ``unseen`` gets the default row.
        ids: by field without keys, the id (n,) of each row of the model's table; by default the
            number of the row. Ids beyond those of the artifact are new.
        ranges: see :func:`fields`.
        names: see :func:`replace_embeddings_`.

    Returns:
        By field, (n,) bool, whether a row of the model's table is from the artifact. Of keys that
        the artifact does not store, a share of ``false_positive_rate`` gets a row of other keys.

    Raises:
        ModuleError: a field has no plain table in the model, or one of another dim; keys of a field
            are missing or of another number than rows; a table has fewer rows than its field and no
            ``ids``; or the ids of a field were renumbered. The model is then unchanged.
        IdError: an id is negative or no integer. The model is then unchanged.
        KeysError: keys are of another kind than the field's, missing, or no column. The model is
            then unchanged.
        FieldError: ``rows`` of a :class:`TableKeys` cannot be used. The model is then unchanged.
    """
    spans = renamed(model, set(result), ranges or {}, names or {})
    tables = named_tables(model, set(result), spans)
    own, numbers = as_table_keys(keys), dict(ids or {})
    _check_given(result, own, numbers)
    parts = [
        _starting_rows(table, part, result[part.name], own, numbers)
        for table in tables
        for part in table.parts
        if part.name in result
    ]
    with torch.no_grad():
        for rows in parts:
            rows.copy()
    return {rows.field.name: rows.known for rows in parts}


@dataclass(frozen=True, eq=False)
class _StartingRows:
    """Where the rows of a part of a table come from.

    asked: (n,) hashes of keys, or ids, of ``rows`` (n,), which are rows of the whole weight.
    known: (rows of the part,) bool.
    """

    field: CompressedField
    weight: Tensor
    asked: NDArray[Any]
    rows: NDArray[np.int64]
    known: NDArray[np.bool_]
    default: int | None

    def copy(self) -> None:
        for start in range(0, len(self.rows), _BLOCK):
            block = slice(start, start + _BLOCK)
            found = torch.from_numpy(self._decoded(self.asked[block])).to(self.weight)
            self.weight[torch.from_numpy(self.rows[block]).to(self.weight.device)] = found
        if self.default is not None:
            assert isinstance(self.field, KeyedField), "only they have keys"
            self.weight[self.default] = torch.from_numpy(default_row(self.field)).to(self.weight)

    def _decoded(self, asked: NDArray[Any]) -> NDArray[np.float32]:
        if isinstance(self.field, KeyedField):
            return self.field.rows_of_hashes(asked)
        return self.field.lookup(asked)


def _starting_rows(
    table: ModelTable,
    part: RowRange,
    field: CompressedField,
    keys: Mapping[str, TableKeys],
    ids: Mapping[str, ArrayLike | Tensor],
) -> _StartingRows:
    count, dim = part.last - part.first, table.weight.shape[1]
    if dim != field.dim:
        raise ModuleError(f"{field.place} has dim {field.dim}, and its table in the model {dim}")
    rows: NDArray[np.int64] = np.arange(count)
    asked: NDArray[Any]
    default = None
    if isinstance(field, KeyedField):
        rows, asked = _hashes_of(field, keys, count)
        stored, default = field.classes_of_hashes(asked) >= 0, keys[field.name].unseen
    else:
        asked = _ids_of(field, ids, count)
        stored = asked < field.vocab_size
    known = np.zeros(count, np.bool_)
    known[rows] = stored
    padding = {module.padding_idx for module in table.modules.values()}
    for index in padding:
        if index is not None and part.first <= index < part.last:
            known[index - part.first] = False
    if default is not None:
        known[default] = False
    kept = known[rows]
    place = None if default is None or default + part.first in padding else default + part.first
    return _StartingRows(field, table.weight, asked[kept], rows[kept] + part.first, known, place)


def _hashes_of(
    field: KeyedField, keys: Mapping[str, TableKeys], count: int
) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """The rows that have keys, and the hashes of these."""
    given = given_keys(field, keys)
    asked = field.hashes_of(plain_keys(field.name, given))
    rows = rows_of(field.name, given, count)
    if rows is None:
        rows = np.arange(count)
    if asked.shape != rows.shape:
        raise ModuleError(f"{field.place}: keys {asked.shape} are given for {len(rows)} rows")
    if given.unseen is not None and not 0 <= given.unseen < count:
        raise ModuleError(f"{field.place}: unseen is row {given.unseen}, outside [0, {count})")
    return rows, asked


def _ids_of(
    field: CompressedField, ids: Mapping[str, ArrayLike | Tensor], count: int
) -> NDArray[np.int64]:
    """The id of each row."""
    if field.renumbered:
        raise ModuleError(
            f"the features of {field.place} were renumbered, and the model's ids are the old ones: "
            "compress with order='keep'"
        )
    if field.name not in ids:
        if count < field.vocab_size:
            raise ModuleError(
                f"{field.place} has {field.vocab_size} rows, and its table in the model {count}: "
                "give the ids of these"
            )
        return np.arange(count)
    own = plain_array(ids[field.name], f"{field.place}: ids", IdError)
    if own.shape != (count,):
        raise ModuleError(f"{field.place}: ids {own.shape} are given for {count} rows")
    if own.dtype.kind not in "iu" or own.astype(np.int64).min(initial=0) < 0:
        raise IdError(f"{field.place}: ids are integers from 0 on")
    return own.astype(np.int64)


def _check_given(result: Compressed, keys: Mapping[str, object], ids: Mapping[str, object]) -> None:
    """Raise ModuleError for names that are unknown or of another kind."""
    keyed = {name for name, field in result.items() if isinstance(field, KeyedField)}
    for what, given, known in (("keys", keys, keyed), ("ids", ids, set(result) - keyed)):
        for name in given:
            if name not in known:
                listed = ", ".join(map(repr, sorted(known))) or "none"
                raise ModuleError(
                    f"{what} are given for {name!r}; the fields with {what} are: {listed}"
                )
