"""Sums of the loss's gradients at looked-up rows, over labelled rows that tables have not seen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from saec.errors import DataError, MetricError
from saec.tables.unseen_gradients import UnseenGradients
from saec.torch.measure.half_sums import half_sums
from saec.torch.measure.labels import check_batch, one_number
from saec.torch.model.call import Loss, logits_by, moved, outputs_of
from saec.torch.model.model_table import ModelTable
from saec.torch.model.record_lookups import (
    RecordedLookup,
    all_finite,
    gradients_of,
    single_precision,
    split_fields,
    without_padding,
)

__all__ = ["UnseenSums"]


class UnseenSums:
    """One measurement: sums by field and half, and what was looked up in the current batch."""

    def __init__(
        self, model: nn.Module, tables: Sequence[ModelTable], loss_fn: Loss | None
    ) -> None:
        self._model, self._tables = model, tables
        self._loss_fn, self._logits = loss_fn, logits_by(loss_fn)
        self._device = tables[0].weight.device
        self._sums = {
            part.name: half_sums(part.last - part.first, t.weight.shape[1])
            for t in tables
            for part in t.parts
        }
        self._draw = np.random.default_rng(0)
        self._examples = 0
        self.lookups: list[RecordedLookup] = []

    def add(self, inputs: Any, labels: Any, index: int) -> int:
        """Add batch ``index``; returns its number of examples."""
        self.lookups.clear()
        outputs = outputs_of(self._model, inputs, self._device, index)
        loss = self._loss(outputs, moved(labels, self._device), index)
        if not math.isfinite(float(loss.detach())):
            raise MetricError(f"unseen batch {index}: the loss is {float(loss.detach())}")
        gradients, computed = gradients_of(loss, list(self.lookups), self._tables)
        halves: dict[int, Tensor] = {}  # of the batch's units, by their number
        for lookup, gradient in gradients:
            if lookup.count not in halves:
                halves[lookup.count] = self._drawn(lookup.count)
            self._add(lookup, gradient, halves[lookup.count], index)
        if computed:
            self._add_computed(computed, outputs, loss, index)
        self._examples += len(outputs)
        return len(outputs)

    def result(self) -> Mapping[str, UnseenGradients]:
        if not self._examples:
            raise DataError("unseen: the batches are empty")
        return {
            name: UnseenGradients(sums.result(), self._examples)
            for name, sums in self._sums.items()
        }

    def _drawn(self, count: int) -> Tensor:
        """The half of each of ``count`` units: 0 or 1, at random."""
        return torch.from_numpy(self._draw.integers(2, size=count))

    def _add(self, lookup: RecordedLookup, gradient: Tensor, halves: Tensor, index: int) -> None:
        vectors = gradient.reshape(-1, gradient.shape[-1])
        if not all_finite(vectors):
            raise MetricError(f"unseen batch {index}: a gradient at {lookup.path!r} is not finite")
        ids, own, vectors = lookup.unpadded(lookup.spread(halves), vectors)
        starts = {part.name: part.first for part in lookup.table.parts}
        for name, chosen in split_fields(lookup.table, ids):
            mine = ids[chosen] - starts[name] if starts[name] else ids[chosen]
            self._sums[name].add(mine, own[chosen], vectors[chosen])

    def _add_computed(
        self, tables: Sequence[ModelTable], outputs: Tensor, loss: Tensor, index: int
    ) -> None:
        """Add what rows get by computations with their tables' weights, as of a tied output."""
        (at_outputs,) = torch.autograd.grad(loss, outputs, retain_graph=True)
        halves = self._drawn(len(outputs)).to(outputs.device)
        weights = [table.weight for table in tables]
        for half in range(2):
            mine = (halves == half).reshape(-1, *[1] * (outputs.ndim - 1))
            found = torch.autograd.grad(outputs, weights, mine * at_outputs, retain_graph=True)
            for table, gradients in zip(tables, found, strict=True):
                if not all_finite(gradients):
                    raise MetricError(
                        f"unseen batch {index}: a gradient at {table.path!r} is not finite"
                    )
                self._add_rows(table, gradients, half)

    def _add_rows(self, table: ModelTable, gradients: Tensor, half: int) -> None:
        rows = without_padding(table, gradients)
        for part in table.parts:
            own = rows[part.first : part.last]
            ids = own.any(dim=1).nonzero()[:, 0]
            self._sums[part.name].add(ids, torch.full_like(ids, half), own[ids])

    def _loss(self, outputs: Tensor, labels: Any, index: int) -> Tensor:
        """The sum of the examples' losses at the given labels."""
        if labels is None:
            raise DataError(f"unseen batch {index} has no labels")
        check_batch(outputs, labels, self._loss_fn, index)
        if self._logits is not None:
            logits = self._logits(single_precision(outputs.reshape(-1)))
            wanted = labels.reshape(-1).to(logits.dtype)
            return nn.functional.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")
        assert self._loss_fn is not None
        loss = one_number(self._loss_fn(outputs, labels), f"unseen batch {index}")
        return single_precision(loss) * len(outputs)
