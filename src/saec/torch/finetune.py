"""Train what compressed tables learn; codes and network stay as they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from saec.errors import DataError, ModuleError, OptionError
from saec.progress import Bar, bar
from saec.torch.base import LearnedTable
from saec.torch.calls import (
    Batches,
    Loss,
    call,
    check_order,
    check_repeatable,
    evaluating,
    moved,
)

__all__ = ["FineTuneResult", "finetune", "finetune_on_unseen_rows", "predictions"]


@dataclass(frozen=True)
class FineTuneResult:
    """What fine-tuning did.

    Attributes:
        losses: mean validation loss before the first step and at each evaluation, of the tables as
            an artifact would store them; not a number where training had diverged.
        steps: optimizer steps taken at each of them; ``steps[0]`` is 0.
        best: index of the evaluation whose tables the model now holds.
    """

    losses: tuple[float, ...]
    steps: tuple[int, ...]
    best: int

    @property
    def improvement(self) -> float:
        """By how much the validation loss fell, never negative."""
        return self.losses[0] - self.losses[self.best]


def finetune(
    model: nn.Module,
    batches: Batches,
    *,
    validation: Batches,
    teacher: nn.Module | Sequence[Tensor] | None = None,
    loss_fn: Loss | None = None,
    learning_rate: float = 3e-4,
    epochs: int = 1,
    evaluations: int = 4,
    patience: int = 4,
    progress: bool = True,
) -> FineTuneResult:
    """Let a compressed model learn the uncompressed one's predictions; keep the best state.

    Codebooks learn, and values, axes and means, by Adam. This is distillation, the safe way to use
    the rows that trained the model: the loss is the binary cross-entropy against the sigmoid of the
    teacher's logits, and labels are not looked at. They are, for rows that the tables have not
    seen, in :func:`finetune_on_unseen_rows`, which is what ``loss_fn`` asks for.

    Before each evaluation tables are rounded as an artifact would store them. The state that
    validation likes best is kept, rounded; the one before the first step is among them. So the
    model never gets worse on ``validation``, and :func:`saec.torch.sync_codebooks_` changes nothing
    more.

    The model runs in eval mode (no dropout, frozen batch statistics). All flags and gradients are
    afterwards as they were. Batches are used in the given order; whoever shuffles, seeds.

    Args:
        model: holds compressed modules; ``model(*inputs)`` gives logits, (n,) or (n, 1), or
            whatever ``loss_fn`` takes.
        batches: (inputs, labels) pairs that can be iterated more than once, such as a list or a
            DataLoader; inputs are a tensor or a tuple of arguments. Tensors are moved to the
            device of the tables.
        validation: the same, of rows that trained neither tables nor codebooks.
        teacher: the uncompressed model, or what :func:`predictions` gave of it, one tensor of
            logits for each batch. Batches must come in the same order each time.
        loss_fn: in place of a teacher, see :func:`finetune_on_unseen_rows`.
        learning_rate: Adam's.
        epochs: passes over ``batches``.
        evaluations: evaluations for each epoch, evenly spaced.
        patience: stop after so many evaluations in a row without improvement.
        progress: show a progress bar.

    Raises:
        ModuleError: the model has no compressed module.
        DataError: batches or validation are empty or cannot be iterated twice, or the teacher's
            logits do not fit the batches or these come in another order the second time.
        OptionError: not exactly one of ``teacher`` and ``loss_fn``, or a number out of range.
    """
    if (teacher is None) == (loss_fn is None):
        raise OptionError("give either a teacher or a loss_fn")
    schedule = _Schedule(learning_rate, epochs, evaluations, patience, progress)
    run = _Run(model, batches, validation, loss_fn or _log_loss, schedule)
    if teacher is None:
        return run.train(None)
    check_order(batches)
    if isinstance(teacher, nn.Module):
        teacher = predictions(teacher, batches, progress=progress)
    if len(teacher) != run.count:
        raise DataError(f"{run.count} batches, but a teacher's logits for {len(teacher)}")
    return run.train(teacher)


def finetune_on_unseen_rows(
    model: nn.Module,
    batches: Batches,
    loss_fn: Loss | None = None,
    *,
    validation: Batches,
    learning_rate: float = 3e-4,
    epochs: int = 1,
    evaluations: int = 4,
    patience: int = 4,
    progress: bool = True,
) -> FineTuneResult:
    """Train tables on the labels of rows that they have never seen; otherwise :func:`finetune`.

    Only of such rows: a rare feature's row has memorised the labels of its own few examples, so on
    those examples the tables look far better than they are, and training on them teaches the model
    to trust what does not generalise. In our experiments one such epoch cost 0.04 of AUC. For the
    same reason ``validation`` must hold unseen rows.

    Args:
        model: see :func:`finetune`, as for all that is not said here.
        batches: (inputs, labels) pairs of rows that trained no table.
        loss_fn: ``loss_fn(outputs, labels)``, the mean over a batch, in training and validation;
            None for the log loss of logits.
        validation: further unseen rows.
        learning_rate: Adam's.
        epochs: passes over ``batches``.
        evaluations: evaluations for each epoch, evenly spaced.
        patience: stop after so many evaluations in a row without improvement.
        progress: show a progress bar.

    Raises:
        ModuleError, DataError, OptionError: see :func:`finetune`.
    """
    return finetune(
        model,
        batches,
        validation=validation,
        loss_fn=loss_fn or _log_loss,
        learning_rate=learning_rate,
        epochs=epochs,
        evaluations=evaluations,
        patience=patience,
        progress=progress,
    )


def predictions(model: nn.Module, batches: Batches, *, progress: bool = True) -> list[Tensor]:
    """The model's outputs in eval mode, a tensor on the CPU for each of ``batches``.

    With these as the teacher of :func:`finetune`, the model itself need not be kept in memory.

    Args:
        model: any module; tensors are moved to the device of its first parameter.
        batches: see :func:`finetune`.
        progress: show a progress bar.
    """
    device = next((parameter.device for parameter in model.parameters()), None)
    outputs = []
    with (
        evaluating(model),
        bar("asking the teacher", _count(batches, "batches"), progress) as shown,
    ):
        for inputs, _ in batches:
            outputs.append(call(model, inputs, device).cpu())
            shown.advance()
    return outputs


@dataclass(frozen=True)
class _Schedule:
    """When to evaluate and when to stop; see :func:`finetune`."""

    learning_rate: float
    epochs: int
    evaluations: int
    patience: int
    progress: bool

    def __post_init__(self) -> None:
        for name in ("epochs", "evaluations", "patience"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise OptionError(f"learning_rate must be positive, not {self.learning_rate}")

    def due(self, count: int) -> set[int]:
        """After which of an epoch's ``count`` batches to evaluate, from 1 on."""
        return {
            round(count * (part + 1) / self.evaluations) for part in range(self.evaluations)
        } - {0}


