"""Search for the price on bits that gives the lowest loss after compression."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from torch import nn

from saec.compression.budget import Ratio, SizeBudget, check_budget
from saec.errors import DataError
from saec.torch.compress import compress_
from saec.torch.measure.labels import check_batch, check_loss_fn
from saec.torch.model.call import (
    Batches,
    Loss,
    check_repeatable,
    evaluating,
    moved,
    outputs_of,
    pairs,
)
from saec.torch.tuning.teacher import count_of, log_loss

if TYPE_CHECKING:
    from saec.torch.training.bit_price import BitPrice

__all__ = ["PriceTrial", "TrialScores", "search"]

logger = logging.getLogger(__name__)

_STEP = 4.0  # between the prices that bracket the best one; its square root refines
_MOST_STEPS = 6  # in one direction


@dataclass(frozen=True)
class PriceTrial:
    """A trial of :meth:`saec.torch.BitPrice.for_ratio`.

    Attributes:
        price: in nats per bit.
        loss: on validation rows, of the model that was trained by this price and compressed;
            infinite if training diverged.
    """

    price: float
    loss: float


def search(loss_at: Callable[[float], float], start: float) -> tuple[PriceTrial, ...]:
    """Try prices from ``start`` to where the loss is lowest; all trials in order of price.

    The loss is taken to fall up to the best price and to rise from there, so that the search ends
    at the first price on each side that is worse.

    Raises:
        DataError: no trial had a finite loss.
    """
    found: dict[float, float] = {}

    def tried(price: float) -> float:
        if price not in found:
            loss = loss_at(price)
            found[price] = loss if math.isfinite(loss) else math.inf
            logger.info("price %.3g: validation loss %.6f after compression", price, loss)
        return found[price]

    best = start
    tried(start)
    for factor in (_STEP, 1 / _STEP):
        for _ in range(_MOST_STEPS):
            if not tried(best * factor) < tried(best):
                break
            best *= factor
    for factor in (_STEP**0.5, _STEP**-0.5):
        tried(best * factor)
    if not min(found.values()) < math.inf:
        raise DataError(f"no price from {min(found):g} to {max(found):g} gave a finite loss")
    return tuple(PriceTrial(price, found[price]) for price in sorted(found))


@dataclass(frozen=True, eq=False)
class TrialScores:
    """Trains and compresses by :meth:`saec.torch.BitPrice.for_ratio`'s arguments."""

    size: float | SizeBudget
    frequencies: Mapping[str, ArrayLike]
    batches: Batches
    validation: Batches
    loss_fn: Loss | None
    ranges: Any
    seed: int
    progress: bool

    def __post_init__(self) -> None:
        check_budget(self.budget)
        check_loss_fn(self.loss_fn)
        check_repeatable(self.batches, "batches")
        count_of(self.validation, "validation")

    @property
    def budget(self) -> SizeBudget:
        """The size; a number is a ratio."""
        return self.size if isinstance(self.size, SizeBudget) else Ratio(self.size)

    def default_price(self) -> float:
        """An eighth of ln 2 / N nats per bit, for the N lookups of the most frequent field."""
        most = max(float(np.asanyarray(counts).sum()) for counts in self.frequencies.values())
        return math.log(2) / 8 / most

    def loss(
        self,
        model: nn.Module,
        make: Callable[..., BitPrice],
        train: Callable[[nn.Module, BitPrice], object],
    ) -> float:
        """The validation loss of a copy of ``model``, trained and compressed."""
        trained = copy.deepcopy(model)
        with make(trained, frequencies=self.frequencies) as price:
            train(trained, price)
        compress_(
            trained,
            self.batches,
            self.loss_fn,
            self.budget,
            frequencies=self.frequencies,
            ranges=self.ranges,
            seed=self.seed,
            progress=self.progress,
        )
        return self._validation_loss(trained)

    def _validation_loss(self, model: nn.Module) -> float:
        loss_fn = log_loss if self.loss_fn is None else self.loss_fn
        device = next(model.parameters()).device
        total, examples = 0.0, 0
        with evaluating(model):
            for index, (inputs, labels) in enumerate(pairs(self.validation)):
                outputs = outputs_of(model, inputs, device, index)
                check_batch(outputs, labels, self.loss_fn, index)
                total += len(outputs) * float(loss_fn(outputs, moved(labels, device)))
                examples += len(outputs)
        return total / examples
