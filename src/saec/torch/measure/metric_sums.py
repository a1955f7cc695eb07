"""Sums of gradient products of one measurement of loss metrics."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from saec.errors import DataError, MetricError
from saec.tables.loss_metric import LossMetrics
from saec.tables.unseen_gradients import UnseenGradients
from saec.torch.measure.labels import check_batch, one_number
from saec.torch.model.call import (
    Loss,
    is_squared_error,
    logits_by,
    moved,
    outputs_of,
)
from saec.torch.model.model_table import ModelTable
from saec.torch.model.record_lookups import (
    RecordedLookup,
    all_finite,
    gradients_of,
    single_precision,
    split_fields,
    without_padding,
)

__all__ = ["MetricSums", "unchanged"]

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class _Sums:
    """What a field's lookups add up to.

    The traces are those of units, the independent parts of which the matrix is a sum: examples,
    or bags. Calls of a module with equally many units are taken to be for the same examples.
    """

    matrix: Tensor  # (dim, dim)
    first: Tensor  # sum of the units' traces
    second: Tensor  # sum of their squares
    units: int = 0
    traces: dict[int, Tensor] = field(default_factory=dict)  # of the batch, by number of units

    @classmethod
    def zero(cls, weight: Tensor) -> _Sums:
        dim = weight.shape[1]
        zeros = torch.zeros(dim + 2, dim, dtype=torch.float64, device=weight.device)
        return cls(zeros[:dim], zeros[dim, 0], zeros[dim + 1, 0])

    def add(self, gradients: Tensor, units: Tensor, count: int) -> None:
        """Add lookups: their gradients (m, dim) float64, and which of ``count`` units they are."""
        self.matrix += gradients.T @ gradients
        traces = self.traces.setdefault(count, self.matrix.new_zeros(count))
        traces.index_add_(0, units, gradients.square().sum(1))

    def add_even(self, gradients: Tensor, count: int) -> None:
        """Add gradients (m, dim) float64 of ``count`` units, of which each has an equal part."""
        self.matrix += gradients.T @ gradients
        traces = self.traces.setdefault(count, self.matrix.new_zeros(count))
        traces += gradients.square().sum() / count

    def close(self) -> None:
        """End a batch."""
        for count, traces in self.traces.items():
            self.units += count
            self.first += traces.sum()
            self.second += traces.square().sum()
        self.traces = {}

    def relative_error(self) -> float:
        first, second = float(self.first), float(self.second)
        if first == 0 or self.units < 2:
            return math.inf
        variance = max(0.0, second - first**2 / self.units) * self.units / (self.units - 1)
        return math.sqrt(variance) / first


class MetricSums:
    """One measurement: its sums, and what the modules looked up in the current batch."""

    def __init__(
        self, model: nn.Module, tables: Sequence[ModelTable], loss_fn: Loss | None
    ) -> None:
        self.model = model
        self.tables = tables
        self.loss_fn, self.logits = loss_fn, logits_by(loss_fn)
        self.device = tables[0].weight.device
        self.sums = {part.name: _Sums.zero(t.weight) for t in tables for part in t.parts}
        self.signs = np.random.default_rng(0)
        self.examples = 0
        self.lookups: list[RecordedLookup] = []

    def add(self, inputs: Any, labels: Any, index: int) -> int:
        """Add batch ``index``; returns its number of examples."""
        self.lookups.clear()
        outputs = outputs_of(self.model, inputs, self.device, index)
        loss = self._loss(outputs, moved(labels, self.device), index)
        if not math.isfinite(float(loss.detach())):
            raise MetricError(f"batch {index}: the loss is {float(loss.detach())}")
        # Activation checkpoints look rows up again during backward; those are the same lookups.
        lookups = list(self.lookups)
        gradients, computed = gradients_of(loss, lookups, self.tables)
        for lookup, gradient in gradients:
            self._add(lookup, gradient, index)
        if computed:
            self._add_computed(computed, outputs, loss, index)
        for sums in self.sums.values():
            sums.close()
        self.examples += len(outputs)
        return len(outputs)

    def relative_errors(self) -> dict[str, float]:
        return {name: sums.relative_error() for name, sums in self.sums.items()}

    def result(
        self,
        unseen: Mapping[str, UnseenGradients] | None = None,
        unknown: Mapping[str, NDArray[np.float64]] | None = None,
    ) -> LossMetrics:
        """The metrics, with the gradients on ``unseen`` rows and the matrices for ``unknown`` keys
        by field name."""
        for name, sums in self.sums.items():
            if float(sums.first) == 0:
                logger.warning(
                    "field %r: its metric is zero, none of %d examples depends on its rows; "
                    "they will be compressed by Euclidean distance",
                    name,
                    self.examples,
                )
        errors = self.relative_errors()
        return LossMetrics(self.matrices(), self.examples, errors, unseen, unknown)

    def matrices(self) -> dict[str, NDArray[np.float64]]:
        """(dim, dim) by field name."""
        if self.examples == 0:
            raise DataError("batches are empty")
        return {
            name: (sums.matrix / self.examples).cpu().numpy() for name, sums in self.sums.items()
        }

    def _add(self, lookup: RecordedLookup, gradient: Tensor, index: int) -> None:
        """Give a call's lookups to the sums of their fields."""
        gradients = gradient.reshape(-1, gradient.shape[-1]).double()
        ids, units, gradients = lookup.unpadded(lookup.units, gradients)
        if not all_finite(gradients):
            raise MetricError(f"batch {index}: a gradient at {lookup.path!r} is not finite")
        for name, chosen in split_fields(lookup.table, ids):
            own = self._wanted(name, ids, chosen)
            self.sums[name].add(gradients[own], units[own], lookup.count)

    def _wanted(self, name: str, ids: Tensor, chosen: Tensor | slice) -> Tensor | slice:
        """Those of the ``chosen`` lookups of a field that count."""
        return chosen

    def _add_computed(
        self, tables: Sequence[ModelTable], outputs: Tensor, loss: Tensor, index: int
    ) -> None:
        """Add what rows get by computations with their tables' weights.

        With a random sign for each example, products of different examples vanish on average.
        """
        (at_outputs,) = torch.autograd.grad(loss, outputs, retain_graph=True)
        shape = (len(outputs), *[1] * (outputs.ndim - 1))
        signs = torch.from_numpy(self.signs.choice([-1.0, 1.0], size=shape)).to(at_outputs)
        weights = [table.weight for table in tables]
        found = torch.autograd.grad(outputs, weights, signs * at_outputs)
        for table, gradients in zip(tables, found, strict=True):
            if not all_finite(gradients):
                raise MetricError(f"batch {index}: a gradient at {table.path!r} is not finite")
            rows = without_padding(table, gradients.double())
            for part in table.parts:
                self.sums[part.name].add_even(rows[part.first : part.last], len(outputs))

    def _loss(self, outputs: Tensor, labels: Any, index: int) -> Tensor:
        """The sum of the examples' losses, so that each gradient is that of its own example."""
        check_batch(outputs, labels, self.loss_fn, index)
        if self.logits is not None:
            return _spread(self.logits(outputs.reshape(-1)))
        assert self.loss_fn is not None
        if is_squared_error(self.loss_fn) and outputs.numel() == len(outputs):
            # h h' = 2 g g', the curvature itself: 1/2 delta' G delta is the squared change.
            return math.sqrt(2) * single_precision(outputs).sum()
        loss = one_number(self.loss_fn(outputs, labels), f"batch {index}")
        return single_precision(loss) * len(outputs)


