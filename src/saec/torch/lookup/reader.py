"""Base class of readers of a table's rows from its tensors, and functions for all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from saec.errors import ModuleError
from saec.format.native_lookup import LookupTable
from saec.torch.lookup.triton import launch as gpu

__all__ = [
    "COPIED",
    "READ",
    "UNUSED",
    "TableReader",
    "Tensors",
    "Use",
    "bits_at",
    "check_columns",
    "gpu_bags",
    "plain",
    "pool_rows",
]

Tensors = Sequence[Tensor]


class Use(NamedTuple):
    """How a native table uses a tensor.

    Attributes:
        in_place: whether each lookup reads its values directly.
        copied: bytes [first, last) of it that the table has copied; None for all.
    """

    in_place: bool
    copied: list[tuple[int, int]] | None


COPIED = Use(in_place=False, copied=None)
READ = Use(in_place=True, copied=[])
UNUSED = Use(in_place=False, copied=[])


class TableReader(ABC):
    """Parameters of a table besides its tensors; ``spec`` contains all of them as text.

    ``pads`` are ids with rows of their own.
    """

    pads: tuple[int, ...]

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The role of each of the tensors, in their order; the last one may be missing."""

    @property
    @abstractmethod
    def columns(self) -> Tensor:
        """int64, on the CPU: the places of codes; the table also has this tensor."""

    @property
    @abstractmethod
    def parameters(self) -> int:
        """Number of trainable tensors; they come first."""

    @property
    @abstractmethod
    def spec(self) -> str:
        """The reader as JSON, for :func:`saec.torch.lookup.from_spec.reader_of`."""

    @abstractmethod
    def dim(self, tensors: Tensors) -> int:
        """Width of a row."""

    @abstractmethod
    def dtype(self, tensors: Tensors) -> torch.dtype:
        """Dtype of a row."""

    @abstractmethod
    def rows(self, ids: Tensor, tensors: Tensors, skipped: int = -1) -> Tensor:
        """Rows (m, dim) of checked ids (m,) int64, by plain operations.

        Gradients pass through them, except for rows of the id ``skipped``, which is one of the
        pads.
        """

    @abstractmethod
    def table(self, tensors: Tensors) -> LookupTable:
        """The native core's table for tensors on a CPU.

        Raises:
            ModuleError: the tensor with the places of codes is not that of this reader.
        """

    @abstractmethod
    def uses(self, table: LookupTable, tensors: Tensors) -> list[Use]:
        """How ``table``, which was made from the tensors, uses each of them."""

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
        """Rows or bags by one kernel on a GPU; see :func:`saec.torch.lookup.operator.pool`."""

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


def plain(
    reader: TableReader,
    ids: Tensor,
    offsets: Tensor | None,
    weights: Tensor | None,
    tensors: Tensors,
    mode: str,
    skipped: int,
) -> Tensor:
    """Rows, or bags where there are offsets, by plain operations."""
    wide = ids.long().contiguous()  # bucketize warns about strided input
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
    positions = torch.arange(rows.shape[0], device=rows.device)
    if padding_idx is not None:
        # A separate row for padding in front, because no id means "leave out".
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


def check_columns(columns: Tensor, expected: Tensor) -> None:
    """Reject columns that do not belong to the codes.

    Raises:
        ModuleError: they do not.
    """
    if not torch.equal(columns, expected):
        raise ModuleError(
            "the buffer 'layout' of a compressed table was overwritten: it tells where codes are, "
            "and cannot change; load the state of the compressed model again"
        )


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


def gpu_bags(
    ids: Tensor, offsets: Tensor, weights: Tensor | None, mode: str, skipped: int
) -> gpu.Reduction:
    bounds = torch.cat([offsets, offsets.new_full((1,), len(ids))])
    return gpu.Reduction(bounds, mode, weights, None if skipped < 0 else skipped)
