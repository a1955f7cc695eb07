"""Hashing trick: features share the rows of a smaller table.

Source: Weinberger et al., Feature Hashing for Large Scale Multitask Learning, ICML 2009, used for
embeddings with a limit on the rows of each table, as in DLRM's ``max-ind-range``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from saec.reference.small.features import FieldFeatures
from saec.reference.small.tables import (
    HALF_BYTES,
    IndexedRows,
    SeparateTables,
    SmallTables,
    largest,
)

__all__ = ["HashTrick"]


@dataclass(frozen=True)
class HashTrick:
    """Fields with more features than a common limit are hashed to so many rows.

    See :class:`~saec.reference.small.tables.SmallMethod`. Hashed fields need no vocabulary; a field
    within the limit keeps a row for each feature, and a vocabulary.
    """

    space: ClassVar[Mapping[str, Sequence[Any]]] = {}
    has_one_size: ClassVar[bool] = False

    def build(self, fields: Sequence[FieldFeatures], dim: int, nbytes: int) -> SmallTables:
        """The limit is the largest that the bytes allow."""

        def total(limit: int) -> int:
            return sum(HALF_BYTES * dim * min(field.count, limit) for field in fields)

        limit = largest(total, max(field.count for field in fields), nbytes, "the hashing trick")
        return SeparateTables(fields, [_part(field, limit, dim) for field in fields])


def _part(field: FieldFeatures, limit: int, dim: int) -> IndexedRows:
    if field.count <= limit:
        return IndexedRows.whole(field, dim)
    return IndexedRows(field.buckets(limit), limit, dim, "keys")
