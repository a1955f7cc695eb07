"""How the rows of a table are read from its tensors: in plain operations, or by the native core.

A reader is all that a table's tensors do not say, so that an operator that is given both can read
rows wherever it runs: in the module's process, or in another that loads an exported graph.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from saec.lookup import LookupTable, Run, run_table, tier_table
from saec.order import TierVectors
from saec.tiers import Layout
from saec.torch import triton_lookup as gpu
from saec.torch.vectors import locate

__all__ = [
    "Reader",
    "RunReader",
    "TierReader",
    "bits_at",
    "held_values",
    "plain",
    "pool_rows",
    "reader_of",
]

Tensors = Sequence[Tensor]

CELL_COLUMNS = 5
TIER_COLUMNS = 3


class Reader(ABC):
    """What a table's tensors do not say; ``spec`` is all of it as text.

    The first ``parameters`` of a table's tensors learn. ``pads`` are ids with rows of their own.
    """

    parameters: ClassVar[int]
    copies: ClassVar[
        bool
    ]  # whether table() copies the numbers of parameters, or reads them in place
    pads: tuple[int, ...]

    @property
    @abstractmethod
    def spec(self) -> str:
        """The reader as JSON, for :func:`reader_of`."""

    @abstractmethod
    def dim(self, tensors: Tensors) -> int:
        """Width of a row."""

    @abstractmethod
    def rows(self, ids: Tensor, tensors: Tensors, skipped: int = -1) -> Tensor:
        """Rows (m, dim) of checked ids (m,) int64, by plain operations.

        Gradients go through them, but for rows of the id ``skipped``, which is one of the pads.
        """

    @abstractmethod
    def table(self, tensors: Tensors) -> LookupTable:
        """What the native core reads from tensors on a CPU."""

    @abstractmethod
    def fused(
        self,
        ids: Tensor,
        offsets: Tensor | None,
        weights: Tensor | None,
        tensors: Tensors,
        mode: str,
        skipped: int,
    ) -> Tensor:
        """Rows or bags by one kernel on a GPU; see :func:`saec.torch.operator.pool`."""

    def pool(
        self,
        ids: Tensor,
        offsets: Tensor,
        weights: Tensor | None,
        tensors: Tensors,
        mode: str,
        skipped: int,
    ) -> Tensor:
        """Bags (bags, dim) of checked ids (m,) int64 by plain operations, without ``skipped``."""
        rows = self.rows(ids, tensors)
        return pool_rows(rows, ids, offsets, weights, mode, None if skipped < 0 else skipped)


@dataclass(frozen=True)
class RunReader(Reader):
    """Rows of one codebook by packed codes; tensors: codebook | codes, columns.

    Args:
        count: rows of the table.
        runs: see :class:`saec.lookup.Run`; without codes, the codebook holds the rows.
        pads: their rows are the codebook's last.
    """

    count: int
    runs: tuple[Run, ...]
    pads: tuple[int, ...]

    parameters: ClassVar[int] = 1
    copies: ClassVar[bool] = False

    @property
    def spec(self) -> str:
        """See :class:`Reader`."""
        runs = [
            [run.first_row, run.code_bits, run.first_byte, run.first_stored] for run in self.runs
        ]
        return json.dumps(["runs", self.count, runs, self.pads])

    def dim(self, tensors: Tensors) -> int:
        """See :class:`Reader`."""
        return tensors[0].shape[1]

    @property
    def columns(self) -> list[list[int]]:
        """Numbers that plain operations need of each run: first row, bits, first bit, mask, first
        centroid, whether its rows are stored."""
        return [
            [
                run.first_row,
                run.code_bits,
                8 * run.first_byte,
                (1 << run.code_bits) - 1,
                run.first_stored,
                int(run.code_bits == 0),
            ]
            for run in self.runs
        ]

    def rows(self, ids: Tensor, tensors: Tensors, skipped: int = -1) -> Tensor:
        """See :class:`Reader`."""
        book = tensors[0]
        return functional.embedding(self.stored(ids, tensors), book, self._pad(book, skipped))

    def pool(
        self,
        ids: Tensor,
        offsets: Tensor,
        weights: Tensor | None,
        tensors: Tensors,
        mode: str,
        skipped: int,
    ) -> Tensor:
        """See :class:`Reader`; rows go from the codebook straight into their bags."""
        return functional.embedding_bag(
            self.stored(ids, tensors),
            tensors[0],
            offsets,
            mode=mode,
            per_sample_weights=weights,
            padding_idx=self._pad(tensors[0], skipped),
        )

    def _pad(self, book: Tensor, skipped: int) -> int | None:
        return None if skipped < 0 else len(book) - len(self.pads) + self.pads.index(skipped)

    def stored(self, ids: Tensor, tensors: Tensors) -> Tensor:
        """Rows of the codebook (m,) int64 of checked ids (m,) int64."""
        book, codes, columns = tensors
        if len(self.runs) == 1 and self.runs[0].code_bits:
            bits = self.runs[0].code_bits
            rows = bits_at(codes, ids * bits, self._reach) & ((1 << bits) - 1)
        else:
            part = torch.bucketize(ids, columns[0, 1:], right=True)
            first_row, code_bits, first_bit, mask, first_stored, own = (
                column.index_select(0, part) for column in columns.unbind(0)
            )
            local = ids - first_row
            code = bits_at(codes, first_bit + local * code_bits, self._reach) & mask
            rows = first_stored + code + local * own
        for number, pad in enumerate(self.pads):
            rows = torch.where(ids == pad, len(book) - len(self.pads) + number, rows)
        return rows

    @property
    def _reach(self) -> int:
        """The widest reach of a code over byte borders; starts are multiples of gcd(bits, 8)."""
        return max(
            math.ceil((bits + 8 - math.gcd(bits, 8)) / 8)
            for bits in (run.code_bits for run in self.runs)
        )

    def table(self, tensors: Tensors) -> LookupTable:
        """See :class:`Reader`."""
        book, codes, _ = tensors
        first = len(book) - len(self.pads)
        pads = {pad: first + number for number, pad in enumerate(self.pads)}
        return run_table(self.count, self.runs, codes.numpy(), _array(book), pads=pads)

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
        book, codes, columns = tensors
        if self.pads:  # their rows are the codebook's last: what the kernel does not know
            return plain(self, ids, offsets, weights, tensors, mode, skipped)
        table = gpu.ClusteredTensors(self.count, codes, columns, book)
        if offsets is None:
            return gpu.clustered_rows(table, ids)
        return gpu.clustered_pool(table, ids, _bags(ids, offsets, weights, mode, skipped))


@dataclass(frozen=True)
class TierReader(Reader):
    """Rows in tiers; tensors: values, extents, axes, mean | codes, columns, pads, blocks, below.

    A grid is held as its offset, among the values, and its extent, 2**bits times its step: then all
    of them are coordinates, which learn at one rate. ``blocks`` and ``below`` are those of
    :class:`saec.torch.vectors.Vectors`, and left out if ids are ranks.

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
        shifts, masks, firsts, strides, grids = cells.unbind(1)
        starts = first_bits.index_select(0, tiers) + places * row_bits.index_select(0, tiers)
        bits = starts[:, None] + shifts.index_select(0, tiers)
        read = bits_at(codes, bits.reshape(-1), self._reach).reshape(bits.shape)
        code = read & masks.index_select(0, tiers)
        at = firsts.clamp(min=0).index_select(0, tiers) + code * strides.index_select(0, tiers)
        found = values.to(dtype).index_select(0, at.reshape(-1)).reshape(at.shape)
        if len(extents):
            chosen = extents.to(dtype)[(grids - 1).clamp(min=0)]
            # A power of two divides without rounding.
            steps = torch.where(grids > 0, chosen / (masks + 1), 0)
            found = found + code * steps.index_select(0, tiers)
        return torch.where((firsts < 0).index_select(0, tiers), 0, found)

    def _located(self, ids: Tensor, tensors: Tensors) -> tuple[Tensor, Tensor]:
        """Tier of each id and place in it, (m,) int64."""
        if len(tensors) > 7:
            return locate(ids, self.layout.count, tensors[7], tensors[8])
        bounds = tensors[5][:, 0].contiguous()
        tiers = torch.bucketize(ids, bounds[1:], right=True)
        return tiers, ids - bounds.index_select(0, tiers)

    @cached_property
    def _reach(self) -> int:
        """The widest reach of a code over byte borders."""
        widths = [part.bits for parts in self.layout.tiers for part in parts]
        return (max(widths, default=0) + 14) // 8

    def table(self, tensors: Tensors) -> LookupTable:
        """See :class:`Reader`."""
        values, extents, axes, mean, codes, _, pads, *vectors = tensors
        held = held_values(self.layout, _floats(values), _floats(extents))
        directions = np.concatenate([_floats(axes), _floats(mean)[None]])
        blocks = vectors[0].numpy().reshape(-1).view(np.uint8) if vectors else None
        where = None if blocks is None else TierVectors(blocks, self.layout.count)
        rows = dict(zip(self.pads, _floats(pads), strict=True))
        return tier_table(self.layout, codes.numpy(), held, directions, where, rows)

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
        table = gpu.TieredTensors(self.layout.count, codes, columns, values, extents, axes, mean)
        located = self._located(ids, tensors) if len(tensors) > 7 else None
        if offsets is None:
            return gpu.tiered_rows(table, ids, located)
        return gpu.tiered_pool(table, ids, _bags(ids, offsets, weights, mode, skipped), located)


