"""By how much compressed tables raise a model's loss, measured on the model itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from saec.compressed import Compressed
from saec.errors import DataError, MetricError
from saec.torch.calls import (
    Batches,
    Loss,
    check_logits,
    check_order,
    check_repeatable,
    evaluating,
    logits_by,
    moved,
    outputs_of,
    pairs,
)
from saec.torch.replace import is_raw, replace_embeddings_
from saec.torch.tables import Ranges, named_tables

__all__ = ["Comparison", "Increase", "increase"]


def increase(
    model: nn.Module,
    result: Compressed,
    batches: Batches,
    loss_fn: Loss | None = None,
    *,
    labelled: bool,
    ranges: Ranges | None = None,
) -> float:
    """By how much ``result`` in the place of the tables raises the mean loss on ``batches``.

    With ``labelled`` the difference of the mean loss, for rows that the tables have not seen.
    Without, for binary logits, the mean of KL(p || p') between the predictions before and after:
    the increase that is to be expected if p is right. The model is afterwards as it was.

    Raises:
        DataError: the batches are empty, an iterator, or without labels where these are needed; or
            come in another order the second time where predictions are compared.
        MetricError: a loss or a logit is not finite.
        ModuleError: ``result`` does not fit the model.
    """
    return Comparison(model, batches, loss_fn, ranges, labelled=labelled).of(result).mean


@dataclass(frozen=True)
class Increase:
    """A mean over examples, in nats, and its standard error."""

    mean: float
    error: float


class Comparison:
    """What the uncompressed model does on some rows, to which compressed ones are compared."""

    def __init__(
        self,
        model: nn.Module,
        batches: Batches,
        loss_fn: Loss | None,
        ranges: Ranges | None,
        *,
        labelled: bool,
    ) -> None:
        self._model, self._batches, self._ranges = model, batches, ranges
        self._loss_fn, self._logits = loss_fn, logits_by(loss_fn)
        self._labelled = labelled
        check_repeatable(batches, "batches to compare predictions on")
        with evaluating(model):
            self._before = list(self._outputs())
        if not self._before:
            raise DataError("no batches to compare predictions on")
        if not self._has_losses:
            check_order(batches)

    def of(self, result: Compressed) -> Increase:
        """The increase with ``result`` in place."""
        total, squares, examples = 0.0, 0.0, 0
        with _holding(self._model, result, self._ranges), evaluating(self._model):
            for before, after in zip(self._before, self._outputs(), strict=True):
                each = after - before if self._has_losses else _kl(before, after)
                total += float(each.sum())
                squares += float(each.square().sum())
                examples += len(before)
        mean = total / examples
        variance = max(squares / examples - mean**2, 0.0)
        return Increase(mean, math.sqrt(variance / examples))

    @property
    def _has_losses(self) -> bool:
        """Whether losses are compared, whose sum depends on no order; logits otherwise."""
        return self._labelled or self._logits is None

    def _outputs(self) -> Iterator[Tensor]:
        """For each batch the logits, or the losses of its examples, (n,) float64."""
        device = next((parameter.device for parameter in self._model.parameters()), None)
        for index, (inputs, labels) in enumerate(pairs(self._batches)):
            outputs = outputs_of(self._model, inputs, device, index)
            values = self._compared(outputs, labels, index)
            if not bool(values.isfinite().all()):
                what = "loss" if self._has_losses else "logit"
                raise MetricError(f"batch {index}: a {what} to compare is not finite")
            yield values

    def _compared(self, outputs: Tensor, labels: Any, index: int) -> Tensor:
        if self._logits is None:
            assert self._loss_fn is not None
            loss = float(self._loss_fn(outputs, moved(labels, outputs.device)))
            return torch.full((len(outputs),), loss, dtype=torch.float64)
        check_logits(outputs, labels, index)
        logits = self._logits(outputs.reshape(-1)).double().cpu()
        if not self._labelled:
            return logits
        if not isinstance(labels, Tensor) or labels.numel() != len(logits):
            raise DataError(f"batch {index}: {len(logits)} logits need as many labels")
        return nn.functional.softplus(logits) - labels.reshape(-1).double().cpu() * logits


def _kl(before: Tensor, after: Tensor) -> Tensor:
    """KL(p || p') of each example in nats, from logits (n,) float64."""
    p = torch.sigmoid(before)
    softplus = nn.functional.softplus
    return p * (before - after) + softplus(after) - softplus(before)


@contextmanager
def _holding(model: nn.Module, result: Compressed, ranges: Ranges | None) -> Iterator[None]:
    """``result`` in the model, and in the end the model's own modules again."""
    tables = named_tables(model, set(result), ranges or {})
    own = {m for table in tables for m in (*table.modules.values(), *table.tied.values())}
    # Of a table that ``result`` holds uncompressed, the module stays and its rows are overwritten.
    rows = [(t.weight, t.weight.detach().clone()) for t in tables if is_raw(t, result)]
    places = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent._modules.items()
        if child in own
    ]
    try:
        replace_embeddings_(model, result, ranges)
        yield
    finally:
        for parent, name, child in places:
            parent._modules[name] = child
        with torch.no_grad():
            for weight, values in rows:
                weight.copy_(values)
