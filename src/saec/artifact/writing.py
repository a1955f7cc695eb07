"""Writing the file."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from saec.artifact.container import (
    ARTIFACT,
    LOSS,
    MOST_BYTES,
    MOST_FIELDS,
    FileKind,
    byte_blocks,
    file_header,
)
from saec.artifact.entry import Entry, record_of
from saec.artifact.shards import check_shards
from saec.errors import ArtifactError
from saec.util.atomic_file import whole_file

__all__ = ["write", "write_file"]


def write(
    path: str | os.PathLike[str] | BinaryIO,
    entries: Sequence[Entry],
    loss: float | None = None,
    first: Callable[[], None] | None = None,
) -> None:
    """Write ``entries``, whole or not at all: a sibling temporary file, fsynced, then renamed.

    Args:
        path: of the file; shards that it joins lie beside it already. Or a stream, for none.
        entries: the fields, in order.
        loss: the predicted increase of the loss, in nats; None if it is not known.
        first: called when all is written, before the file takes its place; if it fails, the file
            does not.

    Raises:
        ArtifactError: the file cannot be written, or a shard is missing or not what it is said to
            be; ``path`` is as it was.
    """
    if not entries:
        raise ArtifactError("an artifact of 0 fields holds nothing")
    head = np.array(math.nan if loss is None else loss, LOSS).tobytes()
    write_file(path, ARTIFACT, head, entries, first)


def write_file(
    path: str | os.PathLike[str] | BinaryIO,
    kind: FileKind,
    head: bytes,
    entries: Sequence[Entry],
    first: Callable[[], None] | None = None,
) -> None:
    """Write a file of a ``kind``, with the ``head`` before the records; see :func:`write`, also for
    errors."""
    description = _description(head, entries)
    for entry in entries:
        for tensor in entry.sharded.values():
            assert isinstance(path, str | os.PathLike), "shards lie beside a file"
            check_shards(Path(path).parent, tensor)
    data = sum(part.nbytes for part in _parts(entries))
    with whole_file(path, ArtifactError) as file:
        file.write(file_header(kind, data, len(description)))
        for part in _parts(entries):
            for block in byte_blocks(part):
                file.write(block)
        file.write(description)
        if first is not None:
            file.flush()
            first()


def _parts(entries: Sequence[Entry]) -> Iterator[NDArray[Any]]:
    """The tensors inside the file: those with the widest items first, so that each starts at a
    multiple of its item size; of the same width, field by field."""
    parts = [part for entry in entries for part in entry.inside.values()]
    return iter(sorted(parts, key=lambda part: -part.dtype.itemsize))


def _description(head: bytes, entries: Sequence[Entry]) -> bytes:
    description = b"".join([head, *map(record_of, entries)])
    if len(description) > MOST_BYTES or len(entries) > MOST_FIELDS:
        raise ArtifactError(
            f"{len(entries)} fields take {len(description)} bytes to describe; the limits are "
            f"{MOST_FIELDS} and {MOST_BYTES}"
        )
    return description
