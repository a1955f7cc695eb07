"""Calls of a model with batches: arguments, devices, and the losses whose form is known."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
    "check_order",
    "check_repeatable",
    "evaluating",
    "in_order",
    "is_squared_error",
    "logits_by",
    "moved",
    "outputs_of",
    "pairs",
]

Batches = Iterable[tuple[Any, Any]]
Loss = Callable[[Tensor, Tensor], Tensor]


def pairs(batches: Batches) -> Iterator[tuple[Any, Any]]:
    """The (inputs, labels) of each of ``batches``.

    Raises:
        DataError: a batch is not a pair.
    """
    for index, batch in enumerate(batches):
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            parts = f" of {len(batch)}" if isinstance(batch, tuple | list) else ""
            raise DataError(
                f"batch {index} is a {type(batch).__name__}{parts}, not (inputs, labels); a model "
                "of several inputs takes ((a, b), labels)"
            )
        yield batch[0], batch[1]


def call(model: nn.Module, inputs: Any, device: torch.device | None) -> Any:
    """``model(*inputs)``: inputs are one argument, or a tuple or list of arguments."""
    arguments: Sequence[Any] = inputs if isinstance(inputs, tuple | list) else (inputs,)
    return model(*(moved(argument, device) for argument in arguments))


def moved(value: Any, device: torch.device | None) -> Any:
    """``value`` on ``device``: a tensor, a mapping of them, or any other object with ``to``."""
    if isinstance(value, Mapping):
        return {name: moved(item, device) for name, item in value.items()}
    if isinstance(value, Tensor) and value.is_inference() and torch.is_grad_enabled():
        value = value.clone()  # autograd does not keep tensors of inference mode
    return value.to(device) if device is not None and hasattr(value, "to") else value


def outputs_of(model: nn.Module, inputs: Any, device: torch.device | None, index: int) -> Tensor:
    """The model's output for batch ``index``, with an entry or row for each example.

    Raises:
        ModuleError: it is not a tensor.
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


def check_repeatable(batches: Batches, name: str) -> None:
    """Reject an iterator, because a second pass would be empty.

    Raises:
        DataError: in that case.
    """
    if isinstance(batches, Iterator):
        raise DataError(f"{name} must be iterable more than once: a list, not an iterator")


def check_order(batches: Batches) -> None:
    """Reject batches that are shuffled in each pass: predictions would belong to other rows.

    Raises:
        DataError: in that case.
    """
    if not in_order(batches):
        raise DataError(
            "batches come in another order the second time; predictions on them are compared, "
            "which needs the same order each time: shuffle once, before"
        )


def in_order(batches: Batches) -> bool:
    """Whether the first batch is the same in each pass."""
    (once, _), (again, _) = next(pairs(batches)), next(pairs(batches))
    return all(
        one.shape == other.shape and bool(((one == other) | (one != one)).all())
        for one, other in zip(_tensors(once), _tensors(again), strict=True)
    )


def _tensors(inputs: Any) -> Iterator[Tensor]:
    """The tensors among a model's arguments."""
    if isinstance(inputs, Tensor):
        yield inputs
    elif isinstance(inputs, tuple | list | Mapping):
        for item in inputs.values() if isinstance(inputs, Mapping) else inputs:
            yield from _tensors(item)


def logits_by(loss_fn: Loss | None) -> Callable[[Tensor], Tensor] | None:
    """A function from outputs to the logits of which ``loss_fn`` is the log loss; None for other
    losses.

    For the log loss the expectation over labels follows from the predictions. If outputs are
    probabilities, as in many published click models, the function computes the logits.
    """
    if isinstance(loss_fn, nn.BCEWithLogitsLoss):
        # With weights the logits do not give the labels' probabilities.
        unweighted = loss_fn.weight is None and loss_fn.pos_weight is None
        return _same if unweighted else None
    if loss_fn is None or loss_fn is functional.binary_cross_entropy_with_logits:
        return _same
    if isinstance(loss_fn, nn.BCELoss):
        return _logits if loss_fn.weight is None else None
    return _logits if loss_fn is functional.binary_cross_entropy else None


def is_squared_error(loss_fn: Loss | None) -> bool:
    """Whether a loss is the mean squared error, whose curvature does not depend on labels."""
    if isinstance(loss_fn, nn.MSELoss):
        return loss_fn.reduction == "mean"
    return loss_fn is functional.mse_loss


def _same(logits: Tensor) -> Tensor:
    return logits


def _logits(probabilities: Tensor) -> Tensor:
    # The float32 closest to 1; a probability of 1 itself has no logit.
    return torch.logit(probabilities.double(), eps=2.0**-24)


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
