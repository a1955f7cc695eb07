"""Coding rows by the codebooks of a field without keys that exists."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from saec.clustering.points import ArrayPoints
from saec.codecs.axes.encode import codes_of
from saec.codecs.axes.principal_axes import Frame
from saec.codecs.axes.quantizer import Coder
from saec.format.clustered_field import ClusteredField
from saec.format.id_patch import PlainField, tier_widths
from saec.format.raw_field import RawField
from saec.format.tiered_field import TieredField
from saec.tables.loss_metric import Metric
from saec.util.row_blocks import row_blocks

__all__ = ["FrozenIds", "frozen_ids"]

Floats = NDArray[np.float64]


class FrozenIds(Protocol):
    """The codes of a field, for rows of a later table and its metric."""

    @property
    def row_bits(self) -> tuple[int, ...]:
        """Bits of a row's codes in each tier."""

    @property
    def coded_axes(self) -> tuple[int, ...]:
        """How many coordinates these stand for."""

    def code(self, tier: int, rows: NDArray[Any]) -> tuple[NDArray[Any], Floats]:
        """What is stored of ``rows`` (m, dim) in a tier, (m, parts) or rows as they are, and the
        nats (m,) per occurrence that they lose."""

    def rows(self, tier: int, codes: NDArray[Any]) -> NDArray[np.floating[Any]]:
        """The rows (m, dim) that are decoded from what is stored of them."""


def frozen_ids(field: PlainField, metric: Metric) -> FrozenIds:
    """The codes of ``field``."""
    if isinstance(field, TieredField):
        return _FrozenTiers(field, metric)
    return _FrozenClusters(field, metric) if isinstance(field, ClusteredField) else _Copied(field)


@dataclass(frozen=True, eq=False)
class _FrozenTiers:
    field: TieredField
    metric: Metric

    @property
    def row_bits(self) -> tuple[int, ...]:
        return tuple(map(sum, tier_widths(self.field)))

    @property
    def coded_axes(self) -> tuple[int, ...]:
        return tuple(
            sum(part.axes for part in parts if part.bits) for parts in self.field.layout.tiers
        )

    @cached_property
    def _frame(self) -> Frame:
        """The axes as stored, in today's metric."""
        return Frame.of_stored(self.field.axes, self.metric)

    @cached_property
    def _coders(self) -> list[list[Coder]]:
        """Of each tier."""
        parts = [part for parts in self.field.layout.tiers for part in parts]
        ends = accumulate((part.values for part in parts), initial=0)
        spans = (self.field.values[first:last] for first, last in pairwise(ends))
        every = map(Coder, parts, spans)
        return [[next(every) for _ in parts] for parts in self.field.layout.tiers]

    def code(self, tier: int, rows: NDArray[Any]) -> tuple[NDArray[np.uint32], Floats]:
        coders = self._coders[tier]
        codes = np.zeros((len(rows), len(coders)), np.uint32)
        axes = sum(coder.part.axes for coder in coders)
        coordinates = self._frame.coordinates_in_blocks(rows, axes)
        for part, column in enumerate(codes_of(self._frame, coordinates, coders)):
            codes[:, part] = column
        decoded, lost = self._coordinates(tier, codes), np.empty(len(rows))
        for block in row_blocks(len(rows)):
            own = [each[block] for each in decoded]
            lost[block] = self._frame.squared_errors(rows[block], own) / 2
        return codes, lost

    def rows(self, tier: int, codes: NDArray[np.uint32]) -> Floats:
        axes = self.field.axes.astype(np.float64)
        rows: Floats = np.repeat(axes[-1:], len(codes), axis=0)
        first = 0
        for own in self._coordinates(tier, codes):
            rows += own.astype(np.float64) @ axes[first : first + own.shape[1]]
            first += own.shape[1]
        return rows

    def _coordinates(self, tier: int, codes: NDArray[np.uint32]) -> list[NDArray[np.float32]]:
        """Those of each part."""
        pairs = zip(self._coders[tier], codes.T, strict=True)
        return [coder.decode(np.ascontiguousarray(own)) for coder, own in pairs]


@dataclass(frozen=True, eq=False)
class _FrozenClusters:
    field: ClusteredField
    metric: Metric

    @property
    def row_bits(self) -> tuple[int, ...]:
        return (self.field.codes.bits,)

    @property
    def coded_axes(self) -> tuple[int, ...]:
        return (self.field.codebook.rank,)

    @cached_property
    def _centroids(self) -> Floats:
        """In the metric (clusters, dim)."""
        return self.metric.mapped(self.field.codebook.values.astype(np.float64))

    def code(self, tier: int, rows: NDArray[Any]) -> tuple[NDArray[np.uint32], Floats]:
        mapped = self.metric.mapped(rows.astype(np.float64))
        found = ArrayPoints(mapped.astype(np.float32)).assign(self._centroids.astype(np.float32))
        error = mapped - self._centroids[found]
        return found.astype(np.uint32)[:, None], np.einsum("nd,nd->n", error, error) / 2

    def rows(self, tier: int, codes: NDArray[np.uint32]) -> NDArray[np.float32]:
        return self.field.codebook.values[codes[:, 0]]


@dataclass(frozen=True, eq=False)
class _Copied:
    field: RawField

    @property
    def row_bits(self) -> tuple[int, ...]:
        return (8 * self.field.dim * self.field.weights.itemsize,)

    @property
    def coded_axes(self) -> tuple[int, ...]:
        return (self.field.dim,)

    def code(self, tier: int, rows: NDArray[Any]) -> tuple[NDArray[Any], Floats]:
        return rows, np.zeros(len(rows))

    def rows(self, tier: int, codes: NDArray[Any]) -> NDArray[Any]:
        return codes
