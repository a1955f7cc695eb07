"""Targets of a compressed model's training: predictions of the uncompressed one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from saec.errors import DataError
from saec.torch.model.call import Batches, call, check_order, check_repeatable, evaluating, pairs
from saec.torch.model.wrappers import check_unwrapped
from saec.torch.tuning.ranks import Ranks
from saec.util.progress import bar

__all__ = ["count_of", "distillation", "log_loss", "predictions", "targets_of"]


def predictions(model: nn.Module, batches: Batches, *, progress: bool = True) -> list[Tensor]:
    """The model's outputs in eval mode: for each of ``batches`` a tensor on the CPU, of the shape
    and dtype that the model gives.

    With these as the teacher of :func:`finetune`, the model itself need not be kept in memory.

    Args:
        model: any module; tensors are moved to the device of its first parameter.
        batches: see :func:`finetune`.
        progress: show a progress bar.
    """
    return _answers(model, batches, Ranks(), progress)


def _answers(model: nn.Module, batches: Batches, ranks: Ranks, progress: bool) -> list[Tensor]:
    """See :func:`predictions`; for this rank's slices."""
    device = next((parameter.device for parameter in model.parameters()), None)
    outputs = []
    with (
        evaluating(model),
        bar("asking the teacher", count_of(batches, "batches"), progress) as shown,
    ):
        for inputs, _ in pairs(batches):
            share = ranks.share(inputs)
            empty = share.examples == 0
            outputs.append(torch.empty(0) if empty else call(model, share.inputs, device).cpu())
            shown.advance()
    return outputs


def targets_of(
    teacher: nn.Module | Sequence[Tensor],
    batches: Batches,
    count: int,
    ranks: Ranks,
    progress: bool,
) -> list[Tensor]:
    """The teacher's logits for this rank's slice of each of ``count`` batches."""
    check_order(batches)
    if isinstance(teacher, nn.Module):
        if ranks.count > 1:  # wrappers wait for ranks, which may have no rows
            check_unwrapped(teacher)
        return _answers(teacher, batches, ranks, progress)
    if len(teacher) != count:
        raise DataError(f"{count} batches, but a teacher's logits for {len(teacher)}")
    return [ranks.share(logits).inputs for logits in teacher]


def log_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean binary cross-entropy of logits, (n,) or (n, 1), and as many labels or probabilities."""
    flat = logits.reshape(-1).float()
    return functional.binary_cross_entropy_with_logits(flat, labels.reshape(-1).to(flat))


def distillation(outputs: Tensor, logits: Tensor, index: int) -> Tensor:
    """The log loss of batch ``index`` against the teacher's probabilities.

    Raises:
        DataError: the two have different numbers of logits.
    """
    if outputs.numel() != logits.numel():
        raise DataError(
            f"batch {index}: the model gives {outputs.numel()} logits, the teacher {logits.numel()}"
        )
    return log_loss(outputs, torch.sigmoid(logits.float()))


def count_of(batches: Batches, name: str) -> int:
    """Number of batches.

    Raises:
        DataError: they are an iterator, or there are none.
    """
    check_repeatable(batches, name)
    try:
        count = len(batches)  # type: ignore[arg-type]
    except TypeError:
        count = sum(1 for _ in batches)
    if count == 0:
        raise DataError(f"{name} are empty")
    return count
