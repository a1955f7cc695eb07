"""Tensors of a table in tiers."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["TierTensors"]


class TierTensors(NamedTuple):
    """Tensors of a :class:`saec.torch.table.tiered.TieredTable`; the first four are trained.

    Attributes:
        values: (tables' values and grids' offsets,), or None if there are none.
        extents: (grids,), or None.
        axes: (rank, dim), or None.
        mean: (dim,).
        codes: (bytes,) uint8.
        columns: :attr:`TierReader.columns`.
        pads: (pads, dim), or None.
        starts: if tiers are sorted by their codes, the ranks (starts,) int64 of
            :attr:`saec.format.tiered_field.TieredField.code_starts`; otherwise None.
        tier_index: if ids are not ranks, the bytes (bytes,) uint8 of their
            :class:`saec.format.tier_index.TierIndex`; otherwise None.
    """

    values: Tensor | None
    extents: Tensor | None
    axes: Tensor | None
    mean: Tensor
    codes: Tensor
    columns: Tensor
    pads: Tensor | None
    starts: Tensor | None
    tier_index: Tensor | None
