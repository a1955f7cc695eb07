"""How batches go through a model: arguments, devices, and which losses are known."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from saec.errors import DataError, ModuleError

__all__ = [
    "Batches",
    "Loss",
    "call",
    "check_logits",
    "check_order",
    "check_repeatable",
    "evaluating",
    "is_log_loss",
    "moved",
    "outputs_of",
]

Batches = Iterable[tuple[Any, Any]]
Loss = Callable[[Tensor, Tensor], Tensor]


def call(model: nn.Module, inputs: Any, device: torch.device | None) -> Any:
    """``model(*inputs)``: inputs are a tensor, or a tuple or list of arguments."""
    arguments: Sequence[Any] = inputs if isinstance(inputs, tuple | list) else (inputs,)
    return model(*(moved(argument, device) for argument in arguments))


def moved(value: Any, device: torch.device | None) -> Any:
    """``value`` on ``device`` if it is a tensor and a device is given."""
    return value.to(device) if isinstance(value, Tensor) and device is not None else value


def outputs_of(model: nn.Module, inputs: Any, device: torch.device | None, index: int) -> Tensor:
    """What the model gives for batch ``index``, with an entry or row for each example.

    Raises:
        ModuleError: it is no tensor.
        DataError: it is empty, or a single number.
    """
    outputs = call(model, inputs, device)
    if not isinstance(outputs, Tensor):
        raise ModuleError(
            f"the model must return a tensor, not {type(outputs).__name__}; wrap it in a "
            "module that returns what the loss takes"
        )
    if outputs.ndim == 0 or len(outputs) == 0:
        raise DataError(
            f"batch {index}: outputs are {tuple(outputs.shape)}; they need one for each example"
        )
    return outputs


def check_logits(outputs: Tensor, labels: Any, index: int) -> None:
    """Refuse outputs that are not one logit for each example, and labels of another number.

    Raises:
        DataError: in these cases.
    """
    if outputs.numel() != len(outputs):
        raise DataError(
            f"batch {index}: the model gives outputs {tuple(outputs.shape)}, which are not one "
            "logit for each example; give the loss_fn"
        )
    if isinstance(labels, Tensor) and labels.ndim and len(labels) != len(outputs):
        raise DataError(
            f"batch {index}: the model gives {len(outputs)} logits for {len(labels)} labels"
        )


def check_repeatable(batches: Batches, name: str) -> None:
    """Refuse an iterator, of which a second pass would see nothing.

    Raises:
        DataError: in that case.
    """
    if isinstance(batches, Iterator):
        raise DataError(f"{name} must be iterable more than once: a list, not an iterator")


def check_order(batches: Batches) -> None:
    """Refuse what is shuffled anew each time: predictions would be those of other rows.

    Raises:
        DataError: in that case.
    """
    (once, _), (again, _) = next(iter(batches)), next(iter(batches))
    pairs = zip(once, again, strict=True) if isinstance(once, tuple | list) else [(once, again)]
    for one, other in pairs:
        if not isinstance(one, Tensor):
            continue
        if one.shape != other.shape or not ((one == other) | (one != one)).all():
            raise DataError(
                "batches come in another order the second time; predictions on them are compared, "
                "which needs the same order each time: shuffle once, before"
            )


def is_log_loss(loss_fn: Loss | None) -> bool:
    """Whether a loss is the log loss of binary logits, whose predictions say what to expect."""
    if isinstance(loss_fn, nn.BCEWithLogitsLoss):
        # With weights the logits are not those of the labels' probabilities.
        return loss_fn.weight is None and loss_fn.pos_weight is None
    return loss_fn is None or loss_fn is functional.binary_cross_entropy_with_logits


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients; the modules' modes are restored at the end."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
