"""What moves of rows were worth on examples that came later, beside what was forecast."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from saec.errors import FieldError, MetricError
from saec.torch.measure.labels import check_loss_fn
from saec.torch.measure.loss_increase import Comparison
from saec.torch.measure.measured_increase import MeasuredIncrease
from saec.torch.model.call import Batches, Loss, call, evaluating, pairs
from saec.torch.model.find_tables import Ranges, named_tables
from saec.torch.model.model_table import ModelTable, RowRange
from saec.torch.model.record_lookups import RecordedLookup, recording, split_fields

__all__ = ["worth_of_moves"]

Floats = NDArray[np.float64]

# Times the forecast. Moves that save no log loss tomorrow may still rank better.
_LEAST_WORTH, _MOST_WORTH = 0.25, 4.0


def worth_of_moves(
    model: nn.Module,
    before: Mapping[str, ArrayLike],
    batches: Batches,
    loss_fn: Loss | None = None,
    *,
    metrics: Mapping[str, ArrayLike],
    ranges: Ranges | None = None,
) -> dict[str, float]:
    """How much of what moves of a field's rows were forecast to save they did save, on examples
    that came later.

    :func:`saec.update` forecasts what a row that moved saves to second order, by the metric. That
    is right for lookups like those of training. On the next day, a row may have learned its own
    labels by heart, or may be worth more than that: new rows of a trend. So yesterday's model is
    asked for today's examples, on which it was not trained, once as it is, and for each field once
    with the rows ``before`` yesterday's training. The result is for ``saec.update(..., worth=)``.

    The saving, in nats, is divided by the forecast, ``mean over lookups of 1/2 delta' G delta``.
    An uncertain quotient, with the standard error e, is drawn towards 1: its distance from 1 is
    divided by 1 + e^2. The result is at least 1/4 and at most 4.

    Args:
        model: of yesterday evening; see :func:`saec.torch.loss_metrics`. It is left as it was.
        before: (vocab_size, dim) by field name, of some or all fields: the rows of the same
            features a day earlier; of those that were new, what an unknown feature had.
        batches: labelled examples of today; they are gone through once more than there are fields.
        loss_fn: see :func:`saec.torch.loss_metrics`.
        metrics: (dim, dim) of each of these fields, of yesterday evening.
        ranges: joint tables, as for :func:`saec.torch.fields`.

    Returns:
        A number without unit for each field of ``before``; 1 for one whose rows did not move.

    Raises:
        FieldError: rows of another shape than the table.
        MetricError: no metric for a field, one of another shape, or a metric or loss that is not
            finite.
        ModuleError: the model has no such field.
        DataError: the batches are empty, cannot be gone through twice, or have no labels.
        OptionError: ``loss_fn`` is not a function.
    """
    check_loss_fn(loss_fn)
    tables = named_tables(model, set(before), ranges or {})
    moved = {
        part.name: _MovedRows.of(table, part, before[part.name])
        for table in tables
        for part in table.parts
        if part.name in before
    }
    compared = Comparison(model, tables, batches, loss_fn, labelled=True)
    nats = {name: own.nats(_metric_of(name, own, metrics)) for name, own in moved.items()}
    forecast = _mean_by_lookups(model, tables, batches, nats)
    found = {}
    for name, own in moved.items():
        with own.put_back():
            found[name] = _worth(compared.now(), forecast[name])
    return found


@dataclass(frozen=True, eq=False)
class _MovedRows:
    """The rows of a field in a table's weight, and what they were before, (vocab_size, dim)."""

    weight: Tensor
    own: slice
    before: Tensor

    @classmethod
    def of(cls, table: ModelTable, part: RowRange, rows: ArrayLike) -> _MovedRows:
        weight, own = table.weight, slice(part.first, part.last)
        given = rows.detach() if isinstance(rows, Tensor) else torch.as_tensor(np.asarray(rows))
        before = given.to(weight.device, weight.dtype)
        if before.shape != (wanted := weight[own].shape):
            raise FieldError(
                f"field {part.name!r}: the rows before have shape {tuple(before.shape)}, its table "
                f"{tuple(wanted)}"
            )
        return cls(weight, own, before)

    def nats(self, metric: Floats) -> Floats:
        """What each lookup was forecast to save, (vocab_size,)."""
        moves = (self.weight.detach()[self.own] - self.before).double().cpu().numpy()
        found: Floats = np.einsum("nd,nd->n", moves @ metric, moves) / 2
        return found

    @contextmanager
    def put_back(self) -> Iterator[None]:
        """The rows before in the table; its own are there again at the end."""
        with torch.no_grad():
            kept = self.weight[self.own].clone()
            try:
                self.weight[self.own] = self.before
                yield
            finally:
                self.weight[self.own] = kept


def _metric_of(name: str, rows: _MovedRows, metrics: Mapping[str, ArrayLike]) -> Floats:
    dim = rows.weight.shape[1]
    if name not in metrics:
        raise MetricError(f"field {name!r} has no metric; there are {sorted(metrics)}")
    metric = np.asarray(metrics[name], np.float64)
    if metric.shape != (dim, dim):
        raise MetricError(f"field {name!r}: the metric has shape {metric.shape}, not {(dim, dim)}")
    if not np.isfinite(metric).all():
        raise MetricError(f"field {name!r}: the metric is not finite")
    return metric


def _mean_by_lookups(
    model: nn.Module, tables: Sequence[ModelTable], batches: Batches, values: Mapping[str, Floats]
) -> dict[str, float]:
    """The means of ``values`` (vocab_size,) of each field over all its lookups in the batches."""
    sums, counts = dict.fromkeys(values, 0.0), dict.fromkeys(values, 0)
    device = next((parameter.device for parameter in model.parameters()), None)
    lookups: list[RecordedLookup] = []
    with recording(tables, lookups), evaluating(model):
        for inputs, _ in pairs(batches):
            lookups.clear()
            call(model, inputs, device)
            for name, ids in _ids_by_field(lookups):
                if name in values:
                    sums[name] += float(values[name][ids].sum())
                    counts[name] += len(ids)
    return {name: sums[name] / max(counts[name], 1) for name in values}


def _ids_by_field(lookups: Sequence[RecordedLookup]) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """The ids of each lookup within their field, without those of padding."""
    for lookup in lookups:
        (ids,) = lookup.unpadded()
        first = {part.name: part.first for part in lookup.table.parts}
        for name, chosen in split_fields(lookup.table, ids):
            yield name, ids[chosen].long().cpu().numpy() - first[name]


def _worth(saved: MeasuredIncrease, forecast: float) -> float:
    if forecast <= 0:
        return 1.0
    error = saved.standard_error / forecast
    worth = 1 + (saved.value / forecast - 1) / (1 + error**2)
    return min(max(worth, _LEAST_WORTH), _MOST_WORTH)
