"""Vectors of 8 bytes a row, from memory or from shards into a .npy file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saec.artifact import GRAIN, ShardedTensor, Stored
from saec.errors import DataError, SaecError
from saec.util.atomic_file import let_go, whole_file

__all__ = ["save_vector", "vector_blocks"]

_BLOCK = 1 << 24  # bytes that are copied at once


def save_vector(
    out: str | os.PathLike[str],
    made: Stored,
    failure: type[SaecError] = DataError,
) -> NDArray[np.int64]:
    """Write the bytes of an int64 vector to a .npy file, block after block, and map it.

    Args:
        out: the file.
        made: contiguous; or the shards that have the bytes, beside ``out``.
        failure: the kind of the error if the file cannot be written.
    """
    path = Path(out)
    header = np.lib.format.header_data_from_array_1_0(np.zeros(0, "<i8"))
    with whole_file(path, failure) as stream:
        np.lib.format.write_array_header_1_0(stream, header | {"shape": (made.nbytes // 8,)})
        for block in vector_blocks(path, made):
            stream.write(block)
    mapped: NDArray[np.int64] = np.load(path, mmap_mode="r")
    return mapped


def vector_blocks(path: Path, made: Stored) -> Iterator[memoryview] | Iterator[bytes]:
    """The bytes of a vector, block after block: contiguous, or in shards beside ``path``."""
    return _of_shards(path, made) if isinstance(made, ShardedTensor) else _of_array(made)


def _of_array(made: NDArray[Any]) -> Iterator[memoryview]:
    data = np.ascontiguousarray(made).view(np.uint8)
    for start in range(0, len(data), _BLOCK):
        block = data[start : start + _BLOCK]
        yield block.data
        let_go(block)


def _of_shards(path: Path, made: ShardedTensor) -> Iterator[bytes]:
    for name in made.files:
        with path.with_name(name).open("rb") as source:
            source.seek(GRAIN)
            while block := source.read(_BLOCK):
                yield block
