"""Read the file: all of its content is checked before use."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saec.artifact.byte_reader import ByteReader
from saec.artifact.container import (
    ARTIFACT,
    DATA,
    DESCRIPTION,
    HEADER_BYTES,
    LOSS,
    MOST_BYTES,
    MOST_FIELDS,
    MOST_HEADER_BYTES,
    PATCH,
    FileKind,
    file_header,
    shortly,
)
from saec.artifact.entry import Entry, FileRange, Place, Record, read_record
from saec.artifact.shards import GRAIN, ShardedTensor, map_shards
from saec.errors import ArtifactError
from saec.util.regular_file import check_header, mistaken_for

__all__ = ["read", "read_file"]

_LENGTH_BYTES = 8  # of the header's length
_MOST_FILE_BYTES = 1 << 62  # the header has room for the digits of such sizes


def read(path: str | os.PathLike[str]) -> tuple[list[Entry], float | None]:
    """Map the entries of a file; only its header and the description are read.

    Tensors in shards are mapped like the others; an entry's ``sharded`` lists them.

    Returns:
        The entries, and the predicted increase of the loss in the file: any number, or
        None if it is not known.

    Raises:
        ArtifactError: the file is missing, not a regular file, truncated, not safetensors, or not a
            saec artifact of this format, or a shard is missing or belongs to another run; the
            message names the case.
    """
    head, entries = read_file(Path(path), ARTIFACT)
    loss = float(np.frombuffer(head, LOSS)[0])
    return entries, None if math.isnan(loss) else loss


def read_file(file: Path, kind: FileKind) -> tuple[bytes, list[Entry]]:
    """Map the entries of a file of a ``kind``; see :func:`read`, also for errors.

    Returns:
        The bytes before the records, and the entries.
    """
    check_header(file, MOST_HEADER_BYTES, ArtifactError)
    mapped, header = _opened(file, kind)
    try:
        _check_version(header, kind)
        data, description = _tensors(mapped, header, kind)
        head, records = _described(description, kind)
        parts = _Parts(data, records)
        entries = [_entry(record, parts, file) for record in records]
        _check_once(entries)
    except ArtifactError as error:
        raise ArtifactError(f"{file}: {error}") from error
    return head, entries


def _opened(file: Path, kind: FileKind) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """The file, mapped, and the JSON object of its header."""
    try:
        mapped = np.memmap(file, dtype=np.uint8, mode="r")
        size = int.from_bytes(mapped[:_LENGTH_BYTES].tobytes(), "little")
        if size > len(mapped) - _LENGTH_BYTES:
            raise ValueError(f"it has {len(mapped)} bytes, and a header of {size}")
        header = json.loads(mapped[_LENGTH_BYTES : _LENGTH_BYTES + size].tobytes())
        if not isinstance(header, dict):
            raise ValueError("its header is no JSON object")
    except (OSError, ValueError, RecursionError) as error:  # an empty file cannot be mapped
        said = f"{error}{mistaken_for(file)}"
        raise ArtifactError(f"{file} is no saec {kind.name} or is damaged: {said}") from error
    return mapped, header


def _check_version(header: dict[str, Any], kind: FileKind) -> None:
    """Raise ArtifactError if the header's metadata have no format, or another one."""
    found = header.get("__metadata__")
    metadata = found if isinstance(found, dict) else {}
    version = metadata.get(kind.key)
    if version is None:
        other = next((one.name for one in (ARTIFACT, PATCH) if one.key in metadata), None)
        what = "a safetensors file" if other is None else f"a saec {other}"
        raise ArtifactError(f"this is {what}, but no saec {kind.name}")
    if version != str(kind.format):
        raise ArtifactError(
            f"this has format {shortly(version)}; this saec reads format {kind.format}"
        )


