"""Renumbering of vocabularies with too many frequencies for one machine."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from distributed import Client
from numpy.typing import ArrayLike, NDArray

from saec.distributed.map_reduce import DaskPasses
from saec.distributed.shard_scratch import shards_for
from saec.streaming.chunks import chunks_of
from saec.streaming.frequency_order import frequency_order
from saec.streaming.npy_writer import save_vector
from saec.streaming.rows import Rows, rows_of
from saec.util.progress import bar

__all__ = ["renumber"]


def renumber(
    frequencies: ArrayLike | Rows,
    client: Client,
    out: str | os.PathLike[str] | None = None,
    *,
    readers: Mapping[str, Sequence[str]] | None = None,
    progress: bool = True,
) -> NDArray[np.int64]:
    """The old id of each new one if features are numbered by descending frequency.

    See :func:`~saec.streaming.frequency_order.frequency_order`. Each part sends its ids to their
    positions: 16 bytes a feature go over the network once, in parts x windows pieces. There is one
    part for each 4 million features, and about one window per worker: 25,000 pieces, half a
    minute of the scheduler, for 10^9 features and a hundred workers.

    Args:
        frequencies: (n,) counts in a file that the workers see, as a memory map or rows; or a small
            array.
        client: see :func:`~saec.distributed.connect`.
        out: a .npy file, in whose folder the workers can write. None for memory.
        readers: see :class:`~saec.distributed.DaskExecutor`.
        progress: show a progress bar.

    Returns:
        (n,) int64; a map of ``out`` if that is given.

    Raises:
        FieldError: a frequency is negative or not finite, or more are in memory than can be sent.
        DataError: ``out`` cannot be written.
        ArtifactError: a worker cannot write there.
    """
    counts = rows_of(frequencies)
    passes = DaskPasses(chunks_of("frequencies", counts, counts), client, readers or {})
    file = None if out is None else Path(out)
    with shards_for(file) as space, bar("renumbering", 1.0, progress) as shown:
        made = frequency_order(passes, shown.advance, space)
        if file is not None:
            return save_vector(file, made)
    assert isinstance(made, np.ndarray), "there are shards only where there is a file"
    return made.view("<i8")
