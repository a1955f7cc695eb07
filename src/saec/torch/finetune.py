"""Train the codebooks of a compressed model; codes and network stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from saec.errors import DataError, ModuleError, OptionError
from saec.progress import Bar, bar
from saec.torch.modules import CompressedTable

__all__ = ["Batches", "FineTuneResult", "finetune"]

Batches = Iterable[tuple[Any, Any]]
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class FineTuneResult:
    """What fine-tuning did.

    Attributes:
        losses: mean validation loss before the first step and at each evaluation.
        steps: optimizer steps taken at each of them; ``steps[0]`` is 0.
        best: index of the evaluation whose codebooks the model now holds.
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
    """Train the codebooks of a compressed model with Adam, and keep the best that validation saw.

    **Distillation** (``teacher``) is the safe way to use the rows that trained the model: the loss
    is the binary cross-entropy against the sigmoid of the teacher's logits, labels are not looked
    at. **Labels** (``loss_fn``) are only for rows that the embedding tables have never seen. A rare
    feature's row has memorised the labels of its own few examples, so on those examples the tables
    look far better than they are, and training on them teaches the model to trust what does not
    generalise: in our experiments one such epoch cost 0.04 of AUC. For the same reason
    ``validation`` must hold unseen rows.

    The model runs in eval mode (no dropout, frozen batch statistics). All flags and gradients are
    afterwards as they were. Batches are used in the given order; whoever shuffles, seeds.

    Args:
        model: holds compressed modules; ``model(*inputs)`` gives logits, (n,) or (n, 1), or
            whatever ``loss_fn`` takes.
        batches: (inputs, labels) pairs that can be iterated more than once, such as a list or a
            DataLoader; inputs are a tensor or a tuple of arguments. Tensors are moved to the
            device of the codebooks.
        validation: the same, of rows that trained neither tables nor codebooks.
        teacher: the uncompressed model, asked as the batches come; or its logits, one tensor for
            each batch, for batches that come in the same order each time.
        loss_fn: ``loss_fn(outputs, labels)``, the mean over a batch. It is also the validation
            loss, which otherwise is the log loss of the logits.
        learning_rate: Adam's.
        epochs: passes over ``batches``.
        evaluations: evaluations for each epoch, evenly spaced.
        patience: stop after so many evaluations in a row without improvement.
        progress: show a progress bar.

    Raises:
        ModuleError: the model has no compressed module.
        DataError: batches or validation are empty or cannot be iterated twice, or the teacher's
            logits do not fit the batches.
        OptionError: not exactly one of ``teacher`` and ``loss_fn``, or a number out of range.
    """
    if (teacher is None) == (loss_fn is None):
        raise OptionError("give either a teacher or a loss_fn")
    numbers = {"epochs": epochs, "evaluations": evaluations, "patience": patience}
    for name, number in numbers.items():
        if number < 1:
            raise OptionError(f"{name} must be at least 1, not {number}")
    if not learning_rate > 0:
        raise OptionError(f"learning_rate must be positive, not {learning_rate}")
    tables = [module for module in model.modules() if isinstance(module, CompressedTable)]
    if not tables:
        raise ModuleError("the model has no compressed modules to fine-tune")
    count = _count(batches, "batches")
    _count(validation, "validation")
    if teacher is not None and not isinstance(teacher, nn.Module) and len(teacher) != count:
        raise DataError(f"{count} batches, but a teacher's logits for {len(teacher)}")
    codebooks = [table.codebook for table in tables]
    run = _Run(model, tables, validation, loss_fn or _log_loss, learning_rate)
    modules = [model, teacher] if isinstance(teacher, nn.Module) else [model]
    due = {round(count * (part + 1) / evaluations) for part in range(evaluations)} - {0}
    with (
        _frozen_except(codebooks, modules),
        bar("fine-tuning", epochs * count, progress) as shown,
    ):
        run.train(batches, teacher, epochs, due, patience, shown)
    return FineTuneResult(tuple(run.losses), tuple(run.steps), run.best)


