"""Quotient and remainder: a feature's vector is composed of rows of several small tables.

Source: Shi et al., Compositional Embeddings Using Complementary Partitions for Memory-Efficient
Recommendation Systems, KDD 2020: algorithm 2 (quotient and remainder), complementary partitions
(more than two tables), operations on the rows.
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
    largest,
    normal_rows,
)

__all__ = ["QuotientRemainder"]

_FACTOR_STD = 0.1  # of the rows that multiply others, around 1


@dataclass(frozen=True)
class QuotientRemainder:
    """Fields with more features than a common limit get tables whose rows together stay within it.

    See :class:`~saec.reference.small.tables.SmallMethod`.

    Args:
        operation: ``"mult"`` multiplies the rows value by value, ``"add"`` adds them.
        partitions: tables of a composed field.
    """

    operation: str = "mult"
    partitions: int = 2

    space: ClassVar[Mapping[str, Sequence[Any]]] = {
        "operation": ("mult", "add"),
        "partitions": (2, 3),
    }
    has_one_size: ClassVar[bool] = False

    def build(self, fields: Sequence[FieldFeatures], dim: int, nbytes: int) -> SmallTables:
        """The limit is the largest that the bytes allow."""

        def total(limit: int) -> int:
            return sum(HALF_BYTES * dim * sum(self.sizes(field.count, limit)) for field in fields)

        most = max(field.count for field in fields)
        limit = largest(total, most, nbytes, f"quotient-remainder with {self.partitions} tables")
        return SeparateTables(fields, [self._part(field, limit, dim) for field in fields])

    def sizes(self, count: int, limit: int) -> list[int]:
        """Rows of each table of a field; one table where that is no more than the limit, or than
        all tables of a composed field."""
        last = [_root(count, self.partitions)] * (self.partitions - 1)
        spare = limit - sum(last)
        # A remainder's table as large as the limit allows makes those of quotients small.
        remainder = max(spare, math.ceil(count / math.prod(last)))
        quotients = math.ceil(count / remainder)
        others = [_root(quotients, self.partitions - 1)] * (self.partitions - 1)
        composed = [remainder, *others]
        return [count] if count <= max(limit, sum(composed)) else composed

    def _part(self, field: FieldFeatures, limit: int, dim: int) -> FieldModule:
        sizes = self.sizes(field.count, limit)
        if len(sizes) == 1:
            return IndexedRows.whole(field, dim)
        return ComposedRows(field.rows, sizes, dim, self.operation == "mult")


class ComposedRows(FieldModule):
    """The product or the sum of one row from each table, found by the digits of the row number."""

    digits: Tensor

    def __init__(self, rows: Tensor, sizes: Sequence[int], dim: int, product: bool) -> None:
        super().__init__()
        self._product = product
        digits = []
        for size in sizes:
            digits.append(rows % size)
            rows = rows // size
        self.register_buffer("digits", torch.stack(digits), persistent=False)
        factors = {"mean": 1.0, "std": _FACTOR_STD} if product else {"std": INITIAL_STD}
        self.tables = nn.ModuleList(
            normal_rows(size, dim, **({"std": INITIAL_STD} if place == 0 else factors))
            for place, size in enumerate(sizes)
        )

    def forward(self, ids: Tensor) -> Tensor:
        """(B,) -> (B, dim)."""
        found = [table(digit[ids]) for table, digit in zip(self.tables, self.digits, strict=True)]
        rows = torch.stack(found)
        return rows.prod(0) if self._product else rows.sum(0)


def _root(count: int, degree: int) -> int:
    """The least number whose power reaches ``count``."""
    root: int = math.floor(count ** (1 / degree) - 1e-6)  # rounding may have made it one too large
    while root**degree < count:
        root += 1
    return root
