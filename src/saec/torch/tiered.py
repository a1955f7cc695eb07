"""Rows of a table in tiers, decoded as they are looked up, in plain torch operations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from saec.errors import ModuleError
from saec.stored.field import CompressedField
from saec.stored.tiered import TieredField
from saec.tiers import Layout
from saec.torch.base import LearnedTable, words
from saec.torch.vectors import Vectors

__all__ = ["TieredTable"]

_TIER_COLUMNS = 3
_CELL_COLUMNS = 5


class TieredTable(LearnedTable):
    """Packed codes of one field, and the values, axes and mean that they stand for.

    A grid is held as its offset, among the values, and its extent, 2**bits times its step: then all
    of them are coordinates, which learn at one rate.

    Args:
        field: what is stored.
        pads: see :class:`CompressedTable`.
        like: tensor on the device and of the dtype that the table gets.

    Attributes:
        values: parameter (tables' values and grids' offsets,).
        extents: parameter (grids,).
        axes: parameter (rank, dim).
        mean: parameter (dim,).
        codes: buffer (bytes,) uint8.
        layout: buffer (tiers, 3 + 5 * rank) int64, see :func:`_columns`.
        vectors: where each id's row is stored, or None if ids are ranks.

    Raises:
        ArtifactError: tier vectors contradict themselves.
    """

    values: nn.Parameter
    extents: nn.Parameter
    axes: nn.Parameter
    mean: nn.Parameter
    codes: Tensor
    vectors: Vectors | None

    def __init__(self, field: TieredField, pads: Mapping[int, Tensor], like: Tensor) -> None:
        super().__init__([field.name], field.vocab_size, pads)
        self.parts = field.layout
        self.vectors = None if field.vectors is None else Vectors(field.vectors, like.device)
        # The widest reach of a code over byte borders.
        widths = [part.bits for parts in field.layout.tiers for part in parts]
        self._bytes = (max(widths, default=0) + 14) // 8
        self._axes_dtype = field.axes.dtype
        for name, array in _held(field.layout, field.values, field.axes).items():
            setattr(self, name, nn.Parameter(torch.from_numpy(array).to(like.device, like.dtype)))
        self.register_buffer("codes", torch.from_numpy(np.array(field.codes)).to(like.device))
        self.register_buffer("layout", torch.tensor(_columns(field.layout), device=like.device))

    @property
    def dim(self) -> int:
        """Width of a row."""
        return self.mean.shape[0]

    @property
    def summary(self) -> str:
        """Sizes of what is stored."""
        return f"tiers={len(self.parts.tiers)}, axes={self.parts.rank}, bytes={len(self.codes)}"

    def stored_rows(self, ids: Tensor) -> Tensor:
        """Rows (m, dim) of checked ids (m,) int64.

        Axis after axis is added, in float32 or wider and with every product rounded, so that
        float32 rows equal those of :class:`TieredField` bit for bit.
        """
        dtype = torch.promote_types(self.mean.dtype, torch.float32)
        axes = self.axes.to(dtype)
        rows = self.mean.to(dtype).expand(ids.shape[0], -1)
        if len(self.values):
            coordinates = self._coordinates(*self._located(ids), dtype)
            for axis, coordinate in zip(axes, coordinates.unbind(1), strict=True):
                rows = rows + coordinate[:, None] * axis
        return rows.contiguous().to(self.mean.dtype)  # a mean alone is one row expanded

    def _coordinates(self, tiers: Tensor, places: Tensor, dtype: torch.dtype) -> Tensor:
        """Coordinates (m, rank) of the rows at ``places`` of ``tiers``, both (m,)."""
        first_bits, row_bits = self.layout[:, 1], self.layout[:, 2]
        shifts, masks, firsts, strides, grids = self._cells.unbind(1)
        starts = first_bits.index_select(0, tiers) + places * row_bits.index_select(0, tiers)
        bits = starts[:, None] + shifts.index_select(0, tiers)
        read = words(self.codes, bits.reshape(-1), self._bytes).reshape(bits.shape)
        codes = read & masks.index_select(0, tiers)
        at = firsts.clamp(min=0).index_select(0, tiers) + codes * strides.index_select(0, tiers)
        found = self.values.to(dtype).index_select(0, at.reshape(-1)).reshape(at.shape)
        if len(self.extents):
            extents = self.extents.to(dtype)[(grids - 1).clamp(min=0)]
            # A power of two divides without rounding.
            steps = torch.where(grids > 0, extents / (masks + 1), 0)
            found = found + codes * steps.index_select(0, tiers)
        return torch.where((firsts < 0).index_select(0, tiers), 0, found)

    @property
    def _cells(self) -> Tensor:
        return self.layout[:, _TIER_COLUMNS:].reshape(-1, _CELL_COLUMNS, self.axes.shape[0])

    def _located(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Tier of each id and place in it, (m,) int64."""
        if self.vectors is not None:
            return self.vectors.locate(ids)
        bounds = self.layout[:, 0].contiguous()
        tiers = torch.bucketize(ids, bounds[1:], right=True)
        return tiers, ids - bounds.index_select(0, tiers)

    def tuned(self, field: CompressedField) -> CompressedField:
        """See :class:`LearnedTable`."""
        self._check_codes(field)
        assert isinstance(field, TieredField)
        for parameter in self.parameters():
            if not torch.isfinite(parameter).all():
                raise ModuleError(
                    f"field {field.name!r}: the table holds values that are not finite"
                )
        values, axes = self._rounded()
        if np.array_equal(values, field.values) and np.array_equal(axes, field.axes):
            return field
        return field.tuned(values, axes)

    def take_(self, field: CompressedField) -> None:
        """See :class:`LearnedTable`."""
        assert isinstance(field, TieredField)
        self._set(field.values, field.axes)

    def round_(self) -> None:
        """See :class:`LearnedTable`."""
        self._set(*self._rounded())

    def _check_codes(self, field: CompressedField) -> None:
        held = b"" if self.vectors is None else self.vectors.data.tobytes()
        if not (
            isinstance(field, TieredField)
            and field.layout == self.parts
            and (field.dim, field.axes.dtype) == (self.dim, self._axes_dtype)
            and np.array_equal(field.codes, self.codes.cpu().numpy())
            and (self.vectors is None) == (field.vectors is None)
            and held == (b"" if field.vectors is None else field.vectors.data.tobytes())
        ):
            raise ModuleError(
                f"field {field.name!r} has other codes in the model than in the result"
            )

    @torch.no_grad()
    def _set(self, values: NDArray[np.float16], axes: NDArray[np.floating[Any]]) -> None:
        for name, array in _held(self.parts, values, axes).items():
            getattr(self, name).copy_(torch.from_numpy(array))

    def _rounded(self) -> tuple[NDArray[np.float16], NDArray[np.floating[Any]]]:
        """Values and axes, with the mean, as a :class:`TieredField` stores them."""
        steps, bits = _grids(self.parts)
        values = np.empty(self.parts.value_count, dtype=np.float32)
        values[~steps] = _array(self.values)
        values[steps] = np.ldexp(_array(self.extents), -bits)
        axes = np.concatenate([_array(self.axes), _array(self.mean)[None]])
        return _clipped(values, np.dtype(np.float16)), _clipped(axes, self._axes_dtype)


