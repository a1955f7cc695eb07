"""MPE: groups of features by frequency learn how many bits their values get.

Source: Li et al., Mixed-Precision Embeddings for Large-Scale Recommendation Models, 2024 (arXiv
2409.20305): groups, a softmax over widths, cost of the mean width, retraining. From the authors'
code (github.com/Leopold1423/mpe) come the temperature, the weights of the groups in the cost, and
how likely a width must be. Quantiser: Bhalgat et al., LSQ+: Improving Low-bit Quantization
through Learnable Offsets and Better Initialization, CVPR Workshops 2020.

Two things differ. The weight of the cost, which the paper tries out by hand, follows the mean width
during the search so that a given size is reached; and steps are learned as logarithms, so that the
optimiser of the network, whose steps are absolute, cannot make them negative.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from saec.bits.packing import bits_for
from saec.errors import BudgetError
from saec.reference.small.features import FieldFeatures
from saec.reference.small.fixed_widths import WIDTHS, FixedWidths, quantised, width_bytes
from saec.reference.small.tables import INITIAL_STD, SmallTables, each_once, normal_rows

__all__ = ["Mpe", "WidthSearch"]

_GROUPS = 128
_COST = 1e-5  # at the first step
_PACE = 0.02  # log of the most that the cost changes by in a step


@dataclass(frozen=True)
class Mpe:
    """Widths are searched, and the rows then trained again from where they started.

    See :class:`~saec.reference.small.tables.SmallMethod`. Ids are dense, and the width of each row
    is stored.

    Args:
        temperature: tau, of the softmax.
    """

    temperature: float = 3e-3

    space: ClassVar[Mapping[str, Sequence[Any]]] = {"temperature": (3e-3, 1e-2, 3e-2)}
    has_one_size: ClassVar[bool] = False

    def build(self, fields: Sequence[FieldFeatures], dim: int, nbytes: int) -> SmallTables:
        """The search; after it, tables of at most ``nbytes``."""
        least = width_bytes(np.zeros(sum(field.count for field in fields), np.int64), dim)
        if least > nbytes:
            raise BudgetError(
                f"MPE needs at least {least} bytes for these tables; {nbytes} were allowed"
            )
        return WidthSearch(fields, dim, nbytes, self.temperature)


class WidthSearch(SmallTables):
    """All widths at once, mixed by how likely they are for the group of a feature."""

    groups: Tensor
    counts: Tensor
    rows_of: Tensor
    firsts: Tensor

    def __init__(
        self, fields: Sequence[FieldFeatures], dim: int, nbytes: int, temperature: float
    ) -> None:
        super().__init__([(field.count, "dense") for field in fields])
        self._dim, self._nbytes, self._temperature = dim, nbytes, temperature
        frequencies = np.concatenate([field.frequencies for field in fields])
        groups, counts = frequency_groups(frequencies, _GROUPS)
        self.register_buffer("groups", torch.from_numpy(groups), persistent=False)
        self.register_buffer("counts", torch.from_numpy(counts).float(), persistent=False)
        rows_of, firsts = stacked_rows(fields)
        self.register_buffer("rows_of", rows_of, persistent=False)
        self.register_buffer("firsts", firsts, persistent=False)
        self.rows = normal_rows(len(frequencies), dim, INITIAL_STD)
        self.initial = self.rows.weight.detach().clone()
        self.likely = nn.Parameter(torch.zeros(len(counts), len(WIDTHS)))
        self.log_steps = nn.Parameter(initial_steps(self.initial))
        self.offset = nn.Parameter(torch.zeros(dim))
        self._log_cost = math.log(_COST)
        self._last = self.likely.detach().clone()

    def forward(self, ids: Tensor) -> Tensor:
        """(B, fields) -> (B, fields, dim)."""
        return each_once(self.rows_of[ids + self.firsts], self._mixed)

    def _mixed(self, rows: Tensor) -> Tensor:
        values: Tensor = self.rows(rows)
        shares = self._shares(self.likely)[self.groups[rows]]
        out = torch.zeros_like(values)
        for place, width in enumerate(WIDTHS):
            if width:
                step = self.log_steps[place].exp()
                rounded = quantised(values, step, self.offset, width)
                out = out + shares[..., place, None] * rounded
        return out

    def _shares(self, likely: Tensor) -> Tensor:
        """(groups, widths): how likely each width is."""
        return torch.softmax(likely / self._temperature, dim=1)

    def penalty(self) -> Tensor:
        """The mean widths of all groups, those of rare features at the highest cost.

        The cost rises while the tables are larger than they may be, and falls while smaller.
        """
        mean = self._shares(self.likely) @ torch.tensor(WIDTHS, dtype=torch.float32)
        if self.training:
            self._last = self.likely.detach().clone()
            excess = float(mean.detach().mean()) / self._wanted - 1
            self._log_cost += _PACE * min(max(excess, -1.0), 1.0)
        return math.exp(self._log_cost) * (mean * self.counts.min() / self.counts).sum()

    def settled(self) -> SmallTables:
        """Tables of the widths that were found, with the rows as they were at the start.

        Widths are those of the last step: the state that is best on validation rows may be from
        before the size was reached.
        """
        widths = self._narrowed(likely_widths(self._shares(self._last).numpy()))
        return FixedWidths(
            self.vocabularies,
            (self.rows_of, self.firsts),
            torch.from_numpy(widths)[self.groups],
            self.initial,
            self.log_steps.detach().clone(),
            self.offset.detach().clone(),
        )

    @property
    def _wanted(self) -> float:
        """Bits a number that take the bytes beside those that say each row's width."""
        rows = len(self.initial)
        spare = 8 * self._nbytes - rows * bits_for(len(WIDTHS))
        return max(spare / (rows * self._dim), 1e-2)

    def _narrowed(self, widths: NDArray[np.int64]) -> NDArray[np.int64]:
        """Take bits from the rarest groups that have any, until the bytes suffice."""
        groups = self.groups.numpy()
        while width_bytes(widths[groups], self._dim) > self._nbytes:
            widths[np.flatnonzero(widths)[-1]] -= 1
        return widths


