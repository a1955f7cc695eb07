"""The file that holds compressed tables: safetensors, with their description as one more tensor.

The format is described in docs/format.md. This module knows the container only: facts, and entries
with a description and named tensors. What they mean is checked in :mod:`saec.compressed`.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from reprlib import Repr
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from saec.errors import ArtifactError
from saec.files import whole_file

__all__ = [
    "FORMAT",
    "Entry",
    "entry_bytes",
    "file_bytes",
    "read",
    "shortly",
    "write",
]

FORMAT = 2

# Widest first, so that each tensor starts at a multiple of its item size.
_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}

_DESCRIPTION = "description"  # no field's tensor: those have a dot in their names
_MOST_BYTES = 64 << 20  # of the description, packed or not; some 300,000 fields
_SQUEEZED = 5  # how often a field's description is larger than its part of the packed one, about

_NO_FACTS: Mapping[str, Any] = MappingProxyType({})
_ALIGNMENT = 8  # of the first tensor
_MOST_LENGTHS = 2  # a shape has one or two

_SHORT = Repr()
_SHORT.maxdict, _SHORT.maxstring = 20, 100


def shortly(value: object) -> str:
    """``repr`` for what a file says, which may be long, or nested too deeply for ``repr``."""
    return _SHORT.repr(value)


@dataclass(frozen=True, eq=False)
class Entry:
    """One field: a JSON-able description and its tensors of one or two dimensions, by role."""

    description: Mapping[str, Any]
    tensors: Mapping[str, NDArray[Any]]


def file_bytes(
    entries: Sequence[Entry], facts: Mapping[str, Any] = _NO_FACTS, spare: int = 0
) -> int:
    """Size in bytes of the file that :func:`write` makes of ``entries`` and ``facts``.

    Args:
        entries: the fields.
        facts: about the file as a whole.
        spare: bytes by which the packed description may still grow.
    """
    joined = _joined(entries, facts)
    joined[_DESCRIPTION].append(np.broadcast_to(np.uint8(0), spare))
    return len(_header(joined)) + sum(part.nbytes for parts in joined.values() for part in parts)


def entry_bytes(entry: Entry) -> int:
    """Bytes of ``entry``'s tensors and, about, of its part of the packed description.

    What that part takes depends on the other fields: only :func:`file_bytes` is exact. Entries
    whose tensors are smaller and whose numbers are no longer are never said to take more.
    """
    tensors = sum(tensor.nbytes for tensor in entry.tensors.values())
    return tensors + len(_compact(_described(entry))) // _SQUEEZED


def write(
    path: str | os.PathLike[str], entries: Sequence[Entry], facts: Mapping[str, Any] = _NO_FACTS
) -> None:
    """Write ``entries``, whole or not at all: a sibling temporary file, fsynced, then renamed.

    Args:
        path: of the file.
        entries: the fields, in order.
        facts: about the file as a whole, JSON-able.

    Raises:
        ArtifactError: the file cannot be written; ``path`` is as it was.
    """
    joined = _joined(entries, facts)
    with whole_file(path, ArtifactError) as file:
        file.write(_header(joined))
        for parts in joined.values():
            for part in parts:
                file.write(np.ascontiguousarray(part).view(np.uint8).data)


def read(path: str | os.PathLike[str]) -> tuple[list[Entry], dict[str, Any]]:
    """Map the entries of a file and give its facts; only the header and description are read.

    Raises:
        ArtifactError: the file is missing, truncated, not safetensors, or no saec artifact of this
            format; says which.
    """
    file = Path(path)
    header = _checked_header(file)
    try:
        _check_version(header)
        mapped = _mapped(file, header)
        fields, facts = _description(mapped)
        joined = {name: _Joined(items) for name, items in mapped.items()}
        entries = [_entry(field, joined) for field in fields]
        for name, whole in joined.items():
            whole.check_end(name)
    except ArtifactError as error:
        raise ArtifactError(f"{file}: {error}") from error
    return entries, facts


def _joined(entries: Sequence[Entry], facts: Mapping[str, Any]) -> dict[str, list[NDArray[Any]]]:
    """The parts, in order, of each tensor of the file."""
    joined: dict[str, list[NDArray[Any]]] = {}
    for entry in entries:
        for role, tensor in entry.tensors.items():
            joined.setdefault(f"{role}.{_NAMES[tensor.dtype]}", []).append(tensor)
    ordered = sorted(joined, key=lambda name: (-joined[name][0].dtype.itemsize, name))
    return {name: joined[name] for name in ordered} | {_DESCRIPTION: [_packed(entries, facts)]}


def _packed(entries: Sequence[Entry], facts: Mapping[str, Any]) -> NDArray[np.uint8]:
    """The description of the fields and the file."""
    text = _compact({"facts": dict(facts), "fields": [_described(entry) for entry in entries]})
    if len(text) >= _MOST_BYTES:
        raise ArtifactError(f"{len(entries)} fields are too many, or their names too long")
    return np.frombuffer(zlib.compress(text.encode(), 9), np.uint8)


def _header(joined: Mapping[str, Sequence[NDArray[Any]]]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"saec": str(FORMAT)}}
    offset = 0
    for name, parts in joined.items():
        end = offset + sum(part.nbytes for part in parts)
        count = sum(part.size for part in parts)
        dtype = _NAMES[parts[0].dtype]
        header[name] = {"dtype": dtype, "shape": [count], "data_offsets": [offset, end]}
        offset = end
    text = _compact(header).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _described(entry: Entry) -> dict[str, Any]:
    """The description with its tensors' dtypes and shapes."""
    places = {role: [_NAMES[part.dtype], *part.shape] for role, part in entry.tensors.items()}
    return {**entry.description, "tensors": places}


