"""Everything in one call: count, measure, compress, put back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from saec.budget import Budget, LossIncrease
from saec.codecs.axes import Axes
from saec.codecs.codec import Codec
from saec.compress import Priced
from saec.compressed import Compressed
from saec.errors import BudgetError, DataError, MetricError, OptionError
from saec.torch.calls import (
    Batches,
    Loss,
    check_logits,
    check_order,
    check_repeatable,
    evaluating,
    is_log_loss,
    moved,
    outputs_of,
)
from saec.torch.counting import count_lookups
from saec.torch.metrics import loss_metrics
from saec.torch.replace import is_raw, replace_embeddings_
from saec.torch.tables import Ranges, fields, named_tables

__all__ = ["compress_", "increase"]

# A forecast in nats is corrected by what the compressed model shows, until it is this close.
_ROUNDS = 6
_CLOSE = 0.05


def compress_(
    model: nn.Module,
    batches: Batches,
    loss_fn: Loss | None = None,
    budget: Budget | None = None,
    *,
    frequencies: Mapping[str, ArrayLike] | None = None,
    calibration: Batches | None = None,
    codec: Codec | None = None,
    ranges: Ranges | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Compressed:
    """Compress the embedding tables of ``model`` to a budget, in place.

    Measures the loss metric on ``batches``, compresses, and puts the compressed tables in the place
    of the model's own. With a :class:`saec.LossIncrease` the forecast is checked against the
    compressed model itself, see :func:`increase`, and the allocation corrected until that is what
    the budget allows.

    Args:
        model: any module with ``nn.Embedding`` or ``nn.EmbeddingBag`` modules.
        batches: (inputs, labels) pairs for the metric, see :func:`saec.torch.loss_metrics`.
        loss_fn: see there; None for the log loss of binary logits.
        budget: what the result may take or lose.
        frequencies: (vocab_size,) counts in the training log of every field to be compressed; see
            :func:`saec.torch.fields` and :mod:`saec.frequency`. If None, all tables are compressed,
            and counted as ``batches``, all of which pass through the model for that: then these
            should be the training log, and can be iterated more than once.
        calibration: labelled batches of rows that the tables have not seen, for ``LossIncrease``;
            can be iterated more than once. If None, the compressed model's predictions are compared
            with the uncompressed one's on ``batches``, which can be iterated more than once then,
            in the same order; that needs no labels, but takes what rare rows have learned by heart
            for knowledge, and promises too much loss where they have.
        codec: ``Axes()`` if None; one that renumbers features does not fit a model, whose ids stay.
        ranges: fields of joint tables; see :func:`saec.torch.fields`.
        seed: see :func:`saec.compress`.
        progress: show bars on stderr for work over two seconds.

    Returns:
        The compressed tables, which can be saved. With ``LossIncrease`` their
        ``predicted_loss_increase`` is what was measured.

    Raises:
        BudgetError: the budget is missing or cannot be met.
        OptionError: the codec renumbers features.
        DataError: batches that are needed more than once are an iterator, or come in another order;
            or see the functions named above.
        ModuleError, MetricError, FieldError: see there. After any error the model is as it was.
    """
    if budget is None:
        raise BudgetError("compress_ needs a budget, such as saec.LossIncrease(1e-4)")
    if isinstance(codec, Axes) and codec.order == "frequency":
        raise OptionError(
            "order='frequency' renumbers features, and the model's ids stay as they are: use "
            "order='keep'"
        )
    if frequencies is None:
        check_repeatable(batches, "batches")
    target = None
    if isinstance(budget, LossIncrease):
        rows, labelled = (batches, False) if calibration is None else (calibration, True)
        target = (budget.value, _Comparison(model, rows, loss_fn, ranges, labelled=labelled))
    if frequencies is None:
        frequencies = count_lookups(model, batches, ranges, progress=progress)
    tables = fields(model, frequencies, ranges)
    names = [field.name for field in tables]
    metrics = loss_metrics(model, batches, loss_fn, names=names, ranges=ranges, progress=progress)
    priced = Priced.of(tables, codec, metrics, seed=seed, progress=progress)
    result = priced.compress(budget) if target is None else _calibrated(priced, *target)
    replace_embeddings_(model, result, ranges)
    return result


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
    return _Comparison(model, batches, loss_fn, ranges, labelled=labelled).of(result)


def _calibrated(priced: Priced, wanted: float, known: _Comparison) -> Compressed:
    """Compress until the measured increase is ``wanted``, by correcting what is asked for."""
    asked, best = wanted, None
    for _ in range(_ROUNDS):
        result = priced.compress(LossIncrease(asked))
        measured = known.of(result)
        result = Compressed(list(result.values()), max(measured, 0.0))
        if measured <= wanted * (1 + _CLOSE) and (best is None or result.nbytes < best.nbytes):
            best = result
        if abs(measured - wanted) <= _CLOSE * wanted:
            break
        # A quarter to four times at once, should the measure be noise or the curve be steep.
        asked *= min(max(wanted / max(measured, 1e-12), 0.25), 4.0)
    if best is None:
        raise BudgetError(
            f"a loss increase of {wanted:g} was not met in {_ROUNDS} attempts: the last one "
            f"gave {measured:.3g} on the calibration rows"
        )
    return best


class _Comparison:
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
        self._loss_fn = None if is_log_loss(loss_fn) else loss_fn
        self._labelled = labelled
        check_repeatable(batches, "batches to compare predictions on")
        with evaluating(model):
            self._before = list(self._outputs())
        if not self._before:
            raise DataError("no batches to compare predictions on")
        if not self._has_losses:
            check_order(batches)

    def of(self, result: Compressed) -> float:
        """The mean increase with ``result`` in place."""
        total, examples = 0.0, 0
        with _holding(self._model, result, self._ranges), evaluating(self._model):
            for before, after in zip(self._before, self._outputs(), strict=True):
                total += float((after - before).sum()) if self._has_losses else _kl(before, after)
                examples += len(before)
        return total / examples

    @property
    def _has_losses(self) -> bool:
        """Whether losses are compared, whose sum depends on no order; logits otherwise."""
        return self._labelled or self._loss_fn is not None

    def _outputs(self) -> Iterator[Tensor]:
        """For each batch the logits, or the losses of its examples, (n,) float64."""
        device = next((parameter.device for parameter in self._model.parameters()), None)
        for index, (inputs, labels) in enumerate(self._batches):
            outputs = outputs_of(self._model, inputs, device, index)
            values = self._compared(outputs, labels, index)
            if not bool(values.isfinite().all()):
                what = "loss" if self._has_losses else "logit"
                raise MetricError(f"batch {index}: a {what} to compare is not finite")
            yield values

    def _compared(self, outputs: Tensor, labels: Any, index: int) -> Tensor:
        if self._loss_fn is not None:
            loss = float(self._loss_fn(outputs, moved(labels, outputs.device)))
            return torch.full((len(outputs),), loss, dtype=torch.float64)
        check_logits(outputs, labels, index)
        logits = outputs.reshape(-1).double().cpu()
        if not self._labelled:
            return logits
        if not isinstance(labels, Tensor) or labels.numel() != len(logits):
            raise DataError(f"batch {index}: {len(logits)} logits need as many labels")
        return nn.functional.softplus(logits) - labels.reshape(-1).double().cpu() * logits


def _kl(before: Tensor, after: Tensor) -> float:
    """Sum of KL(p || p') in nats, from logits (n,) float64."""
    p = torch.sigmoid(before)
    softplus = nn.functional.softplus
    return float((p * (before - after) + softplus(after) - softplus(before)).sum())


@contextmanager
def _holding(model: nn.Module, result: Compressed, ranges: Ranges | None) -> Iterator[None]:
    """``result`` in the model, and in the end the model's own modules again."""
    tables = named_tables(model, set(result), ranges or {})
    own = {module for table in tables for module in table.modules.values()}
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
