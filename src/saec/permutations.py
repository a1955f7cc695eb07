"""Old ids of renumbered features, in a file beside their artifact."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from saec.compressed import Compressed
from saec.errors import DataError
from saec.files import followed, let_go, whole_file
from saec.stored.field import CompressedField

__all__ = ["permutation_path", "remove_permutations", "save_permutations"]

_WRITTEN_ROWS = 1 << 20


def permutation_path(artifact: str | os.PathLike[str]) -> Path:
    """Where the permutations of an artifact go: beside the file that ``artifact`` may link to."""
    return Path(f"{followed(artifact)}.permutation.safetensors")


def save_permutations(path: str | os.PathLike[str], result: Compressed) -> None:
    """Write the old id of each new one, (vocab_size,) int64, of every field to a safetensors file.

    Also of those whose ids stayed as they were.

    Raises:
        DataError: the file cannot be written.
    """
    header, end = {}, 0
    for name, field in result.items():
        start, end = end, end + 8 * field.vocab_size
        header[name] = {"dtype": "I64", "shape": [field.vocab_size], "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with whole_file(path) as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for field in result.values():
            for block in _blocks(field):
                stream.write(block.astype("<i8").data)
                let_go(block)


def remove_permutations(artifact: str | os.PathLike[str]) -> None:
    """Remove the permutations of an artifact, if there are any.

    Raises:
        DataError: they cannot be removed.
    """
    path = permutation_path(artifact)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"cannot remove {path}: {error.strerror}") from error


def _blocks(field: CompressedField) -> Iterator[NDArray[np.int64]]:
    for start in range(0, field.vocab_size, _WRITTEN_ROWS):
        stop = min(start + _WRITTEN_ROWS, field.vocab_size)
        permutation = field.permutation
        yield np.arange(start, stop) if permutation is None else permutation[start:stop]
