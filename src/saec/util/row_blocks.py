"""Blocks of rows for arithmetic whose temporary arrays should stay in the processor's caches."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["row_blocks"]

_ROWS, _WIDTH = 1 << 9, 16


def row_blocks(rows: int, width: int = _WIDTH) -> Iterator[slice]:
    """Slices of at most 512 rows that cover ``rows`` rows, in order.

    width: if rows have fewer values than 16, more of them are in a slice, as many as have 8,192
    values. That is for work whose result for a row does not depend on the other rows.

    A temporary array of 512 rows of 16 float64 values takes 64 kB. One for a whole part of a field
    takes more than 32 MB, which the C library gets from the system and returns each time. Also,
    BLAS uses several threads for the product of all rows with a small matrix, which costs more
    processor time than it saves; for so few rows it mostly uses one.
    """
    size = max(_ROWS, _ROWS * _WIDTH // max(width, 1))
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))