class _Run:
    """One fine-tuning: tables, their best state and the validation losses so far."""

    def __init__(
        self,
        model: nn.Module,
        batches: Batches,
        validation: Batches,
        loss_fn: Loss,
        schedule: _Schedule,
    ) -> None:
        self.tables = [module for module in model.modules() if isinstance(module, LearnedTable)]
        if not self.tables:
            raise ModuleError("the model has no compressed modules to fine-tune")
        self.count = _count(batches, "batches")
        _count(validation, "validation")
        self.model = model
        self.batches = batches
        self.validation = validation
        self.loss_fn = loss_fn
        self.schedule = schedule
        self.learned = [value for table in self.tables for value in table.parameters()]
        self.device = self.learned[0].device
        self.optimizer = torch.optim.Adam(self.learned, lr=schedule.learning_rate)
        self.losses: list[float] = []
        self.steps: list[int] = []
        self.best = 0
        self._kept = [table.snapshot() for table in self.tables]

    def train(self, targets: Sequence[Tensor] | None) -> FineTuneResult:
        """Train until the end or until patience is lost; end, or be interrupted, at the best."""
        total = self.schedule.epochs * self.count
        with (
            evaluating(self.model),
            _only_learning(self.learned, self.model),
            bar("fine-tuning", total, self.schedule.progress) as shown,
        ):
            try:
                self._evaluate(0)
                self._epochs(targets, shown)
            finally:
                for table, kept in zip(self.tables, self._kept, strict=True):
                    table.restore_(kept)
        return FineTuneResult(tuple(self.losses), tuple(self.steps), self.best)

    def _epochs(self, targets: Sequence[Tensor] | None, shown: Bar) -> None:
        due, step = self.schedule.due(self.count), 0
        for _ in range(self.schedule.epochs):
            for index, (inputs, labels) in enumerate(self.batches):
                self._step(inputs, labels, targets, index)
                step += 1
                shown.advance()
                if index + 1 in due:
                    self._evaluate(step)
                    if len(self.losses) - 1 - self.best >= self.schedule.patience:
                        return

    def _step(self, inputs: Any, labels: Any, targets: Sequence[Tensor] | None, index: int) -> None:
        with torch.enable_grad():
            outputs = call(self.model, inputs, self.device)
            if targets is None:
                loss = self.loss_fn(outputs, moved(labels, self.device))
            else:
                loss = _distillation(outputs, targets[index].to(outputs.device), index)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        for table in self.tables:
            table.settle_()

    def _evaluate(self, step: int) -> None:
        """Append the validation loss of the rounded tables, and keep them if it is the best."""
        before = [table.snapshot() for table in self.tables]
        self.losses.append(self._rounded_loss())
        self.steps.append(step)
        if step == 0 or self.losses[-1] < self.losses[self.best]:
            self.best = len(self.losses) - 1
            self._kept = [table.snapshot() for table in self.tables]
        for table, unrounded in zip(self.tables, before, strict=True):
            table.restore_(unrounded)

    def _rounded_loss(self) -> float:
        if not all(torch.isfinite(value).all() for value in self.learned):
            return float("nan")
        for table in self.tables:
            table.round_()
        total, examples = 0.0, 0
        for inputs, labels in self.validation:
            outputs, labels = call(self.model, inputs, self.device), moved(labels, self.device)
            total += len(outputs) * float(self.loss_fn(outputs, labels))
            examples += len(outputs)
        return total / examples


