"""A price on the bits of the tables, paid while a model is trained.

A trained table is compressed afterwards, and what its rows have learned beyond what the budget
holds is lost then. A model that is trained under the same scarcity learns less by heart, and knows
how to do with inexact rows (docs/results.md). Noise of standard deviation s is added to every row
that is looked up; what then gets through is at most R = sum_f n_f 1/2 log2 det(I + C_f / s^2) bits
for fields of n_f rows with covariance C_f (the capacity of a Gaussian channel; Cover and Thomas,
Elements of Information Theory, section 9.4). The loss is charged the price times R, in nats per
bit: that of a bit where allocation ends, or some times as much.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from saec.errors import DataError
from saec.reference.log import Log

__all__ = ["BitPrice", "Charge", "RunningMean"]

_EVERY = 8  # steps between two updates of the average, each of which reads all tables


@dataclass(frozen=True)
class BitPrice:
    """Settings of training with a price on bits; chosen by validation rows of ``ml-1m``.

    Args:
        nats: of the mean log loss, that a bit of the tables is worth.
        noise: standard deviation of what is added to each number of a row.
        row_decay: weight of a row's squared length, divided by the row's frequency: over an epoch
            each row pays it once, so that rare rows, whose few examples say little, stay short.
        table_rate: learning rate of the tables.
        half_life: of the running mean of all parameters, which is evaluated and kept, in epochs.

    Raises:
        DataError: ``nats`` is not positive.
    """

    nats: float
    noise: float = 0.06
    row_decay: float = 5.0
    table_rate: float = 0.06
    half_life: float = 0.25

    def __post_init__(self) -> None:
        if not 0 < self.nats < math.inf:
            raise DataError(f"bit_price is {self.nats}; it must be positive")


class Charge:
    """What the vectors of a batch cost beside their log loss, by a :class:`BitPrice`."""

    def __init__(self, price: BitPrice, log: Log, seed: int) -> None:
        counts = [np.maximum(log.frequencies[name], 1.0) for name in log.field_names]
        self._price = price
        self._sizes = torch.tensor([float(len(values)) for values in counts])
        self._first = torch.tensor(np.cumsum([0, *map(len, counts)])[:-1])
        self._counts = torch.from_numpy(np.concatenate(counts)).float()
        self._generator = torch.Generator().manual_seed(seed)

    def noisy(self, vectors: Tensor) -> Tensor:
        """``vectors (B, F, dim)`` as the network gets to see them."""
        noise = torch.randn(vectors.shape, generator=self._generator)
        return vectors + self._price.noise * noise

    def cost(self, vectors: Tensor, ids: Tensor) -> Tensor:
        """Nats for the bits of all rows, and for the lengths of those that ``ids (B, F)`` name.

        The batch's ``vectors (B, F, dim)``, without noise, stand for the rows by frequency.
        """
        counts = self._counts[ids + self._first]
        lengths = (vectors.square().sum(2) / counts).sum() / len(ids)
        return self._price.nats * self.bits(vectors) + self._price.row_decay * lengths

    def bits(self, vectors: Tensor) -> Tensor:
        """R of all tables, if ``vectors (B, F, dim)`` are a fair sample of their rows."""
        about = vectors - vectors.detach().mean(0)
        covariance = torch.einsum("bfd,bfe->fde", about, about) / len(about)
        identity = torch.eye(vectors.shape[2])
        each = torch.logdet(identity + covariance / self._price.noise**2) / (2 * math.log(2))
        return (self._sizes * each).sum()


class RunningMean:
    """The mean of a model's parameters over its last steps, with weights that halve with time.

    Steps on noisy rows wander about; their mean is better than any one of them (Polyak and
    Juditsky, Acceleration of Stochastic Approximation by Averaging, 1992).
    """

    def __init__(self, model: nn.Module, half_life: float) -> None:
        """``half_life`` in steps."""
        self._model = model
        self._mean = {name: value.clone() for name, value in model.state_dict().items()}
        self._kept = 0.5 ** (_EVERY / half_life)
        self._steps = 0

    @torch.no_grad()
    def step(self) -> None:
        """Count a step of the optimisers."""
        self._steps += 1
        if self._steps % _EVERY == 0:
            for name, value in self._model.state_dict().items():
                self._mean[name].lerp_(value, 1 - self._kept)

    @contextmanager
    def held(self) -> Iterator[None]:
        """The model has the mean's values meanwhile, and in the end its own again."""
        own = {name: value.clone() for name, value in self._model.state_dict().items()}
        self._model.load_state_dict(self._mean)
        try:
            yield
        finally:
            self._model.load_state_dict(own)
