"""DeepFM (Guo et al., DeepFM: A Factorization-Machine based Neural Network, IJCAI 2017)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from saec.reference.models.base import ClickModel, FieldLinear, mlp

__all__ = ["DeepFM", "pairwise_dots"]


class DeepFM(ClickModel):
    """First-order term + factorization machine + MLP, all on the same embeddings (eq. 1-4).

    The first-order term is `FieldLinear`, read off the embeddings, where the paper keeps a weight
    per feature.
    """

    def __init__(
        self, vocab_sizes: Mapping[str, int], dim: int = 16, hidden: tuple[int, ...] = (128, 64)
    ) -> None:
        super().__init__(vocab_sizes, dim)
        fields = len(vocab_sizes)
        self.linear = FieldLinear(fields, dim)
        self.deep = mlp(fields * dim, hidden, 1)

    def interact(self, vectors: Tensor) -> Tensor:
        """``(B, F, dim) -> (B,)``."""
        deep: Tensor = self.deep(vectors.flatten(1)).squeeze(1)
        first_order: Tensor = self.linear(vectors)
        return first_order + pairwise_dots(vectors) + deep


def pairwise_dots(vectors: Tensor) -> Tensor:
    """``sum_{f<g} <e_f, e_g>`` of ``(B, F, dim)`` as ``(B,)``.

    Linear in F: half of the square of the sum less the sum of the squares (Rendle, Factorization
    Machines, ICDM 2010, lemma 3.1).
    """
    square_of_sum = vectors.sum(1).square().sum(1)
    sum_of_squares = vectors.square().sum((1, 2))
    return 0.5 * (square_of_sum - sum_of_squares)