def frequency_groups(
    frequencies: NDArray[np.float64], most: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The group of each row, most frequent first and as many rows in each as in the next, and the
    lookups of each group."""
    size = math.ceil(len(frequencies) / most)
    groups = np.empty(len(frequencies), np.int64)
    groups[np.argsort(-frequencies, kind="stable")] = np.arange(len(frequencies)) // size
    counts = np.bincount(groups, weights=frequencies)
    return groups, np.maximum(counts, 1.0)


def likely_widths(shares: NDArray[np.float32]) -> NDArray[np.int64]:
    """The widest of the widths of a group that have half of an equal share, or more."""
    enough = shares >= 0.5 / len(WIDTHS)
    widths: NDArray[np.int64] = np.where(enough, np.array(WIDTHS), 0).max(axis=1)
    return widths


def stacked_rows(fields: Sequence[FieldFeatures]) -> tuple[Tensor, Tensor]:
    """One table for all fields: the row of each field and id, and where a field's ids begin."""
    counts = np.cumsum([0, *(field.count for field in fields)])
    rows = [field.rows + int(first) for field, first in zip(fields, counts, strict=False)]
    firsts = np.cumsum([0, *(len(column) for column in rows[:-1])])
    return torch.cat(rows), torch.from_numpy(firsts)


def initial_steps(rows: Tensor) -> Tensor:
    """Logarithms of the first steps, one for each width (LSQ, Esser et al. 2020)."""
    mean = float(rows.abs().mean())
    return torch.tensor(
        [math.log(2 * mean / math.sqrt(2 ** (max(width, 1) - 1))) for width in WIDTHS]
    )
