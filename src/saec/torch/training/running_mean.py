"""The mean of a model's parameters over the last steps of its training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from saec.errors import DataError

__all__ = ["RunningMean"]

_EVERY = 8  # steps between two updates, each of which reads all parameters


class RunningMean:
    """Mean of the trained parameters of a model, with weights that halve with time.

    Steps on noisy rows move about a minimum; their mean is closer to it than any of them (Polyak
    and Juditsky, Acceleration of Stochastic Approximation by Averaging, 1992). The weights sum to
    1 from the first update on, so that initial values have none (as in Adam; Kingma and Ba 2015,
    section 3). Buffers are not averaged.
    """

    def __init__(self, model: nn.Module, half_life: float) -> None:
        """``half_life`` in the unit of :meth:`step`."""
        self._model = model
        self._half_life = half_life
        self._mean: dict[str, Tensor] = {}
        self._forgotten = 1.0  # weight of what came before the first step
        self._time = 0.0  # since the last update
        self._steps = 0

    def step(self, time: float) -> None:
        """Count a step of the optimizers, which took ``time``."""
        self._time += time
        self._steps += 1
        if self._steps % _EVERY == 0:
            self._update()

    @torch.no_grad()
    def put(self) -> None:
        """Give the model's parameters the mean's values."""
        self._update()
        for name, value in self._trained():
            if name in self._mean:
                value.copy_(self._mean[name])

    @contextmanager
    def held(self) -> Iterator[None]:
        """The model has the mean's values meanwhile, and in the end its own again."""
        own = [(value, value.detach().clone()) for _, value in self._trained()]
        try:
            self.put()
            yield
        finally:
            with torch.no_grad():
                for value, before in own:
                    value.copy_(before)

    def state(self) -> dict[str, Any]:
        """Mean and times; the tensors are copies."""
        mean = {name: value.clone() for name, value in self._mean.items()}
        times = {"forgotten": self._forgotten, "time": self._time, "steps": self._steps}
        return {"mean": mean, **times}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue from a result of :meth:`state`.

        Raises:
            DataError: it belongs to another model.
        """
        own = {name: tuple(value.shape) for name, value in self._trained()}
        given = {name: tuple(value.shape) for name, value in state["mean"].items()}
        for name, shape in given.items():
            if own.get(name) != shape:
                raise DataError(
                    f"the state has a mean of {name!r} of shape {shape}; the model's parameter of "
                    f"this name has {own.get(name, 'no shape, because there is none')}"
                )
        for name, value in self._trained():
            if name in given:
                self._mean[name] = state["mean"][name].to(value.device, value.dtype, copy=True)
        self._forgotten, self._time = float(state["forgotten"]), float(state["time"])
        self._steps = int(state["steps"])

    @torch.no_grad()
    def _update(self) -> None:
        if not self._time:
            return
        kept = 0.5 ** (self._time / self._half_life)
        self._forgotten *= kept
        share = (1 - kept) / (1 - self._forgotten)
        for name, value in self._trained():
            if name in self._mean:
                self._mean[name].lerp_(value, share)
            else:
                self._mean[name] = value.detach().clone()
        self._time = 0.0

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        for name, value in self._model.named_parameters():
            if value.requires_grad:
                yield name, value