class _Cell(NamedTuple):
    """How a tier codes one axis.

    shift: of the code's first bit in the row; mask: of its bits; first, stride: of its values, the
    first among :attr:`TieredTable.values`, -1 for a coordinate of 0; grid: 1 + the grid's number.
    """

    shift: int
    mask: int
    first: int
    stride: int
    grid: int


_NOTHING = _Cell(0, 0, -1, 0, 0)


def _columns(layout: Layout) -> list[list[int]]:
    """Numbers that a lookup needs, a row per tier: first rank, first bit, bits of a row; then each
    entry of a :class:`_Cell` for all axes."""
    rows, grids = [], 0
    for tier, bound in enumerate(layout.bounds[:-1].tolist()):
        cells = list(_cells(layout, tier, grids))
        grids += sum(cell.grid > 0 for cell in cells)
        cells += [_NOTHING] * (layout.rank - len(cells))
        row = [bound, 8 * layout.first_bytes[tier], sum(layout.widths(tier))]
        rows.append(row + [number for column in zip(*cells, strict=True) for number in column])
    return rows


def _cells(layout: Layout, tier: int, grids: int) -> Iterator[_Cell]:
    """Of the axes that the tier's parts cover, after ``grids`` grids of tiers before."""
    shift = 0
    for part, first in zip(layout.tiers[tier], layout.first_values[tier], strict=False):
        mask, start = (1 << part.bits) - 1, first - grids  # a grid's step is no value of ours
        if part.kind == "none":
            yield _NOTHING
        elif part.kind == "grid":
            grids += 1
            yield _Cell(shift, mask, start, 0, grids)
        else:
            for axis in range(part.axes):
                yield _Cell(shift, mask, start + axis, part.axes, 0)
        shift += part.bits


def _grids(layout: Layout) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Which of the stored values are steps (values,), and the bits of each grid (grids,)."""
    steps = np.zeros(layout.value_count, dtype=bool)
    bits = []
    for parts, firsts in zip(layout.tiers, layout.first_values, strict=True):
        for part, first in zip(parts, firsts, strict=False):
            if part.kind == "grid":
                steps[first + 1] = True
                bits.append(part.bits)
    return steps, np.array(bits, dtype=np.int64)


def _held(
    layout: Layout, values: NDArray[np.float16], axes: NDArray[np.floating[Any]]
) -> dict[str, NDArray[np.float32]]:
    """The parameters that stand for stored values and axes."""
    steps, bits = _grids(layout)
    exact, directions = values.astype(np.float32), axes.astype(np.float32)
    return {
        "values": exact[~steps],
        "extents": np.ldexp(exact[steps], bits),
        "axes": directions[:-1],
        "mean": directions[-1],
    }


def _array(parameter: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = parameter.detach().float().cpu().numpy()
    return array


def _clipped(values: NDArray[np.float32], dtype: np.dtype[Any]) -> NDArray[Any]:
    limit = np.finfo(dtype).max
    return np.clip(values, -limit, limit).astype(dtype)
