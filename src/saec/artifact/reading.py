"""Reading the file: everything that it says is checked before it is used."""

from __future__ import annotations

import json
import math
import os
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from saec.artifact.container import (
    DESCRIPTION,
    DTYPES,
    FORMAT,
    MOST_BYTES,
    MOST_FIELDS,
    MOST_HEADER_BYTES,
    shortly,
)
from saec.artifact.entry import Entry, Place, place_of
from saec.artifact.shards import ShardedTensor, map_shards
from saec.errors import ArtifactError
from saec.util.regular_file import check_header, mistaken_for

__all__ = ["read"]


def read(path: str | os.PathLike[str]) -> tuple[list[Entry], dict[str, Any]]:
    """Map the entries of a file and give its facts; only headers and the description are read.

    Tensors in shards are mapped like the others; an entry's ``sharded`` says which they are.

    Raises:
        ArtifactError: the file is missing, no regular file, truncated, not safetensors, or no saec
            artifact of this format, or a shard of it is missing or another's; says which.
    """
    file = Path(path)
    header = _checked_header(file)
    try:
        _check_version(header)
        mapped = _mapped(file, header)
        fields, facts = _description(mapped)
        joined = {name: _Joined(items) for name, items in mapped.items()}
        entries = [_entry(field, joined, file) for field in fields]
        for name, whole in joined.items():
            whole.check_end(name)
        _check_once(entries)
    except ArtifactError as error:
        raise ArtifactError(f"{file}: {error}") from error
    return entries, facts


def _checked_header(file: Path) -> dict[str, Any]:
    """The header, after safetensors has checked that it and the tensors fit the file exactly."""
    check_header(file, MOST_HEADER_BYTES, ArtifactError)
    try:
        with safe_open(file, framework="numpy") as opened:
            opened.keys()
        with file.open("rb") as raw:
            header: dict[str, Any] = json.loads(raw.read(int.from_bytes(raw.read(8), "little")))
    except (SafetensorError, OSError, ValueError) as error:
        said = f"{error}{mistaken_for(file)}"
        raise ArtifactError(f"{file} is no saec artifact or is damaged: {said}") from error
    return header


def _check_version(header: dict[str, Any]) -> None:
    """Take the metadata from ``header``; raise ArtifactError if they name no format or another."""
    version = (header.pop("__metadata__", None) or {}).get("saec")
    if version is None:
        raise ArtifactError("this is a safetensors file, but no saec artifact")
    if version != str(FORMAT):
        raise ArtifactError(f"this has format {shortly(version)}; this saec reads format {FORMAT}")


