"""The bags of one call of an ``nn.EmbeddingBag``, pooled from given rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["CalledBags"]


class CalledBags:
    """What an ``nn.EmbeddingBag`` was called with.

    Attributes:
        ids: (m,) int64, of all bags.
        count: number of bags, those without ids included.
    """

    def __init__(self, module: nn.EmbeddingBag, called: Mapping[str, Any], count: int) -> None:
        """``called``: arguments of the call by name; ``count``: rows of its result."""
        given = called["input"]
        self.ids = given.reshape(-1).long()
        self.count = count
        self._module = module
        self._positions = torch.arange(len(self.ids), device=self.ids.device)
        self._last_offset = given.ndim != 2 and module.include_last_offset
        self._offsets = (
            self._positions[:: given.shape[1]] if given.ndim == 2 else called["offsets"].long()
        )
        weights = called.get("per_sample_weights")
        self._weights = None if weights is None else weights.reshape(-1)

    @property
    def units(self) -> Tensor:
        """The bag of each id, (m,)."""
        starts = self._offsets[: self.count].contiguous()
        return torch.searchsorted(starts, self._positions, right=True) - 1

    def pool(self, rows: Tensor) -> Tensor:
        """Bags (count, dim) of ``rows (m, dim)`` in place of those that the module looked up."""
        padding = len(self.ids)  # an additional row stands for all that padding_idx leaves out
        positions = self._positions
        if self._module.padding_idx is not None:
            left_out = self.ids == self._module.padding_idx
            positions = positions.masked_fill(left_out, padding)
        return functional.embedding_bag(
            positions,
            torch.cat([rows, rows.new_zeros(1, rows.shape[1])]),
            self._offsets,
            mode=self._module.mode,
            per_sample_weights=None if self._weights is None else self._weights.to(rows.dtype),
            include_last_offset=self._last_offset,
            padding_idx=padding,
        )
