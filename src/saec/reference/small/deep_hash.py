"""DHE: no table; many hashes of a key, and a network that takes them to its vector.

Source: Kang et al., Learning to Embed Categorical Features without Embedding Tables for
Recommendation, KDD 2021 (arXiv 2010.10784): hashes as uniform numbers from -1 to 1; Mish and
batch normalisation in the network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from saec.reference.small.features import FieldFeatures
from saec.reference.small.tables import HALF_BYTES, SmallTables, each_once, largest

__all__ = ["DeepHash"]

_MOST_WIDTH = 4096
_KEPT_BITS = 24  # of a hash, as many as a float32 holds exactly


@dataclass(frozen=True)
class DeepHash:
    """One network for all fields, whose hashes differ; its layers are as wide as the bytes allow.

    See :class:`~saec.reference.small.tables.SmallMethod`. It needs no vocabulary. The paper has a
    network for each field and 1,024 hashes; at these sizes nothing would be left for the layers.

    Args:
        hashes: of a key.
        layers: hidden ones, of equal width.
    """

    hashes: int = 64
    layers: int = 2

    space: ClassVar[Mapping[str, Sequence[Any]]] = {
        "hashes": (16, 32, 64, 128),
        "layers": (1, 2, 4),
    }
    has_one_size: ClassVar[bool] = False

    def build(self, fields: Sequence[FieldFeatures], dim: int, nbytes: int) -> SmallTables:
        """The width is the largest that the bytes allow."""

        def total(width: int) -> int:
            # Weights and bias; scale, shift, mean and variance of the normalisation.
            first = self.hashes * width
            hidden = (self.layers - 1) * width * width
            return HALF_BYTES * (first + hidden + 5 * self.layers * width + (width + 1) * dim)

        width = largest(total, _MOST_WIDTH, nbytes, f"DHE with {self.hashes} hashes")
        return HashNetwork(fields, dim, self.hashes, self.layers, width)


class HashNetwork(SmallTables):
    """The vectors of a batch, each computed once for all rows that ask for it."""

    seeds: Tensor
    firsts: Tensor
    factors: Tensor

    def __init__(
        self, fields: Sequence[FieldFeatures], dim: int, hashes: int, layers: int, width: int
    ) -> None:
        super().__init__([(field.count, "keys") for field in fields])
        own = [torch.from_numpy(field.hashes(0).view(np.int64)) for field in fields]
        firsts = torch.from_numpy(np.cumsum([0, *(len(column) for column in own[:-1])]))
        factors = torch.from_numpy(_odd_numbers(hashes))
        for name, value in (("seeds", torch.cat(own)), ("firsts", firsts), ("factors", factors)):
            self.register_buffer(name, value, persistent=False)
        widths = [hashes, *[width] * layers]
        parts: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            parts += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.Mish()]
        self.network = nn.Sequential(*parts, nn.Linear(width, dim))

    def forward(self, ids: Tensor) -> Tensor:
        """(B, fields) -> (B, fields, dim)."""
        return each_once(ids + self.firsts, self._vectors)

    def _vectors(self, asked: Tensor) -> Tensor:
        # Multiplication modulo 2**64 by odd numbers, of which the upper bits are taken.
        products = self.seeds[asked].unsqueeze(1) * self.factors
        upper = (products >> (64 - _KEPT_BITS)) & (2**_KEPT_BITS - 1)
        numbers = upper.float() / 2 ** (_KEPT_BITS - 1) - 1
        vectors: Tensor = self.network(numbers)
        return vectors


def _odd_numbers(count: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Factors of the hashes; always the same, so that they need not be stored."""
    drawn = np.random.default_rng(0).integers(0, 2**63, count, dtype=np.int64)
    return drawn | 1