class _Run:
    """One fine-tuning: the codebooks, their best state and the validation losses so far."""

    def __init__(
        self,
        model: nn.Module,
        tables: list[CompressedTable],
        validation: Batches,
        loss_fn: Loss,
        learning_rate: float,
    ) -> None:
        self.model = model
        self.tables = tables
        self.codebooks = [table.codebook for table in tables]
        self.validation = validation
        self.loss_fn = loss_fn
        self.optimizer = torch.optim.Adam(self.codebooks, lr=learning_rate)
        self._start = [codebook.detach().clone() for codebook in self.codebooks]
        self.losses: list[float] = []
        self.steps: list[int] = []
        self.best = 0
        self._kept: list[Tensor] = []

    def train(
        self,
        batches: Batches,
        teacher: nn.Module | Sequence[Tensor] | None,
        epochs: int,
        due: set[int],
        patience: int,
        shown: Bar,
    ) -> None:
        """Train until the end or until patience is lost; end, or be interrupted, at the best."""
        self.evaluate(0)
        try:
            step = 0
            for _ in range(epochs):
                for index, (inputs, labels) in enumerate(batches):
                    self._step(inputs, labels, teacher, index)
                    step += 1
                    shown.advance()
                    if index + 1 in due:
                        self.evaluate(step)
                        if len(self.losses) - 1 - self.best >= patience:
                            return
        finally:
            with torch.no_grad():
                for codebook, kept in zip(self.codebooks, self._kept, strict=True):
                    codebook.copy_(kept)

    @torch.no_grad()
    def evaluate(self, step: int) -> None:
        """Append the mean validation loss, and keep the codebooks if it is the best."""
        total, examples = 0.0, 0
        for inputs, labels in self.validation:
            outputs, labels = self._call(self.model, inputs), self._moved(labels)
            total += len(outputs) * float(self.loss_fn(outputs, labels))
            examples += len(outputs)
        self.losses.append(total / examples)
        self.steps.append(step)
        if step == 0 or self.losses[-1] < self.losses[self.best]:
            self.best = len(self.losses) - 1
            self._kept = [codebook.detach().clone() for codebook in self.codebooks]

    def _step(
        self, inputs: Any, labels: Any, teacher: nn.Module | Sequence[Tensor] | None, index: int
    ) -> None:
        outputs = self._call(self.model, inputs)
        if teacher is None:
            loss = self.loss_fn(outputs, self._moved(labels))
        else:
            loss = _distillation(outputs, self._logits(teacher, inputs, index), index)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        for table, start in zip(self.tables, self._start, strict=True):
            table.keep_to_axes_(start)

    @torch.no_grad()
    def _logits(self, teacher: nn.Module | Sequence[Tensor], inputs: Any, index: int) -> Tensor:
        if isinstance(teacher, nn.Module):
            return self._call(teacher, inputs)
        logits: Tensor = self._moved(teacher[index])
        return logits

    def _call(self, model: nn.Module, inputs: Any) -> Tensor:
        arguments = inputs if isinstance(inputs, tuple | list) else (inputs,)
        outputs: Tensor = model(*(self._moved(argument) for argument in arguments))
        return outputs

    def _moved(self, value: Any) -> Any:
        return value.to(self.codebooks[0].device) if isinstance(value, Tensor) else value


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
    if isinstance(batches, Iterator):
        raise DataError(f"{name} must be iterable more than once: a list, not an iterator")
    try:
        count = len(batches)  # type: ignore[arg-type]
    except TypeError:
        count = sum(1 for _ in batches)
    if count == 0:
        raise DataError(f"{name} are empty")
    return count


@contextmanager
def _frozen_except(codebooks: list[nn.Parameter], models: list[nn.Module]) -> Iterator[None]:
    """Eval mode, and gradients for codebooks only; all flags and gradients restored at the end."""
    training = {module: module.training for model in models for module in model.modules()}
    learns = {parameter: parameter.requires_grad for parameter in models[0].parameters()}
    gradients = [codebook.grad for codebook in codebooks]
    try:
        for model in models:
            model.eval()
        for parameter in learns:
            parameter.requires_grad_(False)
        for codebook in codebooks:
            codebook.requires_grad_(True)
            codebook.grad = None
        yield
    finally:
        for module, flag in training.items():
            module.training = flag
        for parameter, flag in learns.items():
            parameter.requires_grad_(flag)
        for codebook, gradient in zip(codebooks, gradients, strict=True):
            codebook.grad = gradient
