"""Blocks of rows for arithmetic whose temporary arrays should stay in the processor's caches."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["row_blocks"]

_ROWS = 1 << 9


def row_blocks(rows: int) -> Iterator[slice]:
    """Slices of at most 512 rows that cover ``rows`` rows, in order.

    A temporary array of 512 rows of 16 float64 values takes 64 kB. Those of a whole part of a field
    take more than 32 MB each, which the C library gets from the system and returns each time; and
    products of so few rows with a small matrix are not worth a thread, which BLAS would start.
    """
    return (slice(start, min(start + _ROWS, rows)) for start in range(0, rows, _ROWS))
