"""Fields whose rows are worked on by a cluster."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import dask.array as da
from distributed import Client
from numpy.typing import ArrayLike

from saec.distributed.dask_rows import block_rows
from saec.distributed.map_reduce import DaskPasses
from saec.streaming.rows import Rows
from saec.tables.field import Field, check_fields

__all__ = ["field", "spread"]


def spread(
    fields: Iterable[Field],
    client: Client,
    readers: Mapping[str, Sequence[str]] | None = None,
) -> list[Field]:
    """The same fields, whose parts are worked on by the workers of ``client``.

    Whatever is done with them, compression above all, gives the same as with the fields themselves,
    to the last bit.

    Args:
        fields: with rows in files that the workers see under the same paths, or few in memory.
        client: see :func:`~saec.distributed.connect`.
        readers: addresses of the workers that can read a file, by its path; None: all can.

    Raises:
        FieldError: a field has more rows in memory than can be sent.
    """
    return [
        field.worked_on(lambda parts: DaskPasses(parts, client, readers or {}))
        for field in check_fields(fields)
    ]


def field(
    name: str, weights: da.Array, frequencies: da.Array | ArrayLike | Rows, client: Client
) -> Field:
    """A field whose table is a Dask array; it is computed, and its blocks stay on the workers.

    Args:
        name: see :class:`~saec.tables.field.Field`.
        weights: (vocab_size, dim), in blocks of known size that fit a worker several times over.
        frequencies: (vocab_size,), a Dask array, too, or see :class:`~saec.tables.field.Field`.
        client: see :func:`~saec.distributed.connect`.

    Raises:
        FieldError: something is wrong with one of them, or their blocks are of unknown size.
    """
    rows = block_rows(name, weights, client)
    counts = (
        block_rows(name, frequencies.rechunk({0: weights.chunks[0]}), client)
        if isinstance(frequencies, da.Array) and frequencies.shape == weights.shape[:1]
        else frequencies
    )
    return spread([Field(name, rows, counts)], client)[0]