def plain(
    reader: Reader,
    ids: Tensor,
    offsets: Tensor | None,
    weights: Tensor | None,
    tensors: Tensors,
    mode: str,
    skipped: int,
) -> Tensor:
    """Rows, or bags where there are offsets, by plain operations."""
    wide = ids.long().contiguous()  # bucketize warns of strided input
    if offsets is None:
        return reader.rows(wide, tensors, skipped)
    return reader.pool(wide, offsets, weights, tensors, mode, skipped)


def pool_rows(
    rows: Tensor,
    ids: Tensor,
    offsets: Tensor,
    weights: Tensor | None,
    mode: str,
    padding_idx: int | None,
) -> Tensor:
    """Bags (bags, dim) of the rows (m, dim) of ids (m,), without those of ``padding_idx``."""
    positions = torch.arange(len(rows), device=rows.device)
    if padding_idx is not None:
        # A row of its own for padding in front, since no id of a position says "leave out".
        rows = torch.cat([rows.new_zeros(1, rows.shape[1]), rows])
        positions = torch.where(ids == padding_idx, 0, positions + 1)
    return functional.embedding_bag(
        positions,
        rows,
        offsets,
        mode=mode,
        per_sample_weights=weights,
        padding_idx=None if padding_idx is None else 0,
    )


