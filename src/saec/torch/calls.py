"""How batches go through a model: arguments, devices, and which losses are known."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Batches", "Loss", "call", "evaluating", "is_log_loss", "moved"]

Batches = Iterable[tuple[Any, Any]]
Loss = Callable[[Tensor, Tensor], Tensor]


def call(model: nn.Module, inputs: Any, device: torch.device | None) -> Any:
    """``model(*inputs)``: inputs are a tensor, or a tuple or list of arguments."""
    arguments: Sequence[Any] = inputs if isinstance(inputs, tuple | list) else (inputs,)
    return model(*(moved(argument, device) for argument in arguments))


def moved(value: Any, device: torch.device | None) -> Any:
    """``value`` on ``device`` if it is a tensor and a device is given."""
    return value.to(device) if isinstance(value, Tensor) and device is not None else value


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
