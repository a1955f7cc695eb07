"""A table in tiers: what is stored, and how it learns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from saec.errors import ModuleError
from saec.lookup import LookupTable
from saec.stored.field import CompressedField
from saec.stored.tiered import TieredField
from saec.tiers import Layout
from saec.torch.base import LearnedTable
from saec.torch.operator import native_pool
from saec.torch.tier_reader import TierReader, held_values
from saec.torch.vectors import Vectors

__all__ = ["TieredTable"]


class TieredTable(LearnedTable):
    """Packed codes of one field, and the values, axes and mean that they stand for.

    How rows are read from them is told by :class:`saec.torch.tier_reader.TierReader`.

    Args:
        field: what is stored.
        pads: rows (dim,) by id that lookups return instead of what is stored, exact.
        like: tensor on the device and of the dtype that the table gets.

    Attributes:
        values: parameter (tables' values and grids' offsets,).
        extents: parameter (grids,).
        axes: parameter (rank, dim).
        mean: parameter (dim,).
        codes: buffer (bytes,) uint8.
        layout: buffer (tiers, 4 + 6 * rank) int64, see :func:`_columns`.
        pad_rows: buffer (pads, dim).
        starts: buffer (starts,) int64, ranks, or None if no tier is in order of its codes.
        vectors: where each id's row is stored, or None if ids are ranks.

    Raises:
        ArtifactError: tier vectors contradict themselves.
    """

    values: nn.Parameter
    extents: nn.Parameter
    axes: nn.Parameter
    mean: nn.Parameter
    codes: Tensor
    pad_rows: Tensor
    starts: Tensor | None
    vectors: Vectors | None

    def __init__(self, field: TieredField, pads: Mapping[int, Tensor], like: Tensor) -> None:
        reader = TierReader(field.layout, tuple(pads))
        super().__init__([field.name], field.vocab_size, reader)
        self.parts = field.layout
        self.vectors = None if field.vectors is None else Vectors(field.vectors, like.device)
        self._axes_dtype = field.axes.dtype
        for name, array in _held(field.layout, field.values, field.axes).items():
            setattr(self, name, nn.Parameter(torch.from_numpy(array).to(like.device, like.dtype)))
        self.register_buffer("codes", torch.from_numpy(np.array(field.codes)).to(like.device))
        self.register_buffer("layout", torch.tensor(_columns(field.layout), device=like.device))
        rows = torch.stack(list(pads.values())) if pads else like.new_empty(0, field.dim)
        self.register_buffer("pad_rows", rows, persistent=bool(pads))
        starts = torch.from_numpy(field.code_starts).to(like.device)
        self.register_buffer("starts", starts if len(starts) else None)

    @property
    def tensors(self) -> list[Tensor]:
        """See :class:`CompressedTable`."""
        # Not by attribute: a module looks for those in vain first, and lookups are short.
        held: Mapping[str, Any] = self._parameters
        own: Mapping[str, Any] = self._buffers
        found = [held["values"], held["extents"], held["axes"], held["mean"]]
        found += [own["codes"], own["layout"], own["pad_rows"]]
        if own["starts"] is not None:
            found.append(own["starts"])
        if self.vectors is not None:
            found += [self.vectors.blocks, self.vectors.below]
        return found

    @property
    def summary(self) -> str:
        """Sizes of what is stored."""
        return f"tiers={len(self.parts.tiers)}, axes={self.parts.rank}, bytes={len(self.codes)}"

    def products(self, vectors: Tensor) -> Tensor:
        """See :class:`CompressedTable`; by coordinates, of which there are fewer than dim."""
        single = self.mean.is_cpu and self.mean.dtype is vectors.dtype is torch.float32
        eager = not (torch.is_grad_enabled() or torch.compiler.is_compiling())
        if not (single and eager and self.parts.rank):
            return super().products(vectors)
        table = self._coordinate_table()
        along = vectors @ self.axes.T
        products = (vectors @ self.mean)[:, None].repeat(1, self.vocab_size)
        for ids in self._blocks():
            rows = native_pool(table, ids, None, None, "sum", -1, torch.float32, self._place)
            first = int(ids[0])
            products[:, first : first + len(ids)].addmm_(along, rows.T)
        if self.pads:
            products[:, list(self.pads)] = vectors @ self.pad_rows.T
        return products

    def _coordinate_table(self) -> LookupTable:
        """Rows of which are the coordinates (rank,) of ours: axes are those of axis space."""
        tensors = list(self.tensors)
        tensors[2] = torch.eye(self.parts.rank)
        tensors[3] = torch.zeros(self.parts.rank)
        tensors[6] = torch.empty(0, self.parts.rank)
        return TierReader(self.parts, ()).table(tensors)

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
        starts = self.starts
        if not (
            isinstance(field, TieredField)
            and field.layout == self.parts
            and (field.dim, field.axes.dtype) == (self.dim, self._axes_dtype)
            and np.array_equal(field.codes, self.codes.cpu().numpy())
            and np.array_equal(field.code_starts, [] if starts is None else starts.cpu().numpy())
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
        values = held_values(self.parts, _array(self.values), _array(self.extents))
        axes = np.concatenate([_array(self.axes), _array(self.mean)[None]])
        return _clipped(values, np.dtype(np.float16)), _clipped(axes, self._axes_dtype)


class _Cell(NamedTuple):
    """How a tier codes one axis.

    shift: of the code's first bit in the row, or among the ordered codes; mask: of its bits; first,
    stride: of its values, the first among :attr:`TieredTable.values`, -1 for a coordinate of 0;
    grid: 1 + the grid's number; ordered: whether the order of rows tells the code.
    """

    shift: int
    mask: int
    first: int
    stride: int
    grid: int
    ordered: int


_NOTHING = _Cell(0, 0, -1, 0, 0, 0)


def _columns(layout: Layout) -> list[list[int]]:
    """Numbers that a lookup needs, a row per tier: first rank, first bit, bits of a row, first
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
    """Of the axes that the tier's parts cover, after ``grids`` grids of tiers before."""
    shift, started = 0, layout.ordered_bits(tier) > 0  # ordered codes are a word of their own
    for part, first in zip(layout.tiers[tier], layout.first_values[tier], strict=False):
        if started and not part.ordered:
            shift, started = 0, False
        mask, start = (1 << part.bits) - 1, first - grids  # a grid's step is no value of ours
        if part.kind == "none":
            yield _NOTHING
        elif part.kind == "grid":
            grids += 1
            yield _Cell(shift, mask, start, 0, grids, int(part.ordered))
        else:
            for axis in range(part.axes):
                yield _Cell(shift, mask, start + axis, part.axes, 0, int(part.ordered))
        shift += part.bits


def _held(
    layout: Layout, values: NDArray[np.float16], axes: NDArray[np.floating[Any]]
) -> dict[str, NDArray[np.float32]]:
    """The parameters that stand for stored values and axes."""
    steps, bits = layout.grids
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
