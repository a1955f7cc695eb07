"""Shards of a table that each hold some of its columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saec.errors import CheckpointError
from saec.streaming.rows import Rows

__all__ = ["BesideRows"]


class BesideRows(Rows):
    """Columns of a table, side by side.

    Args:
        columns: tables (n, dim), equal in n and dtype.
    """

    def __init__(self, columns: Sequence[Rows]) -> None:
        first = columns[0]
        for number, shard in enumerate(columns):
            if (shard.dtype, len(shard)) != (first.dtype, len(first)):
                raise CheckpointError(
                    f"shard {number} of the columns has {len(shard)} rows of {shard.dtype}, "
                    f"shard 0 {len(first)} of {first.dtype}"
                )
        self.columns = tuple(columns)
        super().__init__((len(first), sum(shard.shape[1] for shard in columns)), first.dtype)

    @property
    def in_order(self) -> bool:
        """See :class:`~saec.streaming.rows.Rows`; as for any of the columns."""
        return any(shard.in_order for shard in self.columns)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """See :class:`~saec.streaming.rows.Rows`; a copy."""
        return np.concatenate([shard.read(start, stop) for shard in self.columns], axis=1)

    def part(self, start: int, stop: int) -> BesideRows:
        """See :class:`~saec.streaming.rows.Rows`."""
        return BesideRows([shard.part(start, stop) for shard in self.columns])

    @property
    def identity(self) -> list[Any]:
        """Those of the shards."""
        return [shard.identity for shard in self.columns]
