"""The file that holds compressed tables: safetensors with one JSON string in its metadata.

The format is described in docs/format.md. This module knows the container only: entries with a
description and named tensors. What they mean is checked in :mod:`saec.compressed`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from saec.errors import ArtifactError
from saec.files import whole_file

__all__ = ["FORMAT", "Entry", "entry_bytes", "file_bytes", "read", "write"]

FORMAT = 1

# Widest first, so that each tensor starts at a multiple of its item size.
_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


# What a file takes before its first field, and a bound on what the number of a field and the place
# of a tensor may take on top of those of a file's first.
EMPTY_BYTES = 64
_INDEX_BYTES = 5
_FAR = 10**12


@dataclass(frozen=True, eq=False)
class Entry:
    """One field: a JSON-able description and its tensors by role."""

    description: Mapping[str, Any]
    tensors: Mapping[str, NDArray[Any]]


def file_bytes(entries: Sequence[Entry]) -> int:
    """Size in bytes of the file that :func:`write` makes of ``entries``."""
    ordered = _ordered(entries)
    return len(_header(entries, ordered)) + sum(tensor.nbytes for _, tensor in ordered)


def entry_bytes(entry: Entry) -> int:
    """Bytes that ``entry`` adds to a file at most, its part of the header included.

    A field's part of the header is its description and its tensors' places; the places are counted
    with as many digits as any file could need.
    """
    alone = _header([entry], _ordered([entry]), _FAR)
    tensors = sum(tensor.nbytes for tensor in entry.tensors.values())
    return len(alone) - EMPTY_BYTES + tensors + _INDEX_BYTES * len(entry.tensors)


def write(path: str | os.PathLike[str], entries: Sequence[Entry]) -> None:
    """Write ``entries``, whole or not at all: a sibling temporary file, fsynced, then renamed.

    Raises:
        ArtifactError: the file cannot be written; ``path`` is as it was.
    """
    ordered = _ordered(entries)
    with whole_file(path, ArtifactError) as file:
        file.write(_header(entries, ordered))
        for _, tensor in ordered:
            file.write(np.ascontiguousarray(tensor).view(np.uint8).data)


def read(path: str | os.PathLike[str]) -> list[Entry]:
    """Map the entries of a file; nothing but the header is read.

    Raises:
        ArtifactError: the file is missing, truncated, not safetensors, or no saec artifact of this
            format; says which.
    """
    file = Path(path)
    header = _checked_header(file)
    described = _description(file, header)
    mapped = np.memmap(file, dtype=np.uint8, mode="r")
    start = 8 + int.from_bytes(mapped[:8].tobytes(), "little")
    entries = [Entry(description, {}) for description in described]
    tensors: dict[str, Any] = {str(place): entry.tensors for place, entry in enumerate(entries)}
    for key, info in header.items():
        index, _, role = key.partition(".")
        if index not in tensors or info["dtype"] not in _DTYPES:
            raise ArtifactError(f"{file}: unexpected tensor {key!r} of dtype {info['dtype']}")
        first, last = (start + offset for offset in info["data_offsets"])
        try:
            tensor = mapped[first:last].view(_DTYPES[info["dtype"]]).reshape(info["shape"])
        except (ValueError, OverflowError) as error:  # an empty tensor may have any lengths
            raise ArtifactError(f"{file}: tensor {key!r} is damaged: {error}") from error
        # A file by another writer may hold tensors at odd places; the native core wants them even.
        tensors[index][role] = np.require(tensor, requirements="A")
    return entries


def _ordered(entries: Sequence[Entry]) -> list[tuple[str, NDArray[Any]]]:
    named = [
        (f"{index}.{role}", tensor)
        for index, entry in enumerate(entries)
        for role, tensor in entry.tensors.items()
    ]
    return sorted(named, key=lambda item: -item[1].dtype.itemsize)


def _header(
    entries: Sequence[Entry], ordered: Sequence[tuple[str, NDArray[Any]]], offset: int = 0
) -> bytes:
    described = {"format": FORMAT, "fields": [dict(entry.description) for entry in entries]}
    header: dict[str, Any] = {
        "__metadata__": {"saec": json.dumps(described, separators=(",", ":"))}
    }
    for key, tensor in ordered:
        header[key] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        offset += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data starts at a multiple of eight
    return len(text).to_bytes(8, "little") + text


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


def _description(file: Path, header: dict[str, Any]) -> list[dict[str, Any]]:
    text = (header.pop("__metadata__", None) or {}).get("saec")
    if text is None:
        raise ArtifactError(f"{file} is a safetensors file, but no saec artifact")
    try:
        described = json.loads(text)
        version, fields = described["format"], described["fields"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(f"{file}: its description is damaged: {error!r}") from error
    if version != FORMAT:
        raise ArtifactError(f"{file} has format {version}; this saec reads format {FORMAT}")
    if not isinstance(fields, list) or not all(isinstance(field, dict) for field in fields):
        raise ArtifactError(f"{file}: its description names no fields")
    return fields
