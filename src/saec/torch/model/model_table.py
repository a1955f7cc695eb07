"""A weight of a model with the modules that look rows up in it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from saec.torch.model.overlooked import EmbeddingModule

__all__ = ["ModelTable", "RowRange"]


@dataclass(frozen=True)
class RowRange:
    """Rows [first, last) of a table, the features of field ``name``."""

    name: str
    first: int
    last: int


@dataclass(frozen=True, eq=False)
class ModelTable:
    """One weight, the modules that look rows up in it by path, and its parts in row order.

    tied: by path, linear layers with the same weight, which score all rows.
    """

    modules: dict[str, EmbeddingModule]
    parts: tuple[RowRange, ...]
    tied: dict[str, nn.Linear] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """The table's name: the path of its first module."""
        return next(iter(self.modules))

    @property
    def weight(self) -> torch.Tensor:
        """The weight, (rows, dim)."""
        return next(iter(self.modules.values())).weight
