"""Writing the file, and what it takes."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from saec.artifact.container import (
    DESCRIPTION,
    FORMAT,
    MOST_BYTES,
    MOST_FIELDS,
    NAMES,
    byte_blocks,
    compact,
    padded_header,
)
from saec.artifact.entry import Entry, described
from saec.artifact.shards import check_shards
from saec.errors import ArtifactError
from saec.util.atomic_file import whole_file

__all__ = ["entry_bytes", "file_bytes", "write"]

_SQUEEZED = 5  # how often a field's description is larger than its part of the packed one, about
_ALIGNMENT = 8  # of the first tensor

_NO_FACTS: Mapping[str, Any] = MappingProxyType({})


def file_bytes(
    entries: Sequence[Entry], facts: Mapping[str, Any] = _NO_FACTS, spare: int = 0
) -> int:
    """Size in bytes of the file that :func:`write` makes of them, and of the shards it joins.

    Args:
        entries: the fields.
        facts: about the file as a whole.
        spare: bytes by which the packed description may still grow.
    """
    joined = _joined(entries, facts)
    joined[DESCRIPTION].append(np.broadcast_to(np.uint8(0), spare))
    inside = len(_header(joined)) + sum(part.nbytes for parts in joined.values() for part in parts)
    return inside + sum(_shards_bytes(entry) for entry in entries)


def entry_bytes(entry: Entry) -> int:
    """Bytes of ``entry``'s tensors and, about, of its part of the packed description.

    What that part takes depends on the other fields: only :func:`file_bytes` is exact. Entries
    whose tensors are smaller and whose numbers are no longer are never said to take more.
    """
    tensors = sum(tensor.nbytes for tensor in entry.inside.values()) + _shards_bytes(entry)
    return tensors + len(compact(described(entry))) // _SQUEEZED


def write(
    path: str | os.PathLike[str] | BinaryIO,
    entries: Sequence[Entry],
    facts: Mapping[str, Any] = _NO_FACTS,
    first: Callable[[], None] | None = None,
) -> None:
    """Write ``entries``, whole or not at all: a sibling temporary file, fsynced, then renamed.

    Args:
        path: of the file; shards that it joins lie beside it already. Or a stream, for none.
        entries: the fields, in order.
        facts: about the file as a whole, JSON-able.
        first: called when all is written, before the file takes its place; if it fails, the file
            does not.

    Raises:
        ArtifactError: the file cannot be written, or a shard is missing or not what it is said to
            be; ``path`` is as it was.
    """
    if not entries:
        raise ArtifactError("an artifact of 0 fields holds nothing")
    joined = _joined(entries, facts)
    for entry in entries:
        for tensor in entry.sharded.values():
            assert isinstance(path, str | os.PathLike), "shards lie beside a file"
            check_shards(Path(path).parent, tensor)
    with whole_file(path, ArtifactError) as file:
        file.write(_header(joined))
        for parts in joined.values():
            for part in parts:
                for block in byte_blocks(part):
                    file.write(block)
        if first is not None:
            file.flush()
            first()


def _shards_bytes(entry: Entry) -> int:
    return sum(tensor.file_bytes for tensor in entry.sharded.values())


def _joined(entries: Sequence[Entry], facts: Mapping[str, Any]) -> dict[str, list[NDArray[Any]]]:
    """The parts, in order, of each tensor of the file."""
    joined: dict[str, list[NDArray[Any]]] = {}
    for entry in entries:
        for role, tensor in entry.inside.items():
            joined.setdefault(f"{role}.{NAMES[tensor.dtype]}", []).append(tensor)
    ordered = sorted(joined, key=lambda name: (-joined[name][0].dtype.itemsize, name))
    return {name: joined[name] for name in ordered} | {DESCRIPTION: [_packed(entries, facts)]}


def _packed(entries: Sequence[Entry], facts: Mapping[str, Any]) -> NDArray[np.uint8]:
    """The description of the fields and the file."""
    text = compact({"facts": dict(facts), "fields": [described(entry) for entry in entries]})
    if len(text) >= MOST_BYTES or len(entries) > MOST_FIELDS:
        raise ArtifactError(f"{len(entries)} fields are too many, or their names too long")
    return np.frombuffer(zlib.compress(text.encode(), 9), np.uint8)


def _header(joined: Mapping[str, Sequence[NDArray[Any]]]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"saec": str(FORMAT)}}
    offset = 0
    for name, parts in joined.items():
        end = offset + sum(part.nbytes for part in parts)
        count = sum(part.size for part in parts)
        dtype = NAMES[parts[0].dtype]
        header[name] = {"dtype": dtype, "shape": [count], "data_offsets": [offset, end]}
        offset = end
    return padded_header(header, _ALIGNMENT)
