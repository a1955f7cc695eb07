"""Blocks of rows for arithmetic whose temporary arrays should stay in the processor's caches."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["row_blocks"]

_ROWS = 1 << 9


def row_blocks(rows: int) -> Iterator[slice]:
    """Slices of at most 512 rows that cover ``rows`` rows, in order.

    A temporary array of 512 rows of 16 float64 values takes 64 kB. One for a whole part of a field
    takes more than 32 MB, which the C library gets from the system and returns each time. Also,
    BLAS uses several threads for the product of all rows with a small matrix, which costs more
    processor time than it saves; for so few rows it mostly uses one.
    """
    return (slice(start, min(start + _ROWS, rows)) for start in range(0, rows, _ROWS))
