"""How long lookups take, of batches of a log's rows, one field after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from saec.baselines import RivalField
from saec.format.compressed import Compressed
from saec.format.compressed_field import CompressedField
from saec.format.keyed_field import KeyedField
from saec.reference.log import Log
from saec.reference.models import ClickModel
from saec.reference.small.tables import SmallTables

__all__ = ["compressed_ns", "module_ns"]

_ROWS = 2048  # of a batch
_BATCHES = 31


def module_ns(tables: SmallTables | ClickModel, log: Log) -> float:
    """Nanoseconds for a feature of a model's own tables, or of small ones, by PyTorch.

    Args:
        tables: compute vectors (B, fields, dim) from ids (B, fields).
        log: whose test rows are asked for, by its ids.
    """
    lookup = tables.embed if isinstance(tables, ClickModel) else tables
    batches = _batches(log)
    mode = tables.training
    tables.eval()
    with torch.no_grad():
        spent = _median_ns(lookup, [torch.from_numpy(log.ids[rows]) for rows in batches])
    tables.train(mode)
    return spent / (len(batches[0]) * len(log.field_names))


def compressed_ns(result: Compressed, log: Log) -> float:
    """Nanoseconds for a feature of compressed tables: by NumPy for rivals, natively for ours.

    Args:
        result: tables of the fields of ``log``.
        log: whose test rows are asked for: by their keys of tables with keys, otherwise by their
            ids, new ones where compression renumbered the features.
    """
    batches = _batches(log)
    asked = [
        [(_call(table), _asked(table, log, rows, name)) for name, table in result.items()]
        for rows in batches
    ]

    def lookup(columns: Sequence[tuple[Callable[[Any], object], NDArray[Any]]]) -> None:
        for call, column in columns:
            call(column)

    return _median_ns(lookup, asked) / (len(batches[0]) * len(result))


def _call(table: CompressedField) -> Callable[[Any], object]:
    return table.from_stored if isinstance(table, RivalField) else table.lookup


def _asked(
    table: CompressedField, log: Log, rows: NDArray[np.intp], name: str
) -> NDArray[np.integer]:
    place = log.field_names.index(name.rpartition(".")[2])  # names of fields hold no dots
    if isinstance(table, KeyedField):
        assert log.keys is not None, "the log was loaded with keys"
        return np.ascontiguousarray(log.keys[rows, place])
    ids: NDArray[np.int64] = log.ids[rows, place].astype(np.int64)
    return table.new_ids[ids] if table.renumbered else ids


def _batches(log: Log) -> list[NDArray[np.intp]]:
    """Test rows in random order, the same for all tables; one shorter batch if there are few."""
    rows = np.random.default_rng(0).permutation(log.rows("test"))
    whole = min(len(rows) // _ROWS, _BATCHES)
    return np.split(rows[: whole * _ROWS], whole) if whole else [rows]


def _median_ns(lookup: Callable[[Any], object], asked: Sequence[Any]) -> float:
    """Of a call for each batch, after one that is not counted."""
    lookup(asked[0])
    spent = []
    for batch in asked:
        start = time.perf_counter_ns()
        lookup(batch)
        spent.append(time.perf_counter_ns() - start)
    return median(spent)