def _log_loss(logits: Tensor, labels: Tensor) -> Tensor:
    flat = logits.reshape(-1).float()
    return functional.binary_cross_entropy_with_logits(flat, labels.reshape(-1).to(flat))


def _distillation(outputs: Tensor, logits: Tensor, index: int) -> Tensor:
    if outputs.numel() != logits.numel():
        raise DataError(
            f"batch {index}: the model gives {outputs.numel()} logits, the teacher {logits.numel()}"
        )
    return _log_loss(outputs, torch.sigmoid(logits.float()))


def _count(batches: Batches, name: str) -> int:
    check_repeatable(batches, name)
    try:
        count = len(batches)  # type: ignore[arg-type]
    except TypeError:
        count = sum(1 for _ in batches)
    if count == 0:
        raise DataError(f"{name} are empty")
    return count


@contextmanager
def _only_learning(learned: Sequence[nn.Parameter], model: nn.Module) -> Iterator[None]:
    """Gradients for ``learned`` only; all flags and gradients at the end as they were."""
    learns = {parameter: parameter.requires_grad for parameter in model.parameters()}
    gradients = [parameter.grad for parameter in learned]
    try:
        for parameter in learns:
            parameter.requires_grad_(False)
        for parameter in learned:
            parameter.requires_grad_(True)
            parameter.grad = None
        yield
    finally:
        for parameter, flag in learns.items():
            parameter.requires_grad_(flag)
        for parameter, gradient in zip(learned, gradients, strict=True):
            parameter.grad = gradient
