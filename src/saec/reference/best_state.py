"""The best state of a model during its training."""

from __future__ import annotations

import math

from torch import Tensor, nn

__all__ = ["BestState"]


class BestState:
    """A copy of the model's state at its lowest loss; one copy, however often it is replaced."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._copy: dict[str, Tensor] = {}
        self._loss = math.inf
        self.refused = 0

    def offer(self, loss: float) -> None:
        """Keep the present state if its loss is the lowest; else count one more refusal."""
        if loss >= self._loss:
            self.refused += 1
            return
        self._loss, self.refused = loss, 0
        for name, value in self._model.state_dict().items():
            if name in self._copy:
                self._copy[name].copy_(value)
            else:
                self._copy[name] = value.clone()

    def restore(self) -> None:
        """Put the kept state back."""
        self._model.load_state_dict(self._copy)