@lru_cache(maxsize=4096)
def reader_of(spec: str) -> Reader:
    """The reader whose ``spec`` this is."""
    kind, count, parts, pads = json.loads(spec)
    if kind == "runs":
        return RunReader(count, tuple(Run(*numbers) for numbers in parts), tuple(pads))
    return TierReader(Layout.parse(count, parts), tuple(pads))


def held_values(
    layout: Layout, values: NDArray[np.float32], extents: NDArray[np.float32]
) -> NDArray[np.float32]:
    """What a :class:`TieredField` would store, not yet rounded to float16."""
    steps, bits = layout.grids
    held = np.empty(layout.value_count, dtype=np.float32)
    held[~steps] = values
    held[steps] = np.ldexp(extents, -bits)
    return held


def bits_at(codes: Tensor, bits: Tensor, count: int) -> Tensor:
    """Little-endian words that start at ``bits`` (m,) of ``codes`` (bytes,) uint8, (m,) int64.

    At least the first ``8 * count - 7`` bits of each are right.
    """
    starts = bits >> 3
    # index_select, not indexing: it refuses negative positions instead of wrapping around.
    found = codes.index_select(0, starts).long()
    for byte in range(1, count):
        found |= codes.index_select(0, starts + byte).long() << (8 * byte)
    return found >> (bits & 7)


def _bags(
    ids: Tensor, offsets: Tensor, weights: Tensor | None, mode: str, skipped: int
) -> gpu.Bags:
    bounds = torch.cat([offsets, offsets.new_full((1,), len(ids))])
    return gpu.Bags(bounds, mode, weights, None if skipped < 0 else skipped)


def _floats(tensor: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.detach().float().contiguous().numpy()
    return array


def _array(tensor: Tensor) -> NDArray[Any]:
    """The tensor's own memory."""
    detached = tensor.detach()
    if detached.dtype == torch.bfloat16:
        return detached.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    array: NDArray[Any] = detached.numpy()
    return array
