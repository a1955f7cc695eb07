"""Rows of tables in tiers, which are sums of values times axes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saec.format.native_lookup import LookupTable, tier_table
from saec.format.tier_index import TierIndex
from saec.format.tier_layout import Layout
from saec.torch.lookup.reader import (
    COPIED,
    UNUSED,
    TableReader,
    Tensors,
    Use,
    bits_at,
    check_columns,
    gpu_bags,
    plain,
)
from saec.torch.lookup.tier_index import locate
from saec.torch.lookup.tier_tensors import TierTensors
from saec.torch.lookup.triton import launch as gpu

__all__ = ["CELL_COLUMNS", "TIER_COLUMNS", "TierReader", "TierTensors", "held_values"]

CELL_COLUMNS = 6
TIER_COLUMNS = 4


@dataclass(frozen=True)
class TierReader(TableReader):
    """Rows in tiers; tensors: the existing ones of :class:`TierTensors`, in its order.

    A grid is stored as its offset, among the values, and its extent, 2**bits times its step. So all
    values are coordinates and can be trained at one rate.

    Args:
        layout: the parts of each tier.
        pads: ids with rows in a separate tensor (pads, dim).
    """

    layout: Layout
    pads: tuple[int, ...]

    @property
    def parameters(self) -> int:
        """See :class:`TableReader`."""
        return self.names.index("codes")

    @cached_property
    def names(self) -> tuple[str, ...]:
        """See :class:`TableReader`; the last one exists only if ids are not ranks."""
        grids = len(self.layout.grids[1])
        there = {
            "values": self.layout.value_count > grids,
            "extents": grids > 0,
            "axes": self.layout.rank > 0,
            "pads": len(self.pads) > 0,
            "starts": self.layout.any_ordered,
        }
        return tuple(name for name in TierTensors._fields if there.get(name, True))

    def named(self, tensors: Tensors) -> TierTensors:
        """The tensors by their names."""
        absent: dict[str, Any] = dict.fromkeys(TierTensors._fields)
        return TierTensors(**absent | dict(zip(self.names, tensors, strict=False)))

    def learned(self, tensors: Tensors) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Values, extents, axes and mean; empty tensors for missing ones."""
        held = self.named(tensors)
        nothing = held.mean.new_empty(0)
        axes = nothing.reshape(0, held.mean.shape[0]) if held.axes is None else held.axes
        values = nothing if held.values is None else held.values
        return values, nothing if held.extents is None else held.extents, axes, held.mean

    @cached_property
    def columns(self) -> Tensor:
        """Values (tiers, 4 + 6 * rank) int64 that a lookup needs for each tier."""
        return torch.tensor(_columns(self.layout), device="cpu")

    @property
    def spec(self) -> str:
        """See :class:`TableReader`."""
        return json.dumps(["tiers", self.layout.count, self.layout.texts, self.pads])

    def dim(self, tensors: Tensors) -> int:
        """See :class:`TableReader`."""
        return tensors[self.parameters - 1].shape[0]

    def dtype(self, tensors: Tensors) -> torch.dtype:
        """See :class:`TableReader`."""
        return tensors[self.parameters - 1].dtype

    def rows(self, ids: Tensor, tensors: Tensors, skipped: int = -1) -> Tensor:
        """See :class:`TableReader`; pads are not parameters and are not trained.

        Axes are added one after the other, in float32 or wider and with every product rounded, so
        float32 rows equal those of :class:`saec.format.tiered_field.TieredField` bit for bit.
        """
        held, (values, _, axes, mean) = self.named(tensors), self.learned(tensors)
        dtype = torch.promote_types(mean.dtype, torch.float32)
        rows = mean.to(dtype).expand(ids.shape[0], -1)
        if len(values):
            coordinates = self._coordinates(ids, tensors, dtype)
            for axis, coordinate in zip(axes.to(dtype), coordinates.unbind(1), strict=True):
                rows = rows + coordinate[:, None] * axis
        rows = rows.contiguous().to(mean.dtype)  # without axes, the mean is one row, expanded
        for pad, row in zip(self.pads, () if held.pads is None else held.pads, strict=True):
            rows = torch.where((ids == pad)[:, None], row, rows)
        return rows

    def _coordinates(self, ids: Tensor, tensors: Tensors, dtype: torch.dtype) -> Tensor:
        """Coordinates (m, rank)."""
        held, (values, extents, axes, _) = self.named(tensors), self.learned(tensors)
        columns = held.columns
        tiers, places = self._located(ids, held)
        first_bits, row_bits = columns[:, 1], columns[:, 2]
        cells = columns[:, TIER_COLUMNS:].reshape(-1, CELL_COLUMNS, len(axes))
        shifts, masks, firsts, strides, grids, ordered = cells.unbind(1)
        starts = first_bits.index_select(0, tiers) + places * row_bits.index_select(0, tiers)
        bits = starts[:, None] + shifts.index_select(0, tiers)
        read = bits_at(held.codes, bits.reshape(-1), self._reach).reshape(bits.shape)
        if held.starts is not None:
            words = self._ordered_codes(columns, tiers, places, held.starts)[:, None]
            words = words >> shifts.index_select(0, tiers)
            read = torch.where((ordered > 0).index_select(0, tiers), words, read)
        code = read & masks.index_select(0, tiers)
        at = firsts.clamp(min=0).index_select(0, tiers) + code * strides.index_select(0, tiers)
        found = values.to(dtype).index_select(0, at.reshape(-1)).reshape(at.shape)
        if len(extents):
            chosen = extents.to(dtype)[(grids - 1).clamp(min=0)]
            # Division by a power of two does not round.
            steps = torch.where(grids > 0, chosen / (masks + 1), 0)
            found = found + code * steps.index_select(0, tiers)
        return torch.where((firsts < 0).index_select(0, tiers), 0, found)

    def _ordered_codes(
        self, columns: Tensor, tiers: Tensor, places: Tensor, starts: Tensor
    ) -> Tensor:
        """Ordered codes (m,) of all parts together; 0 in tiers without."""
        ranks = columns[:, 0].index_select(0, tiers) + places
        passed = torch.bucketize(ranks, starts.contiguous(), right=True)
        return passed - columns[:, 3].index_select(0, tiers)

    def _located(self, ids: Tensor, held: TierTensors) -> tuple[Tensor, Tensor]:
        """Tier of each id and place in it, (m,) int64."""
        if held.tier_index is not None:
            return locate(ids, self.layout.count, len(self.layout.tiers), held.tier_index)
        bounds = held.columns[:, 0].contiguous()
        tiers = torch.bucketize(ids, bounds[1:], right=True)
        return tiers, ids - bounds.index_select(0, tiers)

    @cached_property
    def _reach(self) -> int:
        """The widest reach of a code over byte borders."""
        widths = [part.width for parts in self.layout.tiers for part in parts]
        return (max(widths, default=0) + 14) // 8

    def table(self, tensors: Tensors) -> LookupTable:
        """See :class:`TableReader`."""
        held = self.named(tensors)
        check_columns(held.columns, self.columns)
        values, extents, axes, mean = map(_floats, self.learned(tensors))
        values = held_values(self.layout, values, extents)
        directions = np.concatenate([axes, mean[None]])
        starts = np.zeros(0, dtype=np.int64) if held.starts is None else held.starts.numpy()
        where = None
        if held.tier_index is not None:
            index = held.tier_index.contiguous().numpy()
            where = TierIndex(index, self.layout.count, len(self.layout.tiers))
        rows = {} if held.pads is None else dict(zip(self.pads, _floats(held.pads), strict=True))
        return tier_table(self.layout, held.codes.numpy(), values, directions, where, rows, starts)

    def uses(self, table: LookupTable, tensors: Tensors) -> list[Use]:
        """See :class:`TableReader`; rows of frequent features and their ranks are copied, so they
        depend on codes and on the last levels of the index."""
        special = {"codes": Use(in_place=True, copied=table.decoded)}
        special |= {"columns": UNUSED, "tier_index": Use(in_place=True, copied=table.ranked)}
        return [special.get(name, COPIED) for name, _ in zip(self.names, tensors, strict=False)]

    def fused(
        self,
        ids: Tensor,
        offsets: Tensor | None,
        weights: Tensor | None,
        tensors: Tensors,
        mode: str,
        skipped: int,
    ) -> Tensor:
        """See :class:`TableReader`."""
        if set(self.pads) - {skipped}:
            return plain(self, ids, offsets, weights, tensors, mode, skipped)
        held = self.named(tensors)
        table = gpu.TieredTensors(
            self.layout.count, held.codes, held.columns, *self.learned(tensors), held.starts
        )
        located = None if held.tier_index is None else self._located(ids, held)
        if offsets is None:
            return gpu.tiered_rows(table, ids, located)
        return gpu.tiered_pool(table, ids, gpu_bags(ids, offsets, weights, mode, skipped), located)