def _spread(logits: Tensor) -> Tensor:
    """A stand-in for the log loss, with h h' = p (1 - p) g g' for g = d logit / d row.

    That is the mean of h h' over labels drawn from the prediction p, without the noise of drawing.
    """
    logits = single_precision(logits)
    p = torch.sigmoid(logits.detach().double())
    return (torch.sqrt(p * (1 - p)).to(logits.dtype) * logits).sum()


@contextmanager
def unchanged(model: nn.Module, tables: Sequence[ModelTable]) -> Iterator[None]:
    """Eval mode and gradients on; flags, buffers and random state restored at the end."""
    # Of a frozen table, too, it must be seen what the model computes with it.
    frozen = [t.weight for t in tables if not (t.weight.requires_grad or t.weight.is_inference())]
    training = {module: module.training for module in model.modules()}
    buffers = [(m, name, b) for m in model.modules() for name, b in m._buffers.items()]
    written = [b for _, _, b in buffers if b is not None]
    # Tables that are not measured may renormalise themselves in a lookup.
    written += [
        module.weight
        for module in model.modules()
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.max_norm is not None
    ]
    saved = [(tensor, tensor._version, tensor.detach().clone()) for tensor in written]
    # Asking for the state of a GPU that nobody uses would start it.
    on_gpu = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = list(range(torch.cuda.device_count())) if on_gpu else []
    # cuDNN's recurrent layers have no backward in eval mode; PyTorch's own have.
    cudnn = torch.backends.cudnn.flags(enabled=False)
    try:
        # inference_mode(False) turns gradients on, whichever way they were turned off.
        with torch.random.fork_rng(devices), torch.inference_mode(False), cudnn:
            model.eval()
            for weight in frozen:
                weight.requires_grad_()
            yield
    finally:
        for weight in frozen:
            weight.requires_grad_(False)
        for module, flag in training.items():
            module.training = flag
        for module, name, buffer in buffers:
            module._buffers[name] = buffer
        with torch.no_grad():
            for tensor, version, values in saved:
                if tensor._version != version:
                    tensor.copy_(values)
