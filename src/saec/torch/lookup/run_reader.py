"""Rows of one codebook, chosen by packed codes: clustered and raw tables."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import ml_dtypes
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from saec.format.native_lookup import LookupTable, RowRun, run_table
from saec.torch.lookup.reader import (
    READ,
    UNUSED,
    TableReader,
    Tensors,
    Use,
    bits_at,
    check_columns,
    gpu_bags,
    plain,
)
from saec.torch.lookup.triton import launch as gpu

__all__ = ["RunReader"]


@dataclass(frozen=True)
class RunReader(TableReader):
    """Rows of one codebook by packed codes; tensors: codebook | codes, columns.

    Args:
        count: rows of the table.
        runs: see :class:`saec.format.native_lookup.RowRun`; without codes, the codebook holds the
            rows.
        pads: ids with rows at the end of the codebook.
    """

    count: int
    runs: tuple[RowRun, ...]
    pads: tuple[int, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """See :class:`TableReader`."""
        return ("codebook", "codes", "columns")

    @property
    def parameters(self) -> int:
        """See :class:`TableReader`."""
        return 1

    @property
    def spec(self) -> str:
        """See :class:`TableReader`."""
        runs = [
            [run.first_row, run.code_bits, run.first_byte, run.first_stored] for run in self.runs
        ]
        return json.dumps(["runs", self.count, runs, self.pads])

    def dim(self, tensors: Tensors) -> int:
        """See :class:`TableReader`."""
        return tensors[0].shape[1]

    def dtype(self, tensors: Tensors) -> torch.dtype:
        """See :class:`TableReader`."""
        return tensors[0].dtype

    @cached_property
    def columns(self) -> Tensor:
        """Values (6, runs) int64 that plain operations need for each run: first row, bits, first
        bit, mask, first centroid, whether its rows are stored."""
        rows = [
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
        return torch.tensor(rows, device="cpu").T.contiguous()

    def rows(self, ids: Tensor, tensors: Tensors, skipped: int = -1) -> Tensor:
        """See :class:`TableReader`."""
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
        """See :class:`TableReader`; rows are added directly from the codebook to their bags."""
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
        """See :class:`TableReader`."""
        book, codes, columns = tensors
        check_columns(columns, self.columns)
        first = len(book) - len(self.pads)
        pads = {pad: first + number for number, pad in enumerate(self.pads)}
        return run_table(self.count, self.runs, codes.contiguous().numpy(), _array(book), pads=pads)

    def uses(self, table: LookupTable, tensors: Tensors) -> list[Use]:
        """See :class:`TableReader`."""
        return [READ, READ, UNUSED]

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
        book, codes, columns = tensors
        if self.pads:  # their rows are the last of the codebook, which the kernel does not handle
            return plain(self, ids, offsets, weights, tensors, mode, skipped)
        table = gpu.ClusteredTensors(self.count, codes, columns, book)
        if offsets is None:
            return gpu.clustered_rows(table, ids)
        return gpu.clustered_pool(table, ids, gpu_bags(ids, offsets, weights, mode, skipped))


def _array(tensor: Tensor) -> NDArray[Any]:
    """The tensor's own memory, if it is contiguous."""
    detached = tensor.detach().contiguous()
    if detached.dtype == torch.bfloat16:
        return detached.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    array: NDArray[Any] = detached.numpy()
    return array
