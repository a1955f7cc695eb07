"""Item tables in tiers whose codes are trained together with their values and axes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from saec.bits.packing import PackedRows
from saec.codecs.axes.principal_axes import Frame
from saec.format.tiered_field import TieredField
from saec.reference.next_item.item_tables import ItemTable
from saec.tables.loss_metric import Metric

__all__ = ["RecodedItems"]


class _PartOfTier(NamedTuple):
    """A part of a tier with codes: its rows and axes, the first of its values, the number of its
    grid or -1, and the bits of its codes."""

    rows: slice
    axes: slice
    first: int
    grid: int
    bits: int


class RecodedItems(ItemTable):
    """A table of the codec ``axes`` whose codes may change; its layout and its bytes stay.

    Each row has coordinates of its own, and is decoded from the values that are nearest to them.
    Gradients reach the values and axes that a row uses, and pass on to its coordinates as if these
    had been used themselves (straight-through estimator; Bengio, Leonard and Courville 2013, arXiv
    1308.3432). Coordinates are kept within the range of their values (as in Courbariaux, Bengio and
    David, BinaryConnect, 2015), so that a code can always change again.

    Args:
        field: as compressed; its ids are ranks, or in an index.
        rows: (items, dim) of the uncompressed table.
        metric: (dim, dim) loss metric of the table.

    Attributes:
        coordinates: parameter (items, rank), in order of the rows' ranks; not stored. Axes have the
            length 1 here, and coordinates and values the unit of rows, so that one learning rate
            suits all.
        values, extents, axes, mean: parameters, as of :class:`saec.torch.table.tiered.TieredTable`.
    """

    ranks: Tensor
    used: Tensor
    steps: Tensor

    def __init__(self, field: TieredField, rows: Tensor, metric: NDArray[np.float64]) -> None:
        super().__init__()
        self._field = field
        grid_bits = field.layout.grids[1]
        self._lengths = np.linalg.norm(field.axes[:-1].astype(np.float32), axis=1)
        self._axis_of_value = _axes_of_values(field)
        self.values, self.extents, self.axes, self.mean = map(nn.Parameter, self._stored_in(field))
        self._parts = list(_parts(field))
        count, rank = field.vocab_size, field.layout.rank
        ranks = _ranks(field)
        frame = Frame.of_stored(field.axes, Metric.of(metric, field.name, field.dim))
        found = np.empty((count, rank), np.float32)
        found[ranks] = frame.coordinates(rows.detach().numpy(), rank) * self._lengths
        self.coordinates = nn.Parameter(torch.from_numpy(found))
        self.register_buffer("ranks", torch.from_numpy(ranks))
        # Places among values, a zero after them included, and numbers of grid steps from there.
        self.register_buffer("used", torch.full((count, rank), len(self.values)))
        self.register_buffer("steps", torch.zeros(count, rank))
        self._grid_of = torch.full((count, rank), len(self.extents))
        self._widths = torch.from_numpy(np.ldexp(np.float32(1), -grid_bits)).float()
        for part in self._parts:
            if part.grid >= 0:
                self._grid_of[part.rows, part.axes] = part.grid
        self._version = -1
        self.fixed = False
        self.nbytes = 0  # of the artifact, which has more than this field; see the caller

    def all_rows(self) -> Tensor:
        """See :class:`ItemTable`."""
        self._recode()
        none = self.values.new_zeros(1)
        decoded = torch.cat([self.values, none])[self.used]
        if len(self.extents):
            steps = torch.cat([self.extents * self._widths, none])
            decoded = decoded + self.steps * steps[self._grid_of]
        if not self.fixed:
            decoded = decoded + (self.coordinates - self.coordinates.detach())
        return torch.addmm(self.mean, decoded, self.axes)[self.ranks]

    def fix_codes(self) -> None:
        """Leave the codes as they are from now on; the rest can still be trained."""
        self._recode()
        self.fixed = True
        self.coordinates.requires_grad_(False)

    @torch.no_grad()
    def round_(self) -> None:
        """Round values and axes as they are stored; coordinates are not."""
        parameters = (self.values, self.extents, self.axes, self.mean)
        for own, rounded in zip(parameters, self._stored_in(self._tuned()), strict=True):
            own.copy_(rounded)

    def _stored_in(self, field: TieredField) -> list[Tensor]:
        """Values, extents, axes and mean of a field, in the units of this table."""
        grids, grid_bits = field.layout.grids
        exact = field.values.astype(np.float32) * self._lengths[self._axis_of_value]
        stored = field.axes.astype(np.float32)
        axes = stored[:-1] / self._lengths[:, None]
        found = (exact[~grids], np.ldexp(exact[grids], grid_bits), axes, stored[-1])
        return [torch.from_numpy(own) for own in found]

    def stored(self) -> TieredField:
        """The field with the present codes, values and axes, of as many bytes as it had."""
        self._recode()
        layout = self._field.layout
        codes = np.zeros_like(self._field.codes)
        for tier, (low, first) in enumerate(zip(layout.bounds, layout.first_bytes, strict=False)):
            high = layout.bounds[tier + 1]
            own = [part for part in self._parts if part.rows == slice(int(low), int(high))]
            if widths := [part.bits for part in own if part.bits]:
                columns = [self._codes(part).numpy() for part in own if part.bits]
                PackedRows.pack_into(codes, first, columns, widths)
        return self._tuned().filled(codes)

    @torch.no_grad()
    def _recode(self) -> None:
        """Take the nearest values, if coordinates have changed since."""
        if self.fixed or self.coordinates._version == self._version:
            return
        for part in self._parts:
            own = self.coordinates[part.rows, part.axes]
            if part.grid >= 0:
                low = self.values[part.first]
                step = self.extents[part.grid] * self._widths[part.grid]
                most = (1 << part.bits) - 1
                taken = ((own - low) / step).round().nan_to_num(0.0).clamp(0, most)
                ends = torch.stack([low, low + most * step])
                own.clamp_(ends.min(), ends.max())
                self.used[part.rows, part.axes] = part.first
                self.steps[part.rows, part.axes] = taken
                continue
            table = self._table(part)
            at = torch.cdist(own, table).argmin(1) if part.bits else own.new_zeros(len(own)).long()
            if part.bits and table.shape[1] == 1:
                own.clamp_(table.min(), table.max())
            axes = table.shape[1]
            self.used[part.rows, part.axes] = part.first + at[:, None] * axes + torch.arange(axes)
        self._version = self.coordinates._version

    def _table(self, part: _PartOfTier) -> Tensor:
        """Values (codes, axes) of a part that has no grid."""
        axes = part.axes.stop - part.axes.start
        return self.values[part.first : part.first + (axes << part.bits)].reshape(-1, axes)

    def _codes(self, part: _PartOfTier) -> Tensor:
        """The present codes (rows,) of a part."""
        first = part.axes.start
        if part.grid >= 0:
            return self.steps[part.rows, first].long()
        axes = part.axes.stop - first
        codes: Tensor = (self.used[part.rows, first] - part.first) // axes
        return codes

    def _tuned(self) -> TieredField:
        """The field with the present values and axes, rounded, and the codes that it had."""
        grids, grid_bits = self._field.layout.grids
        exact = np.empty(len(grids), np.float32)
        exact[~grids] = self.values.detach().numpy()
        exact[grids] = np.ldexp(self.extents.detach().numpy(), -grid_bits)
        values = exact / self._lengths[self._axis_of_value]
        axes = self.axes.detach().numpy() * self._lengths[:, None]
        stored = np.concatenate([axes, self.mean.detach().numpy()[None]])
        return self._field.tuned(
            _clipped(values, np.dtype(np.float16)), _clipped(stored, self._field.axes.dtype)
        )


def _clipped(values: NDArray[np.float32], dtype: np.dtype[Any]) -> NDArray[Any]:
    limit = np.finfo(dtype).max
    return values.clip(-limit, limit).astype(dtype)


def _ranks(field: TieredField) -> NDArray[np.int64]:
    """The rank (items,) of each id."""
    ids = np.arange(field.vocab_size)
    if field.index is None:
        return ids
    tiers, places = field.index.locate(ids)
    return field.layout.bounds[tiers] + places


def _parts(field: TieredField) -> Iterator[_PartOfTier]:
    """All parts with values; places count values without the steps of grids."""
    layout, grid = field.layout, 0
    for tier, parts in enumerate(layout.tiers):
        rows = slice(*layout.bounds[tier : tier + 2].tolist())
        starts = accumulate((part.axes for part in parts), initial=0)
        for part, start, first in zip(parts, starts, layout.first_values[tier], strict=False):
            axes = slice(start, start + part.axes)
            if part.kind == "grid":
                yield _PartOfTier(rows, axes, first - grid, grid, part.bits)
                grid += 1
            elif part.kind == "table":
                yield _PartOfTier(rows, axes, first - grid, -1, part.bits)


def _axes_of_values(field: TieredField) -> NDArray[np.int64]:
    """The axis (values,) that each stored value is a coordinate on."""
    found = []
    for parts in field.layout.tiers:
        start = 0
        for part in parts:
            if part.values:
                own = np.arange(part.axes) + start
                found.append(np.resize(own, part.values))
            start += part.axes
    return np.concatenate([np.zeros(0, np.int64), *found])
