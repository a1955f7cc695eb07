"""A table in tiers: tensors and training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from saec.errors import ModuleError
from saec.format.compressed_field import CompressedField
from saec.format.native_lookup import LookupTable
from saec.format.tier_layout import Layout
from saec.format.tiered_field import TieredField
from saec.torch.lookup.operator import Place, native_pool
from saec.torch.lookup.recorded_calls import recorded
from saec.torch.lookup.tier_reader import TierReader, held_values
from saec.torch.table.learned import LearnedTable

__all__ = ["TieredTable"]


class TieredTable(LearnedTable):
    """Packed codes of one field, and their values, axes and mean.

    :class:`saec.torch.lookup.tier_reader.TierReader` defines how rows are read.

    Args:
        field: the stored field.
        pads: exact rows (dim,) by id that lookups return instead of the stored ones.
        like: tensor with the device and dtype of the table.

    Attributes:
        values: parameter (tables' values and grids' offsets,). ``values``, ``extents`` and ``axes``
            are None if they would be empty, because some readers of PyTorch models fail otherwise.
        extents: parameter (grids,).
        axes: parameter (rank, dim).
        mean: parameter (dim,).
        codes: buffer (bytes,) uint8.
        layout: buffer (tiers, 4 + 6 * rank) int64, see :attr:`TierReader.columns`.
        pad_rows: buffer (pads, dim), or None.
        starts: buffer (starts,) int64, ranks, or None if no tier is sorted by its codes.
        index: buffer (bytes,) uint8, the place of each id's row, or None if ids are ranks.

    Raises:
        ArtifactError: the tier index is inconsistent.
    """

    values: nn.Parameter | None
    extents: nn.Parameter | None
    axes: nn.Parameter | None
    mean: nn.Parameter
    codes: Tensor
    pad_rows: Tensor | None
    starts: Tensor | None
    index: Tensor | None
    reader: TierReader

    def __init__(self, field: TieredField, pads: Mapping[int, Tensor], like: Tensor) -> None:
        reader = TierReader(field.layout, tuple(pads))
        super().__init__([field.name], [field.vocab_size], reader)
        self.parts = field.layout
        self._axes_dtype = field.axes.dtype
        for name, array in _held(field.layout, field.values, field.axes).items():
            values = torch.from_numpy(array).to(like.device, like.dtype)
            self.register_parameter(name, nn.Parameter(values) if array.size else None)
        self.register_buffer("codes", torch.from_numpy(np.array(field.codes)).to(like.device))
        self.register_buffer("layout", reader.columns.to(like.device, copy=True))
        self.register_buffer("pad_rows", torch.stack(list(pads.values())) if pads else None)
        starts = torch.from_numpy(field.code_starts).to(like.device)
        self.register_buffer("starts", starts if len(starts) else None)
        self.register_buffer("index", _index_of(field, like.device))
        self._prepare()

    @property
    def places(self) -> list[Place]:
        """See :class:`LearnedTable`."""
        held: dict[str, Any] = self._parameters
        own: dict[str, Any] = self._buffers
        named = [(held, name) for name in ("values", "extents", "axes", "mean")]
        named += [(own, name) for name in ("codes", "layout", "pad_rows", "starts", "index")]
        return [(tensors, name) for tensors, name in named if tensors[name] is not None]

    @property
    def tensors(self) -> list[Tensor]:
        """See :class:`LearnedTable`."""
        held: dict[str, Any] = self._parameters
        own: dict[str, Any] = self._buffers
        found = [held["values"], held["extents"], held["axes"], held["mean"]]
        found += [own[name] for name in ("codes", "layout", "pad_rows", "starts", "index")]
        return [tensor for tensor in found if tensor is not None]

    @property
    def sample(self) -> Tensor:
        """See :class:`CompressedTable`."""
        sample: Any = self._parameters["mean"]  # earlier than as an attribute, also in graphs
        return sample  # type: ignore[no-any-return]

    @property
    def summary(self) -> str:
        """Sizes of the stored tensors."""
        return f"tiers={len(self.parts.tiers)}, axes={self.parts.rank}, bytes={len(self.codes)}"

    def products(self, vectors: Tensor) -> Tensor:
        """See :class:`CompressedTable`; by coordinates, of which there are fewer than dim."""
        single = self.mean.is_cpu and self.mean.dtype is vectors.dtype is torch.float32
        eager = not (torch.is_grad_enabled() or recorded())
        if not (single and eager and self.axes is not None):
            return super().products(vectors)
        table = self._coordinate_table()
        along = vectors @ self.axes.T
        products = (vectors @ self.mean)[:, None].repeat(1, self.vocab_size)
        for ids in self._blocks():
            rows = native_pool(table, ids, None, None, "sum", -1, torch.float32, self._place)
            first = int(ids[0])
            products[:, first : first + len(ids)].addmm_(along, rows.T)
        if self.pad_rows is not None:
            products[:, list(self.pads)] = vectors @ self.pad_rows.T
        return products

    def _coordinate_table(self) -> LookupTable:
        """The coordinates (rank,) of all rows: rows with unit vectors as axes and a mean of 0."""
        axes, mean = torch.eye(self.parts.rank), torch.zeros(self.parts.rank)
        tensors = self.reader.named(self.tensors)._replace(axes=axes, mean=mean, pads=None)
        return TierReader(self.parts, ()).table([part for part in tensors if part is not None])

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
        starts, index = self.starts, self.index
        if not (
            isinstance(field, TieredField)
            and field.layout == self.parts
            and (field.dim, field.axes.dtype) == (self.dim, self._axes_dtype)
            and np.array_equal(field.codes, self.codes.cpu().numpy())
            and np.array_equal(field.code_starts, [] if starts is None else starts.cpu().numpy())
            and (field.index is None) == (index is None)
            and (
                field.index is None
                or index is None
                or np.array_equal(field.index.data, index.cpu().numpy())
            )
        ):
            raise ModuleError(
                f"field {field.name!r} has other codes in the model than in the result"
            )

    @torch.no_grad()
    def _set(self, values: NDArray[np.float16], axes: NDArray[np.floating[Any]]) -> None:
        for name, array in _held(self.parts, values, axes).items():
            if array.size:
                getattr(self, name).copy_(torch.from_numpy(array))

    def _rounded(self) -> tuple[NDArray[np.float16], NDArray[np.floating[Any]]]:
        """Values and axes, with the mean, as a :class:`TieredField` stores them."""
        values, extents, axes, mean = map(_array, self.reader.learned(self.tensors))
        values = held_values(self.parts, values, extents)
        axes = np.concatenate([axes, mean[None]])
        return _clipped(values, np.dtype(np.float16)), _clipped(axes, self._axes_dtype)


def _index_of(field: TieredField, device: torch.device) -> Tensor | None:
    if field.index is None:
        return None
    field.check_index()
    return torch.from_numpy(np.array(field.index.data)).to(device)


def _held(
    layout: Layout, values: NDArray[np.float16], axes: NDArray[np.floating[Any]]
) -> dict[str, NDArray[np.float32]]:
    """The parameters for stored values and axes."""
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