class _Cell(NamedTuple):
    """Codes of one axis in a tier.

    shift: position of the code's first bit in the row, or in the ordered codes; mask: of its bits;
    first, stride: of its values, the first among ``values``, -1 for a coordinate of 0;
    grid: 1 + the grid's number; ordered: whether the code follows from the order of rows.
    """

    shift: int
    mask: int
    first: int
    stride: int
    grid: int
    ordered: int


_NOTHING = _Cell(0, 0, -1, 0, 0, 0)


def _columns(layout: Layout) -> list[list[int]]:
    """Values that a lookup needs, a row per tier: first rank, first bit, bits of a row, first
    start; then each entry of a :class:`_Cell` for all axes."""
    rows, grids = [], 0
    for tier, bound in enumerate(layout.bounds[:-1].tolist()):
        cells = list(_cells(layout, tier, grids))
        grids += sum(cell.grid > 0 for cell in cells)
        cells += [_NOTHING] * (layout.rank - len(cells))
        row = [bound, 8 * layout.first_bytes[tier], sum(layout.widths(tier))]
        row.append(layout.first_starts[tier])
        rows.append(row + [number for column in zip(*cells, strict=True) for number in column])
    return rows


def _cells(layout: Layout, tier: int, grids: int) -> Iterator[_Cell]:
    """The cells of the axes of a tier's parts, after ``grids`` grids of earlier tiers."""
    shift, started = 0, layout.ordered_bits(tier) > 0  # ordered codes are a separate word
    for part, first in zip(layout.tiers[tier], layout.first_values[tier], strict=False):
        if started and not part.ordered:
            shift, started = 0, False
        mask, start = (1 << part.bits) - 1, first - grids  # a grid's step is not among the values
        if part.kind == "none":
            yield _NOTHING
        elif part.kind == "grid":
            grids += 1
            yield _Cell(shift, mask, start, 0, grids, int(part.ordered))
        else:
            for axis in range(part.axes):
                yield _Cell(shift, mask, start + axis, part.axes, 0, int(part.ordered))
        shift += part.bits


def held_values(
    layout: Layout, values: NDArray[np.float32], extents: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The arrays of a :class:`TieredField`, not yet rounded to float16."""
    steps, bits = layout.grids
    held = np.empty(layout.value_count, dtype=np.float32)
    held[~steps] = values
    held[steps] = np.ldexp(extents, -bits)
    return held


def _floats(tensor: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.detach().float().contiguous().numpy()
    return array
