"""Rows scaled to length 1, for tables that are compared by cosine."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from saec.streaming.rows import Rows

__all__ = ["UnitRows"]


class UnitRows(Rows):
    """Rows (n, dim) of a table divided by their lengths, float32; rows of zeros are unchanged.

    The squared distance of two such rows is 2 - 2 cos of their angle.
    """

    def __init__(self, rows: Rows) -> None:
        super().__init__(rows.shape, np.float32)
        self._rows = rows

    @property
    def borders(self) -> tuple[int, ...]:
        """See :class:`~saec.streaming.rows.Rows`."""
        return self._rows.borders

    @property
    def in_order(self) -> bool:
        """See :class:`~saec.streaming.rows.Rows`."""
        return self._rows.in_order

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """See :class:`~saec.streaming.rows.Rows`; a copy."""
        rows = self._rows.read(start, stop).astype(np.float64)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        return (rows / np.where(lengths > 0, lengths, 1)).astype(np.float32)

    def part(self, start: int, stop: int) -> UnitRows:
        """See :class:`~saec.streaming.rows.Rows`."""
        return UnitRows(self._rows.part(start, stop))

    @property
    def identity(self) -> list[Any]:
        """That of the rows, which are scaled."""
        return ["unit", *self._rows.identity]
