"""The ways to store a model's tables, with their loss measured on the model."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

from numpy.typing import ArrayLike
from torch import nn

from saec.codecs.protocol import Codec
from saec.compression.budget import Budget
from saec.compression.plan import DEFAULT_CODEC, Priced, check_reachable
from saec.errors import ModuleWarning
from saec.tables.loss_metric import LossMetrics
from saec.torch.measure.loss_metrics import metrics_of
from saec.torch.measure.unknown_sums import UnknownRows
from saec.torch.model.call import (
    Batches,
    Loss,
)
from saec.torch.model.find_tables import fields_of, only
from saec.torch.model.model_table import ModelTable
from saec.torch.model.overlooked import overlooked, watching
from saec.torch.model.table_keys import KeysByField, as_table_keys

__all__ = ["priced_tables"]


def priced_tables(
    model: nn.Module,
    tables: Sequence[ModelTable],
    batches: Batches,
    loss_fn: Loss | None,
    frequencies: Mapping[str, ArrayLike],
    codec: Codec | None,
    *,
    seed: int,
    progress: bool,
    budget: Budget | None = None,
    unseen: Batches | None = None,
    calibration: Batches | None = None,
    keys: KeysByField | None = None,
) -> tuple[Priced, LossMetrics]:
    """The ways in which those of the model's ``tables`` that have frequencies may be stored, in
    nats of the metric measured here; what unknown keys lose, on ``unseen`` or ``calibration`` rows.

    A ``budget`` that cannot be reached is refused before.
    """
    tables = only(tables, frequencies)
    fields = fields_of(tables, frequencies, keys)
    check_reachable(fields, budget, codec or DEFAULT_CODEC)
    unknown = _unknown(tables, keys, unseen if unseen is not None else calibration)
    with watching(model) as looked_up:
        metrics = metrics_of(
            model, tables, batches, loss_fn, unseen=unseen, unknown=unknown, progress=progress
        )
    for left in (*overlooked(model), *looked_up):
        warnings.warn(f"{left}: it stays as it is", ModuleWarning, stacklevel=3)
    return Priced.of(fields, codec, metrics, seed=seed, progress=progress), metrics


def _unknown(
    tables: Sequence[ModelTable], keys: KeysByField | None, rows: Batches | None
) -> UnknownRows | None:
    """The rows of the tables for unknown keys, to be measured on labelled ``rows``."""
    given = as_table_keys(keys)
    names = [part.name for table in tables for part in table.parts if part.name in given]
    found = {name: row for name in names if (row := given[name].unseen) is not None}
    return UnknownRows(found, rows) if found and rows is not None else None
