"""The increase of a model's loss by compressed tables, measured on the model itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from saec.errors import DataError, MetricError
from saec.format.compressed import Compressed
from saec.format.keyed_field import KeyedField
from saec.tables.field import Field
from saec.tables.loss_metric import LossMetrics
from saec.torch.measure.labels import check_batch, check_loss_fn
from saec.torch.measure.measured_increase import MeasuredIncrease, kl_divergence, mean_increase
from saec.torch.measure.residuals import Residuals
from saec.torch.model.call import (
    Batches,
    Loss,
    check_order,
    check_repeatable,
    evaluating,
    in_order,
    is_squared_error,
    logits_by,
    moved,
    outputs_of,
    pairs,
)
from saec.torch.model.find_tables import Ranges, named_tables, only
from saec.torch.model.marked_rows import marked_rows
from saec.torch.model.model_table import ModelTable
from saec.torch.model.replace import is_raw, replace_tables_
from saec.torch.model.table_keys import KeysByField, as_table_keys, by_ids, harm_of_unknown_keys

__all__ = ["Comparison", "measure_loss_increase"]


def measure_loss_increase(
    model: nn.Module,
    result: Compressed,
    batches: Batches,
    loss_fn: Loss | None = None,
    *,
    labelled: bool,
    ranges: Ranges | None = None,
    keys: KeysByField | None = None,
) -> MeasuredIncrease:
    """Measure the increase of the mean loss on ``batches`` with ``result`` in place of the tables.

    With ``labelled`` it is the difference of the two losses, example by example, for rows that the
    tables have not seen. For binary logits z and z' before and after, this is exactly

        KL(p || p') + (p - y) (z' - z)

    The first term needs no labels and has a small error. The second term is of first order and can
    have either sign. It makes up most of a small increase and most of the standard error, and
    only the labels of unseen rows determine it.

    Without ``labelled``, for binary logits, the result is the mean of KL(p || p'): the expected
    increase if the uncompressed model's p were right. The model is not changed.

    ``keys`` are the keys of :func:`saec.torch.fields` for fields that have keys in ``result``: the
    model is called with ids, and each id gets the row of its key.

    Raises:
        DataError: the batches are empty, an iterator, or without labels where these are needed;
            come in another order the second time where predictions are compared; or see
            :func:`saec.torch.loss_metrics` for invalid labels and outputs.
        MetricError: a loss or a logit is not finite.
        ModuleError: ``result`` does not fit the model.
        OptionError: ``loss_fn`` is not a function.
    """
    check_loss_fn(loss_fn)
    tables = named_tables(model, set(result), ranges or {})
    return Comparison(model, tables, batches, loss_fn, labelled=labelled, keys=keys).of(result)


class Comparison:
    """Outputs of the uncompressed model on some rows, with which compressed models are compared.

    Attributes:
        knows_divergence: whether outputs are logits, row by row in the same order each time.
    """

    def __init__(
        self,
        model: nn.Module,
        tables: Sequence[ModelTable],
        batches: Batches,
        loss_fn: Loss | None,
        *,
        labelled: bool,
        keys: KeysByField | None = None,
    ) -> None:
        self._keys = as_table_keys(keys)
        self._unknown: dict[str, tuple[float, NDArray[np.float64]]] = {}
        self._model, self._tables, self._batches = model, tables, batches
        self._loss_fn, self._logits = loss_fn, logits_by(loss_fn)
        self._labelled = labelled
        self._residuals: Residuals | None = None
        check_repeatable(batches, "batches to compare predictions on")
        with evaluating(model):
            self._before = list(self._outputs())
        if not self._before:
            raise DataError("no batches to compare predictions on")
        if not self._has_losses:
            check_order(batches)
        self.knows_divergence = not self._has_losses or (
            self._logits is not None and in_order(batches)
        )

    def explain(self, later: Mapping[str, NDArray[np.bool_]]) -> None:
        """Compute the explained part of each later increase, if labels and logits allow it.

        ``later``: (vocab_size,) by field name, whether a feature is more frequent in these rows
        than in the training log; predictions are wrong on average for rows with such features.
        """
        # In another order, marks and predictions would be those of different rows.
        if not self._labelled or not self.knows_divergence:
            return
        marks = marked_rows(self._model, self._tables, self._batches, later)
        logits = torch.cat([before.values for before in self._before])
        labels = torch.cat([before.labels for before in self._before])
        self._residuals = Residuals.of(logits, labels, marks)

    def of(self, result: Compressed) -> MeasuredIncrease:
        """The increase with ``result`` in place."""
        harm, tables = self._harm(result), only(self._tables, result)
        with _holding(self._model, tables, self._by_ids(result, tables)):
            found = self.now()
        known = 0.0 if self._residuals is None else found.explained + harm
        divergence = None if found.divergence is None else found.divergence + harm
        return replace(found, value=found.value + harm, explained=known, divergence=divergence)

    def now(self) -> MeasuredIncrease:
        """The increase of the model as it is now."""
        grown, examples, after = [], [], []
        with evaluating(self._model):
            for before, now in zip(self._before, self._outputs(), strict=True):
                grown.append(own := self._grown(before, now))
                examples.append(torch.full_like(own, before.examples / len(own)))
                after.append(now.values)
        found = mean_increase(torch.cat(grown), torch.cat(examples))
        if not self.knows_divergence:
            return found
        plain, present = torch.cat([before.values for before in self._before]), torch.cat(after)
        divergence = float(kl_divergence(plain, present).mean())
        found = replace(found, divergence=divergence)
        if self._residuals is None:
            return found
        mean, error = self._residuals.first_order(present - plain)
        return replace(found, explained=mean + divergence, explained_error=error)

    def _grown(self, before: _Compared, now: _Compared) -> Tensor:
        """Increase of the loss of each example, or of a batch if only its mean is known."""
        if self._logits is None:
            return now.values - before.values
        if not self._labelled:
            return kl_divergence(before.values, now.values)
        return now.log_losses() - before.log_losses()

    def unknown_keys(self, fields: Iterable[Field], metrics: LossMetrics) -> None:
        """Add to every increase the loss of keys without an id in ``fields``, which no batch
        contains: to second order, from the share of such keys and their ``metrics``."""
        keys, known = {own.name: own.keys for own in fields}, {**metrics, **metrics.unknown}
        self._unknown = {n: (own.unseen_share, known[n]) for n, own in keys.items() if own}

    def _harm(self, result: Compressed) -> float:
        return sum(
            harm_of_unknown_keys(field, *self._unknown[name])
            for name, field in result.items()
            if isinstance(field, KeyedField) and name in self._unknown
        )

    def _by_ids(self, result: Compressed, tables: Sequence[ModelTable]) -> Compressed:
        parts = (part for table in tables for part in table.parts)
        return by_ids(result, self._keys, {part.name: part.last - part.first for part in parts})

    @property
    def _has_losses(self) -> bool:
        """Whether losses are compared, whose sum does not depend on the order; otherwise logits."""
        return self._labelled or self._logits is None

    def _outputs(self) -> Iterator[_Compared]:
        """For each batch the logits or losses of its examples, or its mean loss."""
        device = next((parameter.device for parameter in self._model.parameters()), None)
        for index, (inputs, labels) in enumerate(pairs(self._batches)):
            outputs = outputs_of(self._model, inputs, device, index)
            compared = self._compared(outputs, labels, index)
            if not bool(compared.values.isfinite().all()):
                what = "loss" if self._has_losses else "logit"
                raise MetricError(f"batch {index}: a {what} to compare is not finite")
            yield compared

    def _compared(self, outputs: Tensor, labels: Any, index: int) -> _Compared:
        check_batch(outputs, labels, self._loss_fn, index)
        if self._logits is None:
            return _Compared(self._losses(outputs, labels), torch.zeros(0), len(outputs))
        logits = self._logits(outputs.reshape(-1)).double().cpu()
        if not self._labelled:
            return _Compared(logits, torch.zeros(0), len(outputs))
        if not isinstance(labels, Tensor):
            raise DataError(f"batch {index}: {len(logits)} logits need as many labels")
        return _Compared(logits, labels.reshape(-1).double().cpu(), len(outputs))

    def _losses(self, outputs: Tensor, labels: Any) -> Tensor:
        """The squared error of each example, or of another loss the mean over the batch (1,)."""
        assert self._loss_fn is not None
        labels = moved(labels, outputs.device)
        if is_squared_error(self._loss_fn) and outputs.numel() == len(outputs):
            errors: Tensor = outputs.double() - labels.double()
            return errors.square().reshape(-1).cpu()
        return torch.tensor([float(self._loss_fn(outputs, labels))], dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class _Compared:
    """A batch's logits or losses, (examples,) float64, or its mean loss, (1,) float64.

    labels: (examples,) float64 where they are compared with logits; empty elsewhere.
    """

    values: Tensor
    labels: Tensor
    examples: int

    def log_losses(self) -> Tensor:
        """(examples,) float64, from logits and labels."""
        return nn.functional.softplus(self.values) - self.labels * self.values


@contextmanager
def _holding(model: nn.Module, tables: Sequence[ModelTable], result: Compressed) -> Iterator[None]:
    """``result`` in place of the model's tables; restores the model's modules at the end."""
    own = {m for table in tables for m in (*table.modules.values(), *table.tied.values())}
    # Tables that ``result`` holds uncompressed keep their module; only the rows are overwritten.
    rows = [(t.weight, t.weight.detach().clone()) for t in tables if is_raw(t, result)]
    places = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent._modules.items()
        if child in own
    ]
    try:
        replace_tables_(model, tables, result)
        yield
    finally:
        for parent, name, child in places:
            parent._modules[name] = child
        with torch.no_grad():
            for weight, values in rows:
                weight.copy_(values)
