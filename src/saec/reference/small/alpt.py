"""ALPT: rows of 8-bit integers also while they are trained, with a learned step for each row.

Source: Li et al., Adaptive Low-Precision Training for Embeddings in Click-Through Rate Prediction,
AAAI 2023 (arXiv 2212.05735). A training step has two halves. First the rows that were looked up
are updated as usual. Then the loss of the same examples, with these rows rounded to the nearest,
gives the gradient of the steps; after their update the rows are rounded at random to one of the
two nearest integers, so that their mean is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saec.reference.small.features import FieldFeatures
from saec.reference.small.tables import (
    INITIAL_STD,
    FieldModule,
    SeparateTables,
    SmallTables,
    normal_rows,
)

__all__ = ["Alpt"]

_BITS = 8
_LOW, _HIGH = -(2 ** (_BITS - 1)), 2 ** (_BITS - 1) - 1
_LEAST_STEP = 1e-6


@dataclass(frozen=True)
class Alpt:
    """Every number is a multiple, from -128 to 127, of the step of its row.

    See :class:`~saec.reference.small.tables.SmallMethod`.

    Args:
        largest: the largest number that the steps can reach at the start.
        step_rate: learning rate of the steps, which Adam updates.
    """

    largest: float = 1.0
    step_rate: float = 2e-5

    space: ClassVar[Mapping[str, Sequence[Any]]] = {
        "largest": (1.0, 0.3, 0.1),
        "step_rate": (2e-5, 2e-6, 2e-4),
    }
    has_one_size: ClassVar[bool] = True

    def build(self, fields: Sequence[FieldFeatures], dim: int, nbytes: int) -> SmallTables:
        """Tables of 8 bits a number, whatever bytes are asked for."""
        parts = [IntegerRows(field, dim, self.largest) for field in fields]
        return IntegerTables(fields, parts, self.step_rate)


class IntegerRows(FieldModule):
    """Rows that are integer multiples of their steps before and after each step of training."""

    rows_of: Tensor
    steps: Tensor

    def __init__(self, field: FieldFeatures, dim: int, largest: float) -> None:
        super().__init__()
        self.register_buffer("rows_of", field.rows, persistent=False)
        self.register_buffer("steps", torch.full((field.count, 1), largest / _HIGH))
        self.rows = normal_rows(field.count, dim, INITIAL_STD)
        self._random = np.random.default_rng(int(torch.randint(2**31, ())))
        with torch.no_grad():
            self.rows.weight[0] = 0.0  # of unseen features
        self._round(torch.arange(field.count))
        self._asked: Tensor | None = None
        self._learned: Tensor | None = None

    def forward(self, ids: Tensor) -> Tensor:
        """(B,) -> (B, dim); between :meth:`begin` and :meth:`end` a function of the steps."""
        asked = self.rows_of[ids]
        if self._learned is not None and self._asked is not None:
            rows = rounded(self.rows.weight.detach()[self._asked], self._learned)
            return rows[torch.searchsorted(self._asked, asked)]
        if self.training:
            self._asked = asked
        found: Tensor = self.rows(asked)
        return found

    def begin(self) -> Tensor:
        """The steps (n, 1) of the rows that the last batch looked up, for their gradients."""
        assert self._asked is not None
        self._asked = torch.unique(self._asked)
        self._learned = self.steps[self._asked].requires_grad_()
        return self._learned

    def end(self, gradient: Tensor, optimiser: torch.optim.Optimizer) -> None:
        """Update these steps by their ``gradient`` (n, 1), and round their rows at random."""
        assert self._asked is not None
        asked, self._learned = self._asked, None
        self.steps.grad = torch.sparse_coo_tensor(
            asked[None], gradient, self.steps.shape, check_invariants=False
        )
        optimiser.step()
        self.steps.grad = None
        self.steps.clamp_(min=_LEAST_STEP)
        self._round(asked)

    @torch.no_grad()
    def _round(self, places: Tensor) -> None:
        """Round the rows at ``places`` to one of the two nearest multiples, so that their mean
        is kept."""
        steps = self.steps[places]
        counted = self.rows.weight[places] / steps
        chance = self._random.random(counted.shape, np.float32)
        self.rows.weight[places] = steps * _one_of_two(counted, torch.from_numpy(chance))

    def codes(self) -> Tensor:
        """The nearest multiples of the steps, from -128 to 127."""
        return (self.rows.weight / self.steps).round().clamp(_LOW, _HIGH)


class IntegerTables(SeparateTables):
    """Stored as int8 codes, and a float32 step for each row."""

    parts: Any  # of IntegerRows

    def __init__(
        self, fields: Sequence[FieldFeatures], parts: Sequence[IntegerRows], step_rate: float
    ) -> None:
        super().__init__(fields, parts)
        self._optimisers = [torch.optim.SparseAdam([part.steps], lr=step_rate) for part in parts]

    def stepped(self, loss: Callable[[], Tensor], examples: int) -> None:
        """Learn the steps of the rows that the last batch looked up, and round these rows."""
        steps = [part.begin() for part in self.parts]
        gradients = torch.autograd.grad(loss(), steps)
        for part, gradient, optimiser in zip(self.parts, gradients, self._optimisers, strict=True):
            scale = 1 / math.sqrt(examples * part.rows.embedding_dim * _HIGH)
            part.end(scale * gradient, optimiser)

    @torch.no_grad()
    def stored(self) -> dict[str, NDArray[Any]]:
        """``codes`` (n, dim) int8 and ``steps`` (n, 1) float32 of each field."""
        tensors: dict[str, NDArray[Any]] = {}
        for number, part in enumerate(self.parts):
            tensors[f"{number}.codes"] = part.codes().numpy().astype(np.int8)
            tensors[f"{number}.steps"] = part.steps.numpy().astype(np.float32)
        return tensors

    @torch.no_grad()
    def restore(self, stored: Mapping[str, NDArray[Any]]) -> None:
        """Rows become the numbers that their codes stand for."""
        for number, part in enumerate(self.parts):
            part.steps.copy_(torch.from_numpy(stored[f"{number}.steps"]))
            part.rows.weight.copy_(part.steps * torch.from_numpy(stored[f"{number}.codes"]))


def rounded(rows: Tensor, steps: Tensor) -> Tensor:
    """Rows (n, dim) rounded to the nearest multiples of ``steps`` (n, 1).

    The gradient of a step is that of LSQ (Esser et al. 2020): how far the rounding moves the
    value, counted in steps; beyond the limits, the limit.
    """
    own = steps.detach()
    counted = rows / own
    codes = counted.round().clamp(_LOW, _HIGH)
    slope = codes - torch.where((counted > _LOW) & (counted < _HIGH), counted, 0.0)
    return codes * own + slope * (steps - own)


def _one_of_two(counted: Tensor, chance: Tensor) -> Tensor:
    """The integer below or above each number (n, dim), by ``chance``, uniform in [0, 1)."""
    return (counted + chance).floor().clamp(_LOW, _HIGH)
