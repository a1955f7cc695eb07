"""A loss function with the cost of a batch added."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["ChargedLoss"]


class ChargedLoss:
    """See :meth:`saec.torch.BitPrice.charged`."""

    def __init__(
        self, model: nn.Module, loss_fn: Callable[..., Tensor], cost: Callable[[], Tensor]
    ) -> None:
        self._model, self._loss_fn, self._cost = model, loss_fn, cost

    def __call__(self, outputs: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The loss; the cost counts once for each term of a sum."""
        value = self._loss_fn(outputs, *args, **kwargs)
        if not (self._model.training and torch.is_grad_enabled()):
            return value
        terms = outputs.numel() if kwargs.get("reduction") == "sum" else 1
        return value + terms * self._cost()
