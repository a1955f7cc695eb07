"""Tensor train: a table as a product of three small cores, multiplied out for each lookup.

Source: Yin et al., TT-Rec: Tensor Train Compression for Deep Learning Recommendation Model
Embeddings, MLSys 2021 (arXiv 2101.11714): the factorisation, and initial cores whose product has
the variance of a plain table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from saec.reference.small.features import FieldFeatures
from saec.reference.small.tables import (
    HALF_BYTES,
    INITIAL_STD,
    FieldModule,
    IndexedRows,
    SeparateTables,
    SmallTables,
    each_once,
    largest,
    normal_rows,
)

__all__ = ["TensorTrain"]

_MOST_RANK = 128


@dataclass(frozen=True)
class TensorTrain:
    """Fields are trains of one common rank, or whole tables where these are smaller.

    See :class:`~saec.reference.small.tables.SmallMethod`; the rank is the largest that the bytes
    allow. Row numbers are written with three digits, so ids must be dense.
    """

    space: ClassVar[Mapping[str, Sequence[Any]]] = {}
    has_one_size: ClassVar[bool] = False

    def build(self, fields: Sequence[FieldFeatures], dim: int, nbytes: int) -> SmallTables:
        """A field's bytes grow with the rank until its whole table is smaller."""

        def total(rank: int) -> int:
            return sum(
                HALF_BYTES * min(_train_numbers(field.count, dim, rank), field.count * dim)
                for field in fields
            )

        rank = largest(total, _MOST_RANK, nbytes, "a tensor train")
        return SeparateTables(fields, [_part(field, dim, rank) for field in fields])


def _part(field: FieldFeatures, dim: int, rank: int) -> FieldModule:
    if field.count * dim <= _train_numbers(field.count, dim, rank):
        return IndexedRows.whole(field, dim)
    return TrainRows(field.rows, field.count, dim, rank)


class TrainRows(FieldModule):
    """Row (i, j, k) is the product of matrices ``G1[i] (a, R)``, ``G2[j] (R, b R)``,
    ``G3[k] (R, c)``; a * b * c = dim."""

    digits: Tensor

    def __init__(self, rows: Tensor, count: int, dim: int, rank: int) -> None:
        super().__init__()
        self._rank, self._widths = rank, _factors(dim)
        (first, second, third), (a, b, c) = _row_digits(count), self._widths
        digits = [rows // (second * third), rows // third % second, rows % third]
        self.register_buffer("digits", torch.stack(digits), persistent=False)
        # Each number of the product is a sum of rank squared terms of three factors.
        std = (INITIAL_STD / rank) ** (1 / 3)
        shapes = ((first, a * rank), (second, rank * b * rank), (third, rank * c))
        self.cores = nn.ModuleList(normal_rows(count, width, std) for count, width in shapes)

    def forward(self, ids: Tensor) -> Tensor:
        """(B,) -> (B, dim)."""
        return each_once(ids, self._products)

    def _products(self, ids: Tensor) -> Tensor:
        (a, b, c), rank = self._widths, self._rank
        first, second, third = (
            core(digit[ids]) for core, digit in zip(self.cores, self.digits, strict=True)
        )
        left = torch.bmm(first.view(-1, a, rank), second.view(-1, rank, b * rank))
        return torch.bmm(left.view(-1, a * b, rank), third.view(-1, rank, c)).flatten(1)


def _row_digits(count: int) -> tuple[int, int, int]:
    """How many values each digit of a row number has; their product reaches ``count``."""
    first = math.ceil(count ** (1 / 3) - 1e-9)
    second = math.ceil(math.sqrt(count / first) - 1e-9)
    return first, second, math.ceil(count / (first * second))


def _factors(dim: int) -> tuple[int, int, int]:
    """Three factors of ``dim``, as equal as possible; the largest one stands in the middle."""
    options = [
        (a, dim // (a * c), c)
        for a in range(1, dim + 1)
        for c in range(1, dim // a + 1)
        if dim % (a * c) == 0
    ]
    return min(options, key=lambda factors: (sum(factors), -factors[1], factors))


def _train_numbers(count: int, dim: int, rank: int) -> int:
    (first, second, third), (a, b, c) = _row_digits(count), _factors(dim)
    return first * a * rank + second * rank * b * rank + third * rank * c