def _tensors(
    mapped: NDArray[np.uint8], header: dict[str, Any], kind: FileKind
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The bytes of the two tensors, after a check that the file's header fits these sizes."""
    sizes = [_length(header.get(name)) for name in (DATA, DESCRIPTION)]
    held, said = len(mapped), HEADER_BYTES + sum(sizes)
    if held != said:
        raise ArtifactError(
            f"it is no saec {kind.name} or is damaged: it has {held} bytes, and its header says "
            f"{said}"
        )
    if mapped[:HEADER_BYTES].tobytes() != file_header(kind, *sizes):
        raise ArtifactError(f"its header is not byte for byte that of {kind.one}")
    data, description = np.split(mapped[HEADER_BYTES:], sizes[:1])
    return data, description


def _length(tensor: object) -> int:
    """The number of bytes of a tensor in a header."""
    shape = tensor.get("shape") if isinstance(tensor, dict) else None
    length = shape[0] if isinstance(shape, list) and len(shape) == 1 else None
    if type(length) is not int or not 0 <= length <= _MOST_FILE_BYTES:
        raise ArtifactError(f"its header says {shortly(tensor)} of a tensor, not its bytes")
    return length


def _described(description: NDArray[np.uint8], kind: FileKind) -> tuple[bytes, list[Record]]:
    """The bytes before the records, and the records of the fields."""
    if len(description) > MOST_BYTES:
        size = len(description)
        raise ArtifactError(f"its description takes {size} bytes; at most {MOST_BYTES} are read")
    reader = ByteReader(description.tobytes())
    records: list[Record] = []
    try:
        head = reader.take(kind.head_bytes)
        while reader.left:
            if len(records) == MOST_FIELDS:
                raise ArtifactError(f"it has over {MOST_FIELDS} fields")
            records.append(read_record(reader))
    except ArtifactError as error:
        raise ArtifactError(f"its description is damaged: {error}") from error
    if not records:
        raise ArtifactError(f"it has 0 fields; {kind.one} has 1 to {MOST_FIELDS}")
    return head, records


class _Parts:
    """The file's own data, from which the fields take their tensors in order.

    Raises:
        ArtifactError: the tensors take more or fewer bytes than there are.
    """

    def __init__(self, data: NDArray[np.uint8], records: Sequence[Record]) -> None:
        sizes = Counter[int]()
        for record in records:
            for place in record.places:
                sizes[place.dtype.itemsize] += place.inside_bytes
        if sizes.total() != len(data):
            raise ArtifactError(
                f"its fields' tensors take {sizes.total()} bytes, and it holds {len(data)}"
            )
        self._data = data
        self._next: dict[int, int] = {}  # where the next tensor of items of this width starts
        start = 0
        for width in sorted(sizes, reverse=True):
            self._next[width] = start
            start += sizes[width]

    def take(self, place: Place) -> tuple[NDArray[Any], int]:
        """The next tensor of items of this width, and its first byte in the file."""
        width = place.dtype.itemsize
        start = self._next[width]
        self._next[width] += place.inside_bytes
        items = self._data[start : start + place.inside_bytes].view(place.dtype)
        try:
            return items.reshape(place.shape), HEADER_BYTES + start
        except (ValueError, OverflowError) as error:  # a tensor without items may have any lengths
            raise ArtifactError(f"{place.role!r} cannot have shape {place.shape}") from error


def _entry(record: Record, parts: _Parts, file: Path) -> Entry:
    """The entry of a record, with its tensors."""
    tensors: dict[str, NDArray[Any]] = {}
    ranges: dict[str, tuple[FileRange, ...]] = {}
    try:
        for place in record.places:
            if place.shards is None:
                tensors[place.role], first = parts.take(place)
                ranges[place.role] = (FileRange(file, first, place.inside_bytes),)
            else:
                directory = _directory(file, place.shards)
                tensors[place.role] = map_shards(directory, place.shards)
                ranges[place.role] = tuple(_ranges(directory, place.shards))
    except ArtifactError as error:
        raise ArtifactError(f"field {shortly(record.name)}: {error}") from error
    return record.entry(tensors, ranges)


def _ranges(directory: Path, tensor: ShardedTensor) -> Iterator[FileRange]:
    for name, shard in zip(tensor.files, tensor.shards, strict=True):
        yield FileRange(directory / name, GRAIN, shard.nbytes)


def _directory(file: Path, tensor: ShardedTensor) -> Path:
    """The folder of ``file``; if that is a link, and its folder has no shards, that of its
    target."""
    linked = file.is_symlink() and not os.path.lexists(file.with_name(tensor.files[0]))
    return file.resolve().parent if linked else file.parent


def _check_once(entries: Iterable[Entry]) -> None:
    """Raise ArtifactError if a shard is part of two tensors, or twice of one."""
    tensors = [tensor for entry in entries for tensor in entry.sharded.values()]
    for name, count in Counter(name for tensor in tensors for name in tensor.files).items():
        if count > 1:
            raise ArtifactError(f"shard {name!r} is named {count} times")
