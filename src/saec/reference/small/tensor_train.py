"""Tensor train: a table as a product of three small cores, multiplied out for each lookup.

Source: Yin et al., TT-Rec: Tensor Train Compression for Deep Learning Recommendation Model
Embeddings, MLSys 2021 (arXiv 2101.11714): the factorisation, and initial cores whose product has
the variance of a plain table. Semi-tensor products: Xia et al., On-Device Next-Item Recommendation
with Self-Supervised Knowledge Distillation, SIGIR 2022 (arXiv 2204.11091): a factor matrix that is
too small for the product with A stands for its Kronecker product with an identity matrix, so that
all cores but the first have fewer numbers by the square of that matrix's size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from saec.errors import OptionError
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

__all__ = ["SemiTensorTrain", "TensorTrain", "TrainRows", "largest_divisor", "train_numbers"]

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
        return _tables(fields, dim, nbytes, 1)


@dataclass(frozen=True)
class SemiTensorTrain:
    """The same with semi-tensor products: smaller cores, and so a larger rank.

    Args:
        factor: size of the identity matrices; the largest divisor of ``dim`` up to it is taken.

    Raises:
        OptionError: ``factor`` is not positive.
    """

    factor: int = 2

    space: ClassVar[Mapping[str, Sequence[Any]]] = {"factor": (2, 4)}
    has_one_size: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.factor < 1:
            raise OptionError(f"factor is {self.factor}; it must be positive")

    def build(self, fields: Sequence[FieldFeatures], dim: int, nbytes: int) -> SmallTables:
        """As of :class:`TensorTrain`."""
        return _tables(fields, dim, nbytes, largest_divisor(dim, self.factor))


def largest_divisor(dim: int, most: int) -> int:
    """The largest divisor of ``dim`` up to ``most``, both positive."""
    return next(size for size in range(most, 0, -1) if dim % size == 0)


def _tables(fields: Sequence[FieldFeatures], dim: int, nbytes: int, factor: int) -> SeparateTables:
    def total(rank: int) -> int:
        return sum(
            HALF_BYTES * min(train_numbers(field.count, dim, rank, factor), field.count * dim)
            for field in fields
        )

    rank = largest(total, _MOST_RANK, nbytes, "a tensor train")
    return SeparateTables(fields, [_part(field, dim, rank, factor) for field in fields])


def _part(field: FieldFeatures, dim: int, rank: int, factor: int) -> FieldModule:
    if field.count * dim <= train_numbers(field.count, dim, rank, factor):
        return IndexedRows.whole(field, dim)
    return TrainRows(field.rows, field.count, dim, rank, factor)


class TrainRows(FieldModule):
    """Row (i, j, k) is the product of matrices ``G1[i] (a, R t)``, ``G2[j] (R, b R)``,
    ``G3[k] (R, c / t)``; a * b * c = dim.

    The product of ``A (m, n t)`` and ``B (n, p)`` is A times the Kronecker product of B and the
    identity of size t, (m, p t); with t = 1 it is the plain one.

    Args:
        rows: (ids,) the row of each id.
        count: rows.
        dim: of a row.
        rank: R.
        factor: t, a divisor of ``dim``.
    """

    digits: Tensor

    def __init__(self, rows: Tensor, count: int, dim: int, rank: int, factor: int = 1) -> None:
        super().__init__()
        self._rank, self._factor, self._widths = rank, factor, _factors(dim, factor)
        self._count = count
        (first, second, third), (a, b, c) = _row_digits(count), self._widths
        digits = [rows // (second * third), rows // third % second, rows % third]
        self.register_buffer("digits", torch.stack(digits), persistent=False)
        # Each number of the product is a sum of rank squared terms of three factors.
        std = (INITIAL_STD / rank) ** (1 / 3)
        shapes = (
            (first, a * rank * factor),
            (second, rank * b * rank),
            (third, rank * c // factor),
        )
        self.cores = nn.ModuleList(normal_rows(count, width, std) for count, width in shapes)

    def forward(self, ids: Tensor) -> Tensor:
        """(B,) -> (B, dim)."""
        return each_once(ids, self._products)

    def all_rows(self) -> Tensor:
        """(count, dim): products of the first two cores are shared by rows that differ in the last
        digit only."""
        (a, b, c), rank, factor = self._widths, self._rank, self._factor
        first, second, third = self.parameters()
        left = torch.einsum(
            "iaRt,jRq->ijaqt", first.view(-1, a, rank, factor), second.view(-1, rank, b * rank)
        )
        left = left.reshape(len(first), len(second), a * b, rank, factor)
        rows = torch.einsum("ijmRt,kRc->ijkmct", left, third.view(-1, rank, c // factor))
        return rows.reshape(-1, a * b * c)[: self._count]

    def _products(self, ids: Tensor) -> Tensor:
        (a, b, c), rank, factor = self._widths, self._rank, self._factor
        first, second, third = (
            core(digit[ids]) for core, digit in zip(self.cores, self.digits, strict=True)
        )
        left = _product(first.view(-1, a, rank * factor), second.view(-1, rank, b * rank))
        left = left.reshape(-1, a * b, rank * factor)
        return _product(left, third.view(-1, rank, c // factor)).flatten(1)


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Semi-tensor products (B, m, p t) of matrices (B, m, n t) and (B, n, p)."""
    (batch, rows, wide), (_, narrow, columns) = left.shape, right.shape
    split = left.reshape(batch, rows, narrow, wide // narrow).transpose(2, 3)
    products = torch.bmm(split.reshape(batch, -1, narrow), right)
    return products.view(batch, rows, -1, columns).transpose(2, 3).flatten(2)


def _row_digits(count: int) -> tuple[int, int, int]:
    """How many values each digit of a row number has; their product reaches ``count``."""
    first = math.ceil(count ** (1 / 3) - 1e-9)
    second = math.ceil(math.sqrt(count / first) - 1e-9)
    return first, second, math.ceil(count / (first * second))


def _factors(dim: int, factor: int) -> tuple[int, int, int]:
    """Three factors of ``dim``, as equal as possible; the largest one stands in the middle, and
    ``factor`` divides the last one."""
    options = [
        (a, dim // (a * c), c)
        for a in range(1, dim + 1)
        for c in range(factor, dim // a + 1, factor)
        if dim % (a * c) == 0
    ]
    return min(options, key=lambda factors: (sum(factors), -factors[1], factors))


def train_numbers(count: int, dim: int, rank: int, factor: int) -> int:
    """Numbers in the cores of :class:`TrainRows`."""
    (first, second, third), (a, b, c) = _row_digits(count), _factors(dim, factor)
    return first * a * rank * factor + second * rank * b * rank + third * rank * c // factor
