"""Mixed dimension embeddings: wide rows for frequent features, narrow ones for rare features.

Source: Ginart et al., Mixed Dimension Embeddings with Application to Memory-Efficient
Recommendation Systems, 2019 (arXiv 1909.11810): blocks and projections, algorithm 2 (widths by a
power of the popularity).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from saec.reference.small.features import FieldFeatures
from saec.reference.small.tables import (
    HALF_BYTES,
    INITIAL_STD,
    FieldModule,
    SeparateTables,
    SmallTables,
    largest,
    normal_rows,
)

__all__ = ["MixedDimension"]

_STEPS = 256  # of the scale, per width of the base table
_MOST_SCALE = 64  # from where on every block has the full width


@dataclass(frozen=True)
class MixedDimension:
    """Blocks of features get widths d = scale * p ** power; a matrix takes rows to the base width.

    p is the probability that a lookup in the block asks for one feature of it, on average; the
    scale is the largest that the bytes allow. See
    :class:`~saec.reference.small.tables.SmallMethod`.

    Args:
        power: alpha; 0 gives all blocks one width.
        blocks: of a field, by frequency, each with an equal share of the lookups. With 1, as in the
            paper's experiments on click logs, any order of ids serves; with more, ids are ranks.
    """

    power: float = 0.3
    blocks: int = 1

    space: ClassVar[Mapping[str, Sequence[Any]]] = {
        "power": (0.2, 0.3, 0.4, 0.6),
        "blocks": (1, 2, 4, 8),
    }
    has_one_size: ClassVar[bool] = False

    def build(self, fields: Sequence[FieldFeatures], dim: int, nbytes: int) -> SmallTables:
        """Blocks of the full width have no matrix."""
        bounds = [_block_bounds(field.frequencies, self.blocks) for field in fields]

        def total(steps: int) -> int:
            every = zip(bounds, self.widths(bounds, dim, steps), strict=True)
            numbers = sum(_numbers(ends, widths, dim) for ends, widths in every)
            return HALF_BYTES * numbers

        steps = largest(total, _STEPS * _MOST_SCALE, nbytes, "mixed dimension")
        parts = zip(fields, bounds, self.widths(bounds, dim, steps), strict=True)
        return SeparateTables(
            fields, [MixedRows(field, ends, widths, dim) for field, ends, widths in parts]
        )

    def widths(self, bounds: Sequence[list[int]], dim: int, steps: int) -> list[list[int]]:
        """By field, the width of each of its blocks, from 1 to ``dim``."""
        # Within a field blocks have equal shares of the lookups, so that p = share / rows.
        shares = [1 / (np.diff(ends) * (len(ends) - 1)) for ends in bounds]
        greatest = max(share.max() for share in shares)
        scale = dim * steps / _STEPS
        return [
            np.clip(np.rint(scale * (share / greatest) ** self.power), 1, dim).astype(int).tolist()
            for share in shares
        ]


class MixedRows(FieldModule):
    """Blocks of consecutive rows, each with a width of its own."""

    rows: Tensor

    def __init__(
        self, field: FieldFeatures, bounds: list[int], widths: list[int], dim: int
    ) -> None:
        super().__init__()
        self.ids = "dense" if len(widths) == 1 else "ranks"
        self._bounds, self._dim = bounds, dim
        self.register_buffer("rows", field.rows, persistent=False)
        self.blocks = nn.ModuleList(
            _projected(count, width, dim)
            for count, width in zip(np.diff(bounds).tolist(), widths, strict=True)
        )
        first = self.blocks[0].get_submodule("0")
        assert isinstance(first, nn.Embedding)
        with torch.no_grad():
            first.weight[0] = 0.0  # of unseen features

    def forward(self, ids: Tensor) -> Tensor:
        """(B,) -> (B, dim)."""
        rows = self.rows[ids]
        if len(self.blocks) == 1:
            alone: Tensor = self.blocks[0](rows)
            return alone
        out = torch.zeros(len(rows), self._dim)
        for block, start, stop in zip(self.blocks, self._bounds, self._bounds[1:], strict=False):
            where = torch.nonzero((rows >= start) & (rows < stop)).squeeze(1)
            out = out.index_copy(0, where, block(rows[where] - start))
        return out


def _projected(count: int, width: int, dim: int) -> nn.Sequential:
    """Rows of ``width`` numbers, and the matrix to the base width if they are narrower."""
    if width == dim:
        return nn.Sequential(normal_rows(count, dim, INITIAL_STD))
    matrix = nn.Linear(width, dim, bias=False)
    with torch.no_grad():  # keeps the variance of rows
        matrix.weight.normal_(0.0, width**-0.5)
    return nn.Sequential(normal_rows(count, width, INITIAL_STD), matrix)


def _block_bounds(frequencies: NDArray[np.float64], blocks: int) -> list[int]:
    """First rows of blocks with about equal shares of the lookups, and the number of rows."""
    shares = np.cumsum(frequencies) / max(np.sum(frequencies), 1e-30)
    cuts = np.searchsorted(shares, np.arange(1, blocks) / blocks) + 1
    return sorted({0, *map(int, cuts), len(frequencies)})


def _numbers(bounds: list[int], widths: list[int], dim: int) -> int:
    """Numbers in the rows and matrices of a field."""
    counts = np.diff(bounds).tolist()
    matrices = sum(width * dim for width in widths if width < dim)
    return matrices + sum(count * width for count, width in zip(counts, widths, strict=True))
