"""The executor that works on the rows of fields with the workers of a Dask cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import dask.array as da
from distributed import Client
from numpy.typing import ArrayLike

from saec.distributed.dask_rows import block_rows
from saec.distributed.map_reduce import DaskPasses
from saec.streaming.chunks import Chunk
from saec.streaming.rows import Rows
from saec.tables.field import Field

__all__ = ["DaskExecutor", "field"]


class DaskExecutor:
    """Works on the rows of fields with the workers of a Dask cluster.

    It is the ``executor`` of :func:`saec.compress`, :func:`saec.measure`, :func:`saec.forecast` and
    :func:`saec.inspect`, whose results are the same as in one process, to the last bit. Rows in
    memory of this process are sent once, and stay on the workers as long as this object
    exists.

    Args:
        client: see :func:`~saec.distributed.connect`.
        readers: addresses of the workers that can read a file, by its path; None: all can.
    """

    def __init__(self, client: Client, readers: Mapping[str, Sequence[str]] | None = None) -> None:
        self._client = client
        self._readers = readers or {}
        self._passes: dict[tuple[Chunk, ...], DaskPasses] = {}

    def __call__(self, parts: tuple[Chunk, ...]) -> DaskPasses:
        """Passes over the parts of a field: files that the workers see under the same paths, or a
        small number of rows in memory.

        Raises:
            FieldError: a field has more rows in memory than can be sent.
        """
        if parts not in self._passes:
            self._passes[parts] = DaskPasses(parts, self._client, self._readers)
        return self._passes[parts]


def field(
    name: str, weights: da.Array, frequencies: da.Array | ArrayLike | Rows, client: Client
) -> Field:
    """A field whose table is a Dask array. The array is computed, and its blocks stay on the
    workers. Use it with the :class:`DaskExecutor` of the same client.

    Args:
        name: see :class:`~saec.tables.field.Field`.
        weights: (vocab_size, dim), in blocks of known size, several of which fit into a worker.
        frequencies: (vocab_size,), also a Dask array, or see :class:`~saec.tables.field.Field`.
        client: see :func:`~saec.distributed.connect`.

    Raises:
        FieldError: an argument is invalid, or blocks are of unknown size.
    """
    rows = block_rows(name, weights, client)
    counts = (
        block_rows(name, frequencies.rechunk({0: weights.chunks[0]}), client)
        if isinstance(frequencies, da.Array) and frequencies.shape == weights.shape[:1]
        else frequencies
    )
    return Field(name, rows, counts)
