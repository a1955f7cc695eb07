"""Tensors of a table in tiers."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["TierTensors"]


class TierTensors(NamedTuple):
    """What a :class:`saec.torch.table.tiered.TieredTable` holds, of which the first four learn.

    Attributes:
        values: (tables' values and grids' offsets,), or None if there are none.
        extents: (grids,), or None.
        axes: (rank, dim), or None.
        mean: (dim,).
        codes: (bytes,) uint8.
        columns: :attr:`TierReader.columns`.
        pads: (pads, dim), or None.
        starts: where tiers are in order of their codes, the ranks (starts,) int64 of
            :attr:`saec.format.tiered_field.TieredField.code_starts`; else None.
        tier_index: where ids are no ranks, the bytes (bytes,) uint8 of their
            :class:`saec.format.tier_index.TierIndex`; else None.
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
