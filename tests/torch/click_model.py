"""A small click model, in a module of its own: pickles do not find what a conftest defines."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class ClickModel(nn.Module):
    """Two fields, one pooled; logits (n,)."""

    def __init__(self, dim: int = 4, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.user = nn.Embedding(30, dim, **options)
        self.tags = nn.EmbeddingBag(12, dim, mode="sum")
        self.hidden = nn.Sequential(nn.Linear(2 * dim, 8), nn.BatchNorm1d(8), nn.ReLU())
        self.dropout = nn.Dropout(0.5)
        self.out = nn.Linear(8, 1)

    def forward(self, user: Tensor, tags: Tensor) -> Tensor:
        features = torch.cat([self.user(user), self.tags(tags)], dim=1)
        logits: Tensor = 2 * self.out(self.dropout(self.hidden(features))).squeeze(1)
        return logits
