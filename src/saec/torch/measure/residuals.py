"""How far a model's predictions are off, on average, on rows that it was not trained on.

A small increase of the log loss is nearly all of first order, the mean of (p - y) (z' - z), and the
noise of single labels hides it. Much of it has a simple cause: predictions are off on average,
above all where a feature occurs that training did not have, and compression shifts the logits of
such rows. How far they are off there is an average over thousands of rows, with little noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Residuals"]

_ROWS = 1 << 16  # whose marks are numbers at a time

# A standard deviation of one logit is expected of each coefficient before any row is seen.
_PRIOR = 1.0


@dataclass(frozen=True, eq=False)
class Residuals:
    """The logits' errors as a linear function of a constant, the logit, and marks of the rows.

    With p the predictions, the mean of y - p is -p (1 - p) (x . coefficients) for a row with the
    values x: one step of a logistic regression of the labels from the model's own logits.
    """

    logits: Tensor  # (n,) float64
    marks: Tensor  # (n, m) bool
    coefficients: Tensor  # (2 + m,) float64
    covariance: Tensor  # (2 + m, 2 + m) float64: of the coefficients

    @classmethod
    def of(cls, logits: Tensor, labels: Tensor, marks: Tensor) -> Residuals:
        """Fit them to labels (n,) float64."""
        p = torch.sigmoid(logits)
        size = 2 + marks.shape[1]
        products = _PRIOR * torch.eye(size, dtype=torch.float64)
        sums = torch.zeros(size, dtype=torch.float64)
        for part in _parts(len(logits)):
            values = _values(logits, marks, part)
            products += (values * (p * (1 - p))[part, None]).T @ values
            sums += (p - labels)[part] @ values
        covariance = torch.linalg.inv(products)
        return cls(logits, marks, covariance @ sums, covariance)

    def first_order(self, change: Tensor) -> tuple[float, float]:
        """The mean of (p - y) ``change`` over the rows that they account for, and its error.

        Args:
            change: (n,) float64, of each row's logit.
        """
        p = torch.sigmoid(self.logits)
        weighted = p * (1 - p) * change / len(change)
        slope = torch.zeros_like(self.coefficients)
        for part in _parts(len(change)):
            slope += weighted[part] @ _values(self.logits, self.marks, part)
        variance = float(slope @ self.covariance @ slope)
        return float(slope @ self.coefficients), math.sqrt(max(variance, 0.0))


def _parts(count: int) -> list[slice]:
    return [slice(start, start + _ROWS) for start in range(0, count, _ROWS)]


def _values(logits: Tensor, marks: Tensor, part: slice) -> Tensor:
    """(rows, 2 + m) float64."""
    centred = logits[part] - logits.mean()
    return torch.column_stack([torch.ones_like(centred), centred, marks[part].double()])
