"""Vectors that workers made, in memory or in a .npy file."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saec.artifact import GRAIN, ShardedTensor, remove_run
from saec.errors import DataError
from saec.files import whole_file
from saec.workspace import IN_MEMORY, ShardNames, Workspace

__all__ = ["save_vector", "shards_for"]

_BLOCK = 1 << 24  # bytes that are copied at once


@contextmanager
def shards_for(out: Path | None) -> Iterator[Workspace]:
    """Where workers put a vector that will be joined into the file ``out``; None for memory.

    The shards are removed in the end.

    Raises:
        DataError: there is no folder in which ``out`` could be.
    """
    if out is None:
        yield IN_MEMORY
        return
    if not out.parent.is_dir():
        raise DataError(f"cannot write {out}: {out.parent} is no folder")
    run = secrets.token_hex(8)
    try:
        yield Workspace(shards=ShardNames(out, run))
    finally:
        remove_run(out, run)


def save_vector(out: Path, made: NDArray[np.uint8] | ShardedTensor) -> NDArray[np.int64]:
    """Write the bytes of an int64 vector to a .npy file, block after block, and map it.

    Raises:
        DataError: the file cannot be written.
    """
    header = np.lib.format.header_data_from_array_1_0(np.zeros(0, "<i8"))
    with whole_file(out, DataError) as stream:
        np.lib.format.write_array_header_1_0(stream, header | {"shape": (made.shape[0] // 8,)})
        if isinstance(made, ShardedTensor):
            for name in made.files:
                _copy(out.with_name(name), stream)
        else:
            stream.write(made.tobytes())
    mapped: NDArray[np.int64] = np.load(out, mmap_mode="r")
    return mapped


def _copy(shard: str | os.PathLike[str], stream: Any) -> None:
    with Path(shard).open("rb") as source:
        source.seek(GRAIN)
        while block := source.read(_BLOCK):
            stream.write(block)
