"""Wide & Deep (Cheng et al., Wide & Deep Learning for Recommender Systems, DLRS 2016)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from saec.reference.models.base import ClickModel, FieldLinear, mlp

__all__ = ["WideDeep"]


class WideDeep(ClickModel):
    """A linear part and an MLP whose logits are added (eq. 3).

    The wide part is `FieldLinear`, read off the embeddings, where the paper keeps a weight per
    feature; crosses are fields of the log like any other.
    """

    def __init__(
        self, vocab_sizes: Mapping[str, int], dim: int = 16, hidden: tuple[int, ...] = (128, 64)
    ) -> None:
        super().__init__(vocab_sizes, dim)
        fields = len(vocab_sizes)
        self.wide = FieldLinear(fields, dim)
        self.deep = mlp(fields * dim, hidden, 1)

    def interact(self, vectors: Tensor) -> Tensor:
        """``(B, F, dim) -> (B,)``."""
        wide: Tensor = self.wide(vectors)
        deep: Tensor = self.deep(vectors.flatten(1)).squeeze(1)
        return wide + deep
