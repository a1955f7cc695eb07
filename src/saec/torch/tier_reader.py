"""Rows of tables in tiers, which are sums of values times axes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saec.lookup import LookupTable, tier_table
from saec.order import TierVectors
from saec.tiers import Layout
from saec.torch import triton_lookup as gpu
from saec.torch.reading import Reader, Tensors, bits_at, gpu_bags, plain
from saec.torch.vectors import locate

__all__ = ["CELL_COLUMNS", "TIER_COLUMNS", "TierReader", "held_values"]

CELL_COLUMNS = 6
TIER_COLUMNS = 4


@dataclass(frozen=True)
class TierReader(Reader):
    """Rows in tiers; tensors: values, extents, axes, mean | codes, columns, pads, more by layout.

    A grid is held as its offset, among the values, and its extent, 2**bits times its step: then all
    of them are coordinates, which learn at one rate. Where tiers are in order of their codes, there
    is the tensor ``starts``, the ranks of :attr:`saec.stored.tiered.TieredField.code_starts`; where
    ids are no ranks, ``blocks`` and ``below`` of :class:`saec.torch.vectors.Vectors`.

    Args:
        layout: the parts of each tier.
        pads: their rows are a tensor of their own (pads, dim).
    """

    layout: Layout
    pads: tuple[int, ...]

    parameters: ClassVar[int] = 4
    copies: ClassVar[bool] = True

    @property
    def spec(self) -> str:
        """See :class:`Reader`."""
        return json.dumps(["tiers", self.layout.count, self.layout.texts, self.pads])

    def dim(self, tensors: Tensors) -> int:
        """See :class:`Reader`."""
        return len(tensors[3])

    def rows(self, ids: Tensor, tensors: Tensors, skipped: int = -1) -> Tensor:
        """See :class:`Reader`; pads are no parameters, and learn nothing.

        Axis after axis is added, in float32 or wider and with every product rounded, so that
        float32 rows equal those of :class:`saec.stored.tiered.TieredField` bit for bit.
        """
        values, _, axes, mean, *_ = tensors
        dtype = torch.promote_types(mean.dtype, torch.float32)
        rows = mean.to(dtype).expand(ids.shape[0], -1)
        if len(values):
            coordinates = self._coordinates(ids, tensors, dtype)
            for axis, coordinate in zip(axes.to(dtype), coordinates.unbind(1), strict=True):
                rows = rows + coordinate[:, None] * axis
        rows = rows.contiguous().to(mean.dtype)  # a mean alone is one row expanded
        for pad, row in zip(self.pads, tensors[6], strict=True):
            rows = torch.where((ids == pad)[:, None], row, rows)
        return rows

    def _coordinates(self, ids: Tensor, tensors: Tensors, dtype: torch.dtype) -> Tensor:
        """Coordinates (m, rank)."""
        values, extents, axes, _, codes, columns, *_ = tensors
        tiers, places = self._located(ids, tensors)
        first_bits, row_bits = columns[:, 1], columns[:, 2]
        cells = columns[:, TIER_COLUMNS:].reshape(-1, CELL_COLUMNS, len(axes))
        shifts, masks, firsts, strides, grids, ordered = cells.unbind(1)
        starts = first_bits.index_select(0, tiers) + places * row_bits.index_select(0, tiers)
        bits = starts[:, None] + shifts.index_select(0, tiers)
        read = bits_at(codes, bits.reshape(-1), self._reach).reshape(bits.shape)
        if self.layout.any_ordered:
            words = self._ordered_codes(columns, tiers, places, tensors[7])[:, None]
            words = words >> shifts.index_select(0, tiers)
            read = torch.where((ordered > 0).index_select(0, tiers), words, read)
        code = read & masks.index_select(0, tiers)
        at = firsts.clamp(min=0).index_select(0, tiers) + code * strides.index_select(0, tiers)
        found = values.to(dtype).index_select(0, at.reshape(-1)).reshape(at.shape)
        if len(extents):
            chosen = extents.to(dtype)[(grids - 1).clamp(min=0)]
            # A power of two divides without rounding.
            steps = torch.where(grids > 0, chosen / (masks + 1), 0)
            found = found + code * steps.index_select(0, tiers)
        return torch.where((firsts < 0).index_select(0, tiers), 0, found)

    def _ordered_codes(
        self, columns: Tensor, tiers: Tensor, places: Tensor, starts: Tensor
    ) -> Tensor:
        """Ordered codes (m,), all parts' together; 0 in tiers without."""
        ranks = columns[:, 0].index_select(0, tiers) + places
        passed = torch.bucketize(ranks, starts, right=True)
        return passed - columns[:, 3].index_select(0, tiers)

    def _located(self, ids: Tensor, tensors: Tensors) -> tuple[Tensor, Tensor]:
        """Tier of each id and place in it, (m,) int64."""
        if len(tensors) > 8:
            return locate(ids, self.layout.count, tensors[7], tensors[8])
        bounds = tensors[5][:, 0].contiguous()
        tiers = torch.bucketize(ids, bounds[1:], right=True)
        return tiers, ids - bounds.index_select(0, tiers)

    @cached_property
    def _reach(self) -> int:
        """The widest reach of a code over byte borders."""
        widths = [part.width for parts in self.layout.tiers for part in parts]
        return (max(widths, default=0) + 14) // 8

    def table(self, tensors: Tensors) -> LookupTable:
        """See :class:`Reader`."""
        values, extents, axes, mean, codes, _, pads, *more = tensors
        held = held_values(self.layout, _floats(values), _floats(extents))
        directions = np.concatenate([_floats(axes), _floats(mean)[None]])
        where, starts = None, np.zeros(0, dtype=np.int64)
        if self.layout.any_ordered:
            starts = more[0].numpy()
        elif more:
            where = TierVectors(more[0].numpy().reshape(-1).view(np.uint8), self.layout.count)
        rows = dict(zip(self.pads, _floats(pads), strict=True))
        return tier_table(self.layout, codes.numpy(), held, directions, where, rows, starts)

    def fused(
        self,
        ids: Tensor,
        offsets: Tensor | None,
        weights: Tensor | None,
        tensors: Tensors,
        mode: str,
        skipped: int,
    ) -> Tensor:
        """See :class:`Reader`."""
        if set(self.pads) - {skipped}:
            return plain(self, ids, offsets, weights, tensors, mode, skipped)
        values, extents, axes, mean, codes, columns, *_ = tensors
        starts = tensors[7] if self.layout.any_ordered else None
        table = gpu.TieredTensors(
            self.layout.count, codes, columns, values, extents, axes, mean, starts
        )
        located = self._located(ids, tensors) if len(tensors) > 8 else None
        if offsets is None:
            return gpu.tiered_rows(table, ids, located)
        return gpu.tiered_pool(table, ids, gpu_bags(ids, offsets, weights, mode, skipped), located)


def held_values(
    layout: Layout, values: NDArray[np.float32], extents: NDArray[np.float32]
) -> NDArray[np.float32]:
    """What a :class:`TieredField` would store, not yet rounded to float16."""
    steps, bits = layout.grids
    held = np.empty(layout.value_count, dtype=np.float32)
    held[~steps] = values
    held[steps] = np.ldexp(extents, -bits)
    return held


def _floats(tensor: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.detach().float().contiguous().numpy()
    return array
