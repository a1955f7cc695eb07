"""DCN-V2 (Wang et al., Improved Deep & Cross Network, WWW 2021)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from saec.reference.models.base import ClickModel, mlp

__all__ = ["CrossLayer", "DCNv2"]


class DCNv2(ClickModel):
    """Cross layers beside an MLP; one linear layer reads both (section 3.3, parallel structure)."""

    def __init__(
        self,
        vocab_sizes: Mapping[str, int],
        dim: int = 16,
        hidden: tuple[int, ...] = (128, 64),
        cross_layers: int = 2,
    ) -> None:
        super().__init__(vocab_sizes, dim)
        width = len(vocab_sizes) * dim
        self.cross = nn.ModuleList([CrossLayer(width) for _ in range(cross_layers)])
        self.deep = mlp(width, hidden)
        self.last = nn.Linear(width + hidden[-1], 1)

    def interact(self, vectors: Tensor) -> Tensor:
        """``(B, F, dim) -> (B,)``."""
        first = crossed = vectors.flatten(1)
        for layer in self.cross:
            crossed = layer(first, crossed)
        logits: Tensor = self.last(torch.cat([crossed, self.deep(first)], dim=1)).squeeze(1)
        return logits


class CrossLayer(nn.Module):
    """``x_{l+1} = x_0 * (W x_l + b) + x_l`` with a full-rank W (eq. 1)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, first: Tensor, current: Tensor) -> Tensor:
        """``x_0`` and ``x_l``, both ``(B, width)``, to ``x_{l+1} (B, width)``."""
        step: Tensor = self.linear(current)
        return torch.addcmul(current, first, step)
