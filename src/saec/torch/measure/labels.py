"""Checks that a loss, a model's outputs and the labels of a batch belong together."""

from __future__ import annotations

import logging
from typing import Any

from torch import Tensor

from saec.compression.budget import Budget
from saec.errors import DataError, OptionError
from saec.torch.model.call import Loss, is_squared_error, logits_by

__all__ = [
    "check_batch",
    "check_log_loss",
    "check_loss_fn",
    "one_number",
    "warn_of_probabilities",
]

logger = logging.getLogger(__name__)

# The logits of this many examples are not all between 0 and 1 by chance, unless a model predicts
# almost the same for all.
_TELLING = 100


def check_loss_fn(loss_fn: object) -> None:
    """Reject anything but a function of outputs and labels, such as a budget in its place.

    Raises:
        OptionError: in that case.
    """
    if loss_fn is None or callable(loss_fn):
        return
    hint = f"; pass it as budget={loss_fn!r}" if isinstance(loss_fn, Budget) else ""
    raise OptionError(f"loss_fn must be a function of outputs and labels, not {loss_fn!r}{hint}")


def check_batch(outputs: Tensor, labels: Any, loss_fn: Loss | None, index: int) -> None:
    """Reject outputs and labels of batch ``index`` that do not fit a loss whose form is known.

    Given labels are always checked, even if the loss does not need them.

    Raises:
        DataError: they do not fit; the message names what was found and what is expected.
    """
    if logits_by(loss_fn) is not None:
        check_log_loss(outputs, labels, index)
        _check_scale(outputs, loss_fn, index)
    elif is_squared_error(loss_fn) and isinstance(labels, Tensor) and labels.shape != outputs.shape:
        # PyTorch would compare every output with every label.
        raise DataError(
            f"batch {index}: labels have shape {tuple(labels.shape)}, the model's outputs "
            f"{tuple(outputs.shape)}; the squared error needs the same shape"
        )


def one_number(loss: object, batch: str) -> Tensor:
    """The result of ``loss_fn`` for a ``batch``, which errors name, if it is one number.

    Raises:
        DataError: it is not.
    """
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        found = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise DataError(f"{batch}: loss_fn must give one number, not {found}")
    return loss.reshape(())


def check_log_loss(outputs: Tensor, labels: Any, index: int) -> None:
    """Reject outputs that are not one for each example, labels outside of 0 to 1, and what is no
    tensor.

    Raises:
        DataError: in these cases.
    """
    if outputs.numel() != len(outputs):
        raise DataError(
            f"batch {index}: the model gives outputs {tuple(outputs.shape)}, which are not one "
            "logit for each example; give the loss_fn"
        )
    if labels is None:
        return
    if not isinstance(labels, Tensor):
        raise DataError(
            f"batch {index}: labels are a {type(labels).__name__}, not a tensor; give "
            "torch.as_tensor(labels)"
        )
    _check_shape(outputs, labels, index)
    if not bool(((labels >= 0) & (labels <= 1)).all()):
        low, high = float(labels.min()), float(labels.max())
        raise DataError(
            f"batch {index}: labels are between {low:g} and {high:g}; the log loss expects 0 for "
            "no click, 1 for a click, or a probability between them"
        )


def warn_of_probabilities(outputs: Tensor) -> None:
    """Log a warning if outputs that are taken for logits look like probabilities."""
    if _are_probabilities(outputs):
        logger.warning(
            "all %d outputs of the model lie between 0 and 1, as probabilities do, but they are "
            "taken for logits; if the model ends in a sigmoid, remove it from the model and its "
            "teacher for fine-tuning",
            len(outputs),
        )


def _are_probabilities(outputs: Tensor) -> bool:
    """Whether all of many outputs, which are not all equal, lie between 0 and 1."""
    if len(outputs) < _TELLING:
        return False
    low, high = float(outputs.detach().min()), float(outputs.detach().max())
    return 0 <= low < high <= 1


def _check_shape(outputs: Tensor, labels: Tensor, index: int) -> None:
    count, shape = len(outputs), tuple(labels.shape)
    if shape in ((count,), tuple(outputs.shape)):
        return
    if labels.ndim and len(labels) != count:
        raise DataError(f"batch {index}: the model gives {count} logits for {len(labels)} labels")
    raise DataError(
        f"batch {index}: labels have shape {shape}, the model's outputs {tuple(outputs.shape)}; "
        f"({count},) is expected, such as labels.squeeze(1) gives"
    )


def _check_scale(outputs: Tensor, loss_fn: Loss | None, index: int) -> None:
    """Reject probabilities that would be taken for logits, and logits for probabilities."""
    if loss_fn is None and _are_probabilities(outputs):
        raise DataError(
            f"batch {index}: all {len(outputs)} outputs of the model lie between 0 and 1, as "
            "probabilities do, but without a loss_fn they are taken for logits; if the model ends "
            "in a sigmoid, pass loss_fn=torch.nn.functional.binary_cross_entropy, and if they are "
            "logits, loss_fn=torch.nn.functional.binary_cross_entropy_with_logits"
        )
    if _takes_probabilities(loss_fn) and bool(((outputs < 0) | (outputs > 1)).any()):
        low, high = float(outputs.detach().min()), float(outputs.detach().max())
        raise DataError(
            f"batch {index}: the model's outputs reach from {low:g} to {high:g}, but the loss_fn "
            "takes probabilities; for logits pass "
            "loss_fn=torch.nn.functional.binary_cross_entropy_with_logits"
        )


def _takes_probabilities(loss_fn: Loss | None) -> bool:
    as_logits = logits_by(loss_fn)
    return as_logits is not None and as_logits is not logits_by(None)
