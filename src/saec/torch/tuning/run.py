"""One fine-tuning: steps, evaluations and the best state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from saec.errors import ModuleError, OptionError
from saec.torch.measure.labels import (
    check_batch,
    check_log_loss,
    warn_of_probabilities,
)
from saec.torch.model.call import (
    Batches,
    Loss,
    call,
    evaluating,
    moved,
    pairs,
)
from saec.torch.model.wrappers import check_unwrapped
from saec.torch.table.learned import LearnedTable
from saec.torch.tuning.ranks import Exchange, Gradients, Ranks, Share, checksum
from saec.torch.tuning.teacher import count_of, distillation, log_loss
from saec.util.progress import Bar, bar

__all__ = ["FineTuneResult", "FineTuning", "Schedule", "only_learning"]


@dataclass(frozen=True)
class FineTuneResult:
    """Result of fine-tuning.

    Attributes:
        losses: mean validation loss before the first step and at each evaluation, of the tables as
            an artifact would store them; NaN if training diverged.
        steps: optimizer steps taken at each of them; ``steps[0]`` is 0.
        best: index of the evaluation whose tables the model now holds.
    """

    losses: tuple[float, ...]
    steps: tuple[int, ...]
    best: int

    @property
    def improvement(self) -> float:
        """Decrease of the validation loss, never negative."""
        return self.losses[0] - self.losses[self.best]


@dataclass(frozen=True)
class Schedule:
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

    @property
    def check(self) -> int:
        """A value that identifies this schedule."""
        numbers = (self.learning_rate, self.epochs, self.evaluations, self.patience)
        return checksum([torch.tensor(numbers, dtype=torch.float64)])

    def due(self, count: int) -> set[int]:
        """The numbers, from 1 on, of an epoch's ``count`` batches after which to evaluate."""
        return {
            round(count * (part + 1) / self.evaluations) for part in range(self.evaluations)
        } - {0}


class FineTuning:
    """One fine-tuning: tables, their best state and the validation losses so far."""

    def __init__(
        self,
        model: nn.Module,
        batches: Batches,
        validation: Batches,
        loss_fn: Loss,
        schedule: Schedule,
        ranks: Ranks,
    ) -> None:
        self.tables = [module for module in model.modules() if isinstance(module, LearnedTable)]
        if not self.tables:
            raise ModuleError("the model has no compressed modules to fine-tune")
        check_unwrapped(model)
        wrapped = nn.parallel.DistributedDataParallel
        if ranks.count > 1 and any(isinstance(part, wrapped) for part in model.modules()):
            raise ModuleError(
                "ranks exchange gradients themselves: give the module in DistributedDataParallel"
            )
        self.count = count_of(batches, "batches")
        self.judged = count_of(validation, "validation")
        self.model = model
        self.batches = batches
        self.validation = validation
        self.loss_fn = loss_fn
        self.schedule = schedule
        self.ranks = ranks
        self.learned = [value for table in self.tables for value in table.parameters()]
        self.device = self.learned[0].device
        self.optimizer = torch.optim.Adam(self.learned, lr=schedule.learning_rate)
        self.losses: list[float] = []
        self.steps: list[int] = []
        self.best = 0
        self._gradients = Gradients(self.learned)
        self._kept = [table.snapshot() for table in self.tables]

    @property
    def check(self) -> int:
        """A value that identifies this run; ranks must agree on it."""
        if self.ranks.count == 1:
            return 0
        states = [state for table in self.tables for state in table.state_dict().values()]
        return checksum(states, self.schedule.check + 31 * self.count + self.judged)

    def train(self, targets: Sequence[Tensor] | None) -> FineTuneResult:
        """Train until the end or until patience is exhausted; end, also if interrupted, with the
        best."""
        total = self.schedule.epochs * self.count
        with (
            evaluating(self.model),
            only_learning(self.learned, self.model),
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
            batches, index = pairs(self.batches), 0
            while self._step(batches, targets, index):
                step += 1
                index += 1
                shown.advance()
                if index in due:
                    self._evaluate(step)
                    if len(self.losses) - 1 - self.best >= self.schedule.patience:
                        return

    def _step(
        self, batches: Iterator[tuple[Any, Any]], targets: Sequence[Tensor] | None, index: int
    ) -> bool:
        """Train on the next batch; False if there is none."""
        self.optimizer.zero_grad()
        with self.ranks.together(f"batch {index}", self._gradients.like) as joint:
            batch = next(batches, None)
            if batch is not None:
                self._learn(joint, batch, None if targets is None else targets[index], index)
        if batch is None:
            return False
        if self.ranks.count > 1:
            self._gradients.set_means(joint.value)
        self.optimizer.step()
        for table in self.tables:
            table.settle_()
        return True

    def _learn(
        self, joint: Exchange, batch: tuple[Any, Any], target: Tensor | None, index: int
    ) -> None:
        """Gradients of this rank's share of a batch."""
        inputs, labels = batch
        share = self.ranks.share(inputs, labels if target is None else None)
        if share.examples != 0:
            self._backward(share, target, index)
        if share.examples is not None:
            joint.check = share.check
            joint.value = self._gradients.sums(share.examples)

    def _backward(self, share: Share, target: Tensor | None, index: int) -> None:
        with torch.enable_grad():
            outputs = call(self.model, share.inputs, self.device)
            if target is None:
                loss = self.loss_fn(outputs, self._labels(outputs, share, index))
            else:
                loss = distillation(outputs, target.to(outputs.device), index)
        loss.backward()  # type: ignore[no-untyped-call]

    def _labels(self, outputs: Tensor, share: Share, index: int) -> Any:
        """The labels of a share of batch ``index``, checked as far as the loss is known."""
        if self.loss_fn is log_loss:
            check_log_loss(outputs, share.labels, index)
        else:
            check_batch(outputs, share.labels, self.loss_fn, index)
        return moved(share.labels, self.device)

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
        sums = torch.zeros(2, dtype=torch.float64)
        with self.ranks.together("validation", sums) as joint:
            if all(torch.isfinite(value).all() for value in self.learned):
                for table in self.tables:
                    table.round_()
                self._validate(joint)
            else:
                joint.value = sums + torch.nan
        total, examples = joint.value.tolist()
        return float(total / examples)

    def _validate(self, joint: Exchange) -> None:
        """The sum of this rank's validation losses, and the number of its examples."""
        total, examples = 0.0, 0
        for index, (inputs, labels) in enumerate(pairs(self.validation)):
            share = self.ranks.share(inputs, labels)
            joint.check += share.check
            if share.examples == 0:
                continue
            outputs = call(self.model, share.inputs, self.device)
            if index == 0 and not self.losses and self.loss_fn is log_loss:
                warn_of_probabilities(outputs)
            total += len(outputs) * float(
                self.loss_fn(outputs, self._labels(outputs, share, index))
            )
            examples += len(outputs)
        joint.value = torch.tensor([total, examples], dtype=torch.float64)


@contextmanager
def only_learning(learned: Sequence[nn.Parameter], model: nn.Module) -> Iterator[None]:
    """Gradients for ``learned`` only; all flags and gradients are restored at the end."""
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
