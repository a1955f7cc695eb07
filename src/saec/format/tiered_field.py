"""A table in tiers: codes of a row's coordinates on a few axes, wide for frequent rows."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

import saec.artifact as artifact
from saec.bits.elias_fano import unpack_starts
from saec.bits.packing import PackedRows
from saec.errors import ArtifactError
from saec.format.code_part import CodePart
from saec.format.compressed_field import CompressedField
from saec.format.native_lookup import LookupTable, tier_table
from saec.format.tier_index import TierIndex
from saec.format.tier_layout import Layout
from saec.tables.field import Field
from saec.util.absent_arrays import absent

__all__ = ["TieredField", "part_coordinates"]

# Forms of the map from ids to rows, by their numbers in an artifact: append only.
_RANKS, _NEW_RANKS, _INDEX = range(3)

_AXES_DTYPES = (np.dtype(np.float16), np.dtype(np.float32))


class TieredField(CompressedField):
    """e_i = mean + sum_a value_a[code_a(i)] * axis_a, with codes and values by tier.

    Args:
        name: the field's name.
        layout: the parts of each tier.
        codes: (layout.code_bytes,) uint8, the tiers' packed rows one after the other.
        values: (layout.value_count,) float16, the values of the codes.
        axes: (rank + 1, dim) float16 or float32, the axes and, last, the mean.
        index: maps ids to tiers and positions; None if ids are ranks.
        dtype: dtype of the table that was compressed.
        renumbered: whether compression renumbered the features, so that ids are new ones.
        permutation: the old id of each new one, (vocab_size,) int64 or the shards with its bytes,
            if features were renumbered; None otherwise and after loading.
        starts: (bytes,) uint8, the first rank of each ordered code; None
            if no tier is sorted by codes.

    Raises:
        ArtifactError: sizes do not fit each other, or values are not finite.
    """

    codec = "axes"
    kind = 2

    def __init__(
        self,
        name: str,
        layout: Layout,
        codes: NDArray[np.uint8],
        values: NDArray[np.float16],
        axes: NDArray[np.floating[Any]],
        index: TierIndex | None,
        dtype: str,
        renumbered: bool = False,
        permutation: artifact.Stored | None = None,
        starts: NDArray[np.uint8] | None = None,
    ) -> None:
        if axes.ndim != 2 or axes.dtype not in _AXES_DTYPES or 0 in axes.shape:
            raise ArtifactError(
                f"axes are (rank + 1, dim) float16 or float32, not {axes.dtype} {axes.shape}"
            )
        super().__init__(name, layout.count, axes.shape[1], dtype)
        self.layout = layout
        self.codes = codes
        self.values = values
        self.axes = axes
        self.index = index
        assert permutation is None or renumbered, "a permutation renumbers"
        self.renumbered = renumbered
        self.permutation = permutation
        self.starts = np.zeros(0, dtype=np.uint8) if starts is None else starts
        self._check()

    def _check(self) -> None:
        wanted: dict[str, tuple[NDArray[Any], tuple[int, ...], DTypeLike]] = {
            "codes": (self.codes, (self.layout.code_bytes,), np.uint8),
            "values": (self.values, (self.layout.value_count,), np.float16),
            "axes": (self.axes, (self.layout.rank + 1, self.dim), self.axes.dtype),
            "starts": (self.starts, self.layout.first_start_bytes[-1:], np.uint8),
        }
        for role, (tensor, shape, dtype) in wanted.items():
            if tensor.shape != shape or tensor.dtype != dtype:
                raise ArtifactError(
                    f"{role} are {np.dtype(dtype)} {shape}, not {tensor.dtype} {tensor.shape}"
                )
        if self.renumbered and self.index is not None:
            raise ArtifactError("renumbered features are in order of frequency, but have tiers")
        for role, tensor in (("values", self.values), ("axes", self.axes)):
            if not np.isfinite(tensor).all():
                raise ArtifactError(f"{role} hold numbers that are not finite")
        if self.index is not None and self.index.tiers != len(self.layout.tiers):
            raise ArtifactError(
                f"the index is of {self.index.tiers} tiers, not of {len(self.layout.tiers)}"
            )
        if self.layout.any_ordered and not self.renumbered:
            raise ArtifactError("rows are in order of their codes, but features keep their ids")

    @cached_property
    def code_starts(self) -> NDArray[np.int64]:
        """The first ranks (starts,) of ordered codes, tier after tier.

        Raises:
            ArtifactError: they do not ascend within their tier.
        """
        tiers = range(len(self.layout.tiers))
        try:
            starts: NDArray[np.int64] = np.concatenate([self._starts_of(tier) for tier in tiers])
        except ArtifactError as error:
            raise ArtifactError(f"{self.place}: {error}") from error
        return starts

    def _starts_of(self, tier: int) -> NDArray[np.int64]:
        bits = self.layout.ordered_bits(tier)
        if not bits:
            return np.zeros(0, dtype=np.int64)
        first, last = self.layout.first_start_bytes[tier : tier + 2]
        low, high = self.layout.bounds[tier : tier + 2].tolist()
        starts = unpack_starts(self.starts[first:last], (1 << bits) - 1, high - low)
        starts += low
        return starts

    def check_index(self) -> None:
        """See :meth:`saec.format.tier_index.TierIndex.check`; errors name the field."""
        try:
            if self.index is not None:
                self.index.check()
        except ArtifactError as error:
            raise ArtifactError(f"{self.place}: {error}") from error

    @property
    def tensors(self) -> dict[str, NDArray[Any]]:
        """``codes``, ``values``, ``axes``; ``tiers`` if ids are not ranks, ``starts`` if tiers are
        sorted by their codes."""
        tensors: dict[str, NDArray[Any]] = {
            "codes": self.codes,
            "values": self.values,
            "axes": self.axes,
        }
        if self.index is not None:
            tensors["tiers"] = self.index.data
        if len(self.starts):
            tensors["starts"] = self.starts
        return tensors

    @property
    def details(self) -> bytes:
        """The form of the map from ids to rows, and the parts of every tier."""
        return bytes([self._index_kind]) + self.layout.packed()

    @property
    def _index_kind(self) -> int:
        if self.index is not None:
            return _INDEX
        return _NEW_RANKS if self.renumbered else _RANKS

    @property
    def description(self) -> dict[str, Any]:
        """See :class:`CompressedField`; also has the parts of every tier, and whether ids are
        new."""
        renumbered = {"renumbered": True} if self.renumbered else {}
        return super().description | {"tiers": self.layout.texts} | renumbered

    @classmethod
    def planned_bytes(
        cls, field: Field, layout: int, axes: NDArray[np.floating[Any]], sizes: Mapping[str, int]
    ) -> int:
        """Bytes that ``field`` adds to an artifact if it is stored as tiers, including its record.

        Args:
            field: the table.
            layout: bytes of the packed layout.
            axes: (rank + 1, dim), the axes in use and the mean.
            sizes: bytes of each other tensor by role; 0 for a missing one. ``values`` are
                two bytes each.
        """
        tensors: dict[str, NDArray[Any]] = {
            role: absent(np.uint8, size) for role, size in sizes.items() if size
        }
        tensors["codes"] = absent(np.uint8, sizes["codes"])
        tensors["values"] = absent(np.float16, sizes["values"] // 2)
        tensors["axes"] = axes
        details = bytes(1 + layout)
        entry = artifact.Entry(
            field.name, cls.kind, field.dtype, field.vocab_size, field.dim, details, tensors
        )
        return artifact.entry_bytes(entry)

    def filled(self, codes: NDArray[np.uint8]) -> TieredField:
        """A copy with other ``codes``."""
        return self._with(codes, self.values, self.axes)

    def tuned(self, values: NDArray[np.float16], axes: NDArray[np.floating[Any]]) -> TieredField:
        """A copy with the same codes and other ``values`` and ``axes``."""
        return self._with(self.codes, values, axes)

    def _with(
        self,
        codes: NDArray[np.uint8],
        values: NDArray[np.float16],
        axes: NDArray[np.floating[Any]],
    ) -> TieredField:
        field = TieredField(
            self.name,
            self.layout,
            codes,
            values,
            axes,
            self.index,
            self.dtype,
            self.renumbered,
            self.permutation,
            self.starts,
        )
        field.saved_permutation = self.saved_permutation
        return field

    def tier_codes(self, tier: int) -> NDArray[np.uint32]:
        """All codes of a tier's rows in the order of their ranks, (rows, parts) uint32."""
        low, high = self.layout.bounds[tier : tier + 2].tolist()
        widths = self.layout.widths(tier)
        codes = PackedRows(self.codes, self.layout.first_bytes[tier], high - low, widths).unpack()
        if self.layout.ordered_bits(tier):
            ordered = self.layout.ordered_codes(tier, np.arange(low, high), self.code_starts)
            for part, code in enumerate(ordered):
                codes[:, part] = code
        return codes

    def _lookup_table(self) -> LookupTable:
        values, axes = self.values.astype(np.float32), self.axes.astype(np.float32)
        self.check_index()
        return tier_table(
            self.layout, self.codes, values, axes, self.index, starts=self.code_starts
        )

    @classmethod
    def _from_entry(cls, entry: artifact.Entry) -> Self:
        tensors = entry.tensors
        details = artifact.ByteReader(entry.details)
        index_kind = details.byte()
        if index_kind not in (_RANKS, _NEW_RANKS, _INDEX):
            raise ArtifactError(f"the map from ids to rows is of the unknown kind {index_kind}")
        layout = Layout.unpacked(entry.vocab_size, details)
        index = None
        if index_kind == _INDEX:
            index = TierIndex(tensors["tiers"], layout.count, len(layout.tiers))
        return cls(
            entry.name,
            layout,
            tensors["codes"],
            tensors["values"],
            tensors["axes"],
            index,
            entry.dtype.name,
            index_kind == _NEW_RANKS,
            starts=tensors.get("starts"),
        )


def part_coordinates(
    part: CodePart, values: NDArray[np.float16], codes: NDArray[np.uint32]
) -> NDArray[np.float32]:
    """Coordinates that ``codes`` (m,) of a part stand for, (m, part.axes) float32."""
    if part.kind == "none":
        return np.zeros((len(codes), 1), dtype=np.float32)
    exact = values.astype(np.float32)
    coordinates: NDArray[np.float32]
    if part.kind == "grid":
        coordinates = exact[0] + codes[:, None].astype(np.float32) * exact[1]
    else:
        coordinates = exact.reshape(-1, part.axes)[codes]
    return coordinates