def _compact(value: Mapping[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))


def _checked_header(file: Path) -> dict[str, Any]:
    """The header, after safetensors has checked that it and the tensors fit the file exactly."""
    try:
        with safe_open(file, framework="numpy") as opened:
            opened.keys()
        with file.open("rb") as raw:
            header: dict[str, Any] = json.loads(raw.read(int.from_bytes(raw.read(8), "little")))
    except FileNotFoundError as error:
        raise ArtifactError(f"{file}: no such file") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise ArtifactError(f"{file} is no saec artifact or is damaged: {error}") from error
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
    if _DESCRIPTION not in mapped:
        raise ArtifactError("it has no description")
    try:
        described = json.loads(_unpacked(mapped.pop(_DESCRIPTION)))
    except (zlib.error, ValueError, RecursionError) as error:
        raise ArtifactError(f"its description is damaged: {error!r}") from error
    if not isinstance(described, dict) or described.keys() != {"facts", "fields"}:
        raise ArtifactError("its description has other parts than facts and fields")
    fields, facts = described["fields"], described["facts"]
    if not isinstance(facts, dict):
        raise ArtifactError("its description states no facts")
    if not isinstance(fields, list) or not all(isinstance(field, dict) for field in fields):
        raise ArtifactError("its description names no fields")
    return fields, facts


def _unpacked(packed: NDArray[Any]) -> bytes:
    """One zlib stream of a bounded size; raises zlib.error or ValueError."""
    if len(packed) > _MOST_BYTES:
        raise ValueError(f"it takes {len(packed)} bytes; at most {_MOST_BYTES} are read")
    stream = zlib.decompressobj()
    text = stream.decompress(packed.tobytes(), _MOST_BYTES)
    if not stream.eof or stream.unused_data:
        raise ValueError(f"its bytes are not one zlib stream of up to {_MOST_BYTES} bytes")
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
        named = "U8" if name == _DESCRIPTION else name.rpartition(".")[2]
        if dtype not in _DTYPES or dtype != named or len(shape) != 1:
            raise ArtifactError(f"unexpected tensor {name!r} of dtype {dtype} and shape {shape}")
        first, last = (start + offset for offset in info["data_offsets"])
        items = mapped[first:last].view(_DTYPES[dtype])
        # A file by another writer may hold tensors at odd places; the native core wants them even.
        tensors[name] = np.require(items, requirements="A")
    return tensors


def _entry(field: dict[str, Any], joined: Mapping[str, _Joined]) -> Entry:
    """The entry of a field's description, with the next parts of the joined tensors."""
    places = field.pop("tensors", None)
    who = f"field {shortly(field.get('name', 'without a name'))}"
    if not isinstance(places, dict):
        raise ArtifactError(f"{who}: its description names no tensors")
    tensors = {}
    for role, place in places.items():
        if not _is_place(place):
            raise ArtifactError(f"{who}: {shortly(place)} is no dtype and shape of {role!r}")
        dtype, *shape = place
        if f"{role}.{dtype}" not in joined:
            raise ArtifactError(f"{who}: there is no tensor '{role}.{dtype}'")
        try:
            tensors[role] = joined[f"{role}.{dtype}"].take(shape)
        except (ValueError, OverflowError) as error:  # an empty tensor may have any lengths
            raise ArtifactError(f"{who}: {role!r} does not fit its tensor: {error}") from error
    return Entry(field, tensors)


def _is_place(place: object) -> bool:
    """Whether ``place`` is a list of a text and of one or two lengths."""
    return (
        isinstance(place, list)
        and 1 <= len(place) - 1 <= _MOST_LENGTHS
        and isinstance(place[0], str)
        and all(type(length) is int and length >= 0 for length in place[1:])  # True is no length
    )
