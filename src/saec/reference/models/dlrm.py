"""DLRM (Naumov et al., Deep Learning Recommendation Model, arXiv 1906.00091)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from saec.reference.models.base import ClickModel, mlp

__all__ = ["DLRM"]


class DLRM(ClickModel):
    """Dot products of all pairs of vectors, then an MLP (section 2.1.3 and 2.1.4).

    The logs here have no dense features, for which the paper's bottom MLP would yield the same
    vector in every example. That vector is kept, as the learned ``constant``: its dot products
    with the embeddings are the model's first-order terms.
    """

    pairs: Tensor

    def __init__(
        self, vocab_sizes: Mapping[str, int], dim: int = 16, hidden: tuple[int, ...] = (128, 64)
    ) -> None:
        super().__init__(vocab_sizes, dim)
        vectors = len(vocab_sizes) + 1
        self.constant = nn.Parameter(torch.randn(dim) / dim**0.5)
        rows, columns = torch.triu_indices(vectors, vectors, offset=1)
        self.register_buffer("pairs", rows * vectors + columns, persistent=False)
        self.top = mlp(len(self.pairs), hidden, 1)

    def interact(self, vectors: Tensor) -> Tensor:
        """``(B, F, dim) -> (B,)``."""
        constant = self.constant.expand(len(vectors), 1, -1)
        everything = torch.cat([constant, vectors], dim=1)
        dots = torch.bmm(everything, everything.transpose(1, 2)).flatten(1)
        logits: Tensor = self.top(dots.index_select(1, self.pairs)).squeeze(1)
        return logits
