"""The ways to store a model's tables, with their loss measured on the model."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from numpy.typing import ArrayLike
from torch import nn

from saec.codecs.protocol import Codec
from saec.compression.budget import Budget
from saec.compression.plan import DEFAULT_CODEC, Priced, check_reachable
from saec.errors import ModuleWarning
from saec.tables.loss_metric import LossMetrics
from saec.torch.measure.loss_metrics import loss_metrics
from saec.torch.model.call import (
    Batches,
    Loss,
)
from saec.torch.model.find_tables import Ranges, fields
from saec.torch.model.overlooked import overlooked, watching

__all__ = ["priced_tables"]


def priced_tables(
    model: nn.Module,
    batches: Batches,
    loss_fn: Loss | None,
    frequencies: Mapping[str, ArrayLike],
    codec: Codec | None,
    ranges: Ranges | None,
    *,
    seed: int,
    progress: bool,
    budget: Budget | None = None,
    unseen: Batches | None = None,
) -> tuple[Priced, LossMetrics]:
    """The ways in which the model's tables may be stored, in nats of the metric measured here.

    A ``budget`` that cannot be reached is refused before.
    """
    tables = fields(model, frequencies, ranges)
    check_reachable(tables, budget, codec or DEFAULT_CODEC)
    names = [field.name for field in tables]
    with watching(model) as looked_up:
        metrics = loss_metrics(
            model, batches, loss_fn, names=names, ranges=ranges, unseen=unseen, progress=progress
        )
    for left in (*overlooked(model), *looked_up):
        warnings.warn(f"{left}: it stays as it is", ModuleWarning, stacklevel=3)
    return Priced.of(tables, codec, metrics, seed=seed, progress=progress), metrics