def _description(mapped: dict[str, NDArray[Any]]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What the file says of its fields, and its facts; takes the description from ``mapped``."""
    if DESCRIPTION not in mapped:
        raise ArtifactError("it has no description")
    try:
        described = json.loads(_unpacked(mapped.pop(DESCRIPTION)))
    except (zlib.error, ValueError, RecursionError) as error:
        raise ArtifactError(f"its description is damaged: {error!r}") from error
    if not isinstance(described, dict) or described.keys() != {"facts", "fields"}:
        raise ArtifactError("its description has other parts than facts and fields")
    fields, facts = described["fields"], described["facts"]
    if not isinstance(facts, dict):
        raise ArtifactError("its description states no facts")
    if not isinstance(fields, list) or not all(isinstance(field, dict) for field in fields):
        raise ArtifactError("its description names no fields")
    if not 0 < len(fields) <= MOST_FIELDS:
        raise ArtifactError(f"it has {len(fields)} fields; an artifact has 1 to {MOST_FIELDS}")
    return fields, facts


def _unpacked(packed: NDArray[Any]) -> bytes:
    """One zlib stream of a bounded size; raises zlib.error or ValueError."""
    if len(packed) > MOST_BYTES:
        raise ValueError(f"it takes {len(packed)} bytes; at most {MOST_BYTES} are read")
    stream = zlib.decompressobj()
    text = stream.decompress(packed.tobytes(), MOST_BYTES)
    if not stream.eof or stream.unused_data:
        raise ValueError(f"its bytes are not one zlib stream of up to {MOST_BYTES} bytes")
    return text


class _Joined:
    """A tensor of the file, from which the fields take their parts in order."""

    def __init__(self, items: NDArray[Any]) -> None:
        self._left = items
        self._taken = False

    def take(self, shape: Sequence[int]) -> NDArray[Any]:
        """The next part; raises ValueError or OverflowError if it cannot have that shape."""
        count = math.prod(shape)
        if count > len(self._left):
            raise ValueError(f"{len(self._left)} items are left for {shortly(shape)}")
        part, self._left = self._left[:count].reshape(shape), self._left[count:]
        self._taken = True
        return part

    def check_end(self, name: str) -> None:
        """Raise ArtifactError if there is anything that no field took."""
        if len(self._left) or not self._taken:
            raise ArtifactError(f"no field explains {len(self._left)} items of tensor {name!r}")


def _mapped(file: Path, header: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """The tensors of a checked header without its metadata, by name."""
    mapped = np.memmap(file, dtype=np.uint8, mode="r")
    start = 8 + int.from_bytes(mapped[:8].tobytes(), "little")
    tensors = {}
    for name, info in header.items():
        dtype, shape = info["dtype"], info["shape"]
        named = "U8" if name == DESCRIPTION else name.rpartition(".")[2]
        if dtype not in DTYPES or dtype != named or len(shape) != 1:
            raise ArtifactError(f"unexpected tensor {name!r} of dtype {dtype} and shape {shape}")
        first, last = (start + offset for offset in info["data_offsets"])
        items = mapped[first:last].view(DTYPES[dtype])
        # A file by another writer may hold tensors at odd places; the native core wants them even.
        tensors[name] = np.require(items, requirements="A")
    return tensors


def _entry(field: dict[str, Any], joined: Mapping[str, _Joined], file: Path) -> Entry:
    """The entry of a field's description, with the next parts of the joined tensors."""
    said = field.pop("tensors", None)
    who = f"field {shortly(field.get('name', 'without a name'))}"
    if not isinstance(said, dict):
        raise ArtifactError(f"{who}: its description names no tensors")
    tensors: dict[str, NDArray[Any]] = {}
    sharded: dict[str, ShardedTensor] = {}
    for role, words in said.items():
        place = place_of(words)
        if place is None:
            raise ArtifactError(f"{who}: {shortly(words)} is no dtype and shape of {role!r}")
        try:
            if place.shards is None:
                tensors[role] = _part(joined, role, place)
            else:
                sharded[role] = place.sharded()
                tensors[role] = map_shards(_directory(file, sharded[role]), sharded[role])
        except ArtifactError as error:
            raise ArtifactError(f"{who}: {error}") from error
    return Entry(field, tensors, sharded)


def _directory(file: Path, tensor: ShardedTensor) -> Path:
    """Beside ``file``; if that is a link to one, and there are none, beside what it links to."""
    linked = file.is_symlink() and not os.path.lexists(file.with_name(tensor.files[0]))
    return file.resolve().parent if linked else file.parent


def _part(joined: Mapping[str, _Joined], role: str, place: Place) -> NDArray[Any]:
    """The next part of a tensor of the file."""
    name = f"{role}.{place.dtype}"
    if name not in joined:
        raise ArtifactError(f"there is no tensor '{name}'")
    try:
        return joined[name].take(place.shape)
    except (ValueError, OverflowError) as error:  # an empty tensor may have any lengths
        raise ArtifactError(f"{role!r} does not fit its tensor: {error}") from error


def _check_once(entries: Iterable[Entry]) -> None:
    """Raise ArtifactError if a shard is part of two tensors, or twice of one."""
    tensors = [tensor for entry in entries for tensor in entry.sharded.values()]
    for name, count in Counter(name for tensor in tensors for name in tensor.files).items():
        if count > 1:
            raise ArtifactError(f"shard {name!r} is named {count} times")
