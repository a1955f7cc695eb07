"""Rows that are already on the workers: blocks of a Dask array."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import dask.array as da
import numpy as np
from distributed import Client, Future, futures_of
from numpy.typing import DTypeLike, NDArray

from saec.errors import FieldError
from saec.streaming.chunks import Chunk
from saec.streaming.rows import ArrayRows, Rows

__all__ = ["BlockRows", "block_rows", "join_blocks", "split_part"]

Slice = tuple[Future[NDArray[Any]], int, int]  # a block, and a range of its rows
Slices = Sequence[tuple[NDArray[Any], int, int]]  # the same on a worker

_NO_ROWS = ArrayRows(np.zeros(0))


class BlockRows(Rows):
    """Rows of blocks, one after the other.

    Args:
        slices: rows of each block.
        shape: (n, dim) or (n,).
        dtype: of the values.
    """

    def __init__(self, slices: Sequence[Slice], shape: Sequence[int], dtype: DTypeLike) -> None:
        super().__init__(shape, dtype)
        self.slices = tuple(slices)

    @property
    def borders(self) -> tuple[int, ...]:
        """See :class:`~saec.streaming.rows.Rows`; here those of the blocks."""
        sizes = [stop - start for _, start, stop in self.slices]
        return (0, *np.cumsum(sizes).tolist())

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """See :class:`~saec.streaming.rows.Rows`; the rows are copied to the client."""
        part = self.part(start, stop)
        pieces = [
            block.client.submit(_rows_of, block, first, last, pure=False).result()
            for block, first, last in part.slices
        ]
        return np.concatenate([np.empty((0, *self.shape[1:]), self.dtype), *pieces])

    def part(self, start: int, stop: int) -> BlockRows:
        """See :class:`~saec.streaming.rows.Rows`."""
        start, stop, _ = slice(start, stop).indices(len(self))
        slices = [
            (block, own + max(start - first, 0), own + min(stop, last) - first)
            for (block, own, _), first, last in zip(
                self.slices, self.borders, self.borders[1:], strict=False
            )
            if max(start, first) < min(stop, last)
        ]
        return BlockRows(slices, (max(0, stop - start), *self.shape[1:]), self.dtype)

    @property
    def identity(self) -> list[Any]:
        """The keys of the blocks."""
        return [[str(block.key), start, stop] for block, start, stop in self.slices]


def block_rows(name: str, array: da.Array, client: Client) -> BlockRows:
    """The rows of ``array`` (n, dim) or (n,), computed and kept on the workers of ``client``.

    Raises:
        FieldError: its blocks are of unknown size; names the field.
    """
    if np.isnan(array.shape[0]):
        raise FieldError(
            f"field {name!r}: blocks of unknown size; call compute_chunk_sizes() first"
        )
    whole = array.rechunk(dict.fromkeys(range(1, array.ndim), -1))
    kept = client.persist(whole)
    found = {future.key: future for future in futures_of(kept)}
    blocks = [
        (found[(kept.name, number, *[0] * (array.ndim - 1))], 0, int(rows))
        for number, rows in enumerate(kept.chunks[0])
    ]
    return BlockRows(blocks, [int(size) for size in array.shape], array.dtype)


def split_part(part: Chunk) -> tuple[Chunk, list[list[Any]], list[list[Any]]] | None:
    """A part without the rows that are on workers, and these rows of its table and its counts."""
    rows = part.rows.slices if isinstance(part.rows, BlockRows) else ()
    counts = part.counts.slices if isinstance(part.counts, BlockRows) else ()
    if not rows and not counts:
        return None
    bare = replace(
        part,
        rows=_NO_ROWS if rows else part.rows,
        counts=_NO_ROWS if counts else part.counts,
    )
    return bare, [list(one) for one in rows], [list(one) for one in counts]


def join_blocks(part: Chunk, rows: Slices, counts: Slices) -> Chunk:
    """The part before the split, on the workers of its blocks."""
    return replace(
        part,
        rows=ArrayRows(_joined(rows)) if rows else part.rows,
        counts=ArrayRows(_joined(counts)) if counts else part.counts,
    )


def _joined(slices: Slices) -> NDArray[Any]:
    own = [block[first:last] for block, first, last in slices]
    return own[0] if len(own) == 1 else np.concatenate(own)


def _rows_of(block: NDArray[Any], first: int, last: int) -> NDArray[Any]:
    return block[first:last]
