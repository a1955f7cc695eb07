"""A measured increase of a loss, and its parts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["MeasuredIncrease", "kl_divergence", "mean_increase"]


@dataclass(frozen=True)
class MeasuredIncrease:
    """Increase of the mean loss on some rows.

    Attributes:
        value: the mean increase, in nats for log losses; it may be negative.
        standard_error: of ``value``, in the same unit, from the variance of the examples'
            increases. For a ``loss_fn`` with only a mean over a batch it is computed from
            the batches; infinite if there is a single one.
        examples: number of measured rows.
        explained: the part of ``value`` that is known with less noise, in the same unit, if
            :func:`saec.torch.compress_` computed it: KL(p || p'), and on calibration rows the part
            of the first-order term that follows from the average error of the predictions.
            Otherwise 0.
        explained_error: standard error of ``explained``.
        divergence: the mean of KL(p || p') for binary logits, in nats, with what unknown keys lose
            where that is known; None for other losses, and for rows that come in another order each
            time.
    """

    value: float
    standard_error: float
    examples: int
    explained: float = 0.0
    explained_error: float = 0.0
    divergence: float | None = None

    @property
    def rest(self) -> float:
        """``value`` without ``explained``."""
        return self.value - self.explained

    @property
    def rest_error(self) -> float:
        """The standard error of ``rest``; errors of the two parts are independent."""
        return math.sqrt(max(self.standard_error**2 - self.explained_error**2, 0.0))


def mean_increase(grown: Tensor, examples: Tensor) -> MeasuredIncrease:
    """Of independent parts of the rows: their mean increases and numbers of examples, (m,)."""
    shares = examples / examples.sum()
    mean = (shares * grown).sum()
    if len(grown) == 1:
        return MeasuredIncrease(float(mean), math.inf, int(examples.sum()))
    squares = (shares * (grown - mean)).square().sum() * len(grown) / (len(grown) - 1)
    return MeasuredIncrease(float(mean), math.sqrt(float(squares)), round(float(examples.sum())))


def kl_divergence(before: Tensor, after: Tensor) -> Tensor:
    """KL(p || p') of each example in nats, from logits (n,) float64."""
    p = torch.sigmoid(before)
    softplus = nn.functional.softplus
    return p * (before - after) + softplus(after) - softplus(before)
