"""ROBE: all tables read their rows, block by block, from one array.

Source: Desai et al., Random Offset Block Embedding Array (ROBE) for CriteoTB Benchmark MLPerf DLRM
Model: 1000x Compression and 3.1x Faster Inference, MLSys 2022 (arXiv 2108.02191).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from saec.errors import BudgetError
from saec.reference.small.features import FieldFeatures
from saec.reference.small.tables import HALF_BYTES, INITIAL_STD, SmallTables

__all__ = ["Robe"]


@dataclass(frozen=True)
class Robe:
    """Rows are cut into blocks; a hash of field, key and block says where in the array each starts.

    Blocks may overlap, and run on from the end of the array to its start. See
    :class:`~saec.reference.small.tables.SmallMethod`. It needs no vocabulary.

    Args:
        block: numbers of a block, Z in the paper.
        signs: whether another hash turns the signs of blocks.
    """

    block: int = 8
    signs: bool = False

    space: ClassVar[Mapping[str, Sequence[Any]]] = {
        "block": (2, 4, 8, 16),
        "signs": (False, True),
    }
    has_one_size: ClassVar[bool] = False

    def build(self, fields: Sequence[FieldFeatures], dim: int, nbytes: int) -> SmallTables:
        """The array takes all bytes, and at most as many numbers as all rows have."""
        runs = min(nbytes // (HALF_BYTES * dim), sum(field.count for field in fields))
        if not runs:
            raise BudgetError(
                f"ROBE needs at least {HALF_BYTES * dim} bytes; {nbytes} were allowed"
            )
        return BlockArray(fields, dim, runs, min(self.block, dim), self.signs)


class BlockArray(SmallTables):
    """One array, and for each field and key where its blocks start.

    The array is held, and trained, as ``runs`` rows of ``dim`` numbers.
    """

    starts: Tensor
    turned: Tensor
    firsts: Tensor

    def __init__(
        self, fields: Sequence[FieldFeatures], dim: int, runs: int, block: int, signs: bool
    ) -> None:
        super().__init__([(field.count, "keys") for field in fields])
        self._dim, self._block = dim, block
        numbers, blocks = runs * dim, range(math.ceil(dim / block))
        starts = [_columns([field.buckets(numbers, seed) for seed in blocks]) for field in fields]
        turned = [
            1 - 2 * _columns([field.buckets(2, len(blocks) + seed) for seed in blocks])
            for field in fields
        ]
        sizes = [len(column) for column in starts]
        self.register_buffer("starts", torch.cat(starts), persistent=False)
        self.register_buffer(
            "turned", torch.cat(turned).float() if signs else torch.empty(0), persistent=False
        )
        firsts = torch.from_numpy(np.cumsum([0, *sizes[:-1]]))
        self.register_buffer("firsts", firsts, persistent=False)
        # Gradients are dense: a batch asks for more numbers than the array has.
        self.array = nn.Embedding(runs, dim, _weight=INITIAL_STD * torch.randn(runs, dim))

    def forward(self, ids: Tensor) -> Tensor:
        """(B, fields) -> (B, fields, dim)."""
        asked = ids + self.firsts
        array = self.array.weight.flatten()
        # Views of all blocks, as rows of a table: looking up single numbers takes ten times longer.
        blocks = torch.cat([array, array[: self._block - 1]]).unfold(0, self._block, 1)
        starts = self.starts[asked]
        values = blocks.index_select(0, starts.flatten()).view(*starts.shape, self._block)
        if len(self.turned):
            values = values * self.turned[asked].unsqueeze(-1)
        return values.flatten(2)[..., : self._dim]


def _columns(columns: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(columns), dim=1)
