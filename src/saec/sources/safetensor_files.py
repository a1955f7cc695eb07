"""safetensors files, and Hugging Face's indices over several of them."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from saec.errors import CheckpointError
from saec.sources.source import Arrays
from saec.streaming.rows import FileRows
from saec.util.messages import first_line, listed
from saec.util.regular_file import check_header, check_regular, mistaken_for, read_regular

__all__ = ["INDEX", "MOST_HEADER_BYTES", "MOST_INDEX_BYTES", "read_index", "read_safetensors"]

INDEX = ".safetensors.index.json"
MOST_INDEX_BYTES = 16 << 20
MOST_HEADER_BYTES = 16 << 20

# The format's dtype names, apart from those narrower than a byte.
_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


def read_safetensors(path: Path) -> Arrays:
    """All tensors of a file, read in place.

    Raises:
        CheckpointError: it is not a safetensors file, or truncated.
    """
    check_header(path, MOST_HEADER_BYTES, CheckpointError)
    try:
        # Checks the whole header against the file's size. Its own numpy arrays would be copies, and
        # it has none for bfloat16.
        with safe_open(path, framework="np"):
            pass
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header: dict[str, dict[str, Any]] = json.loads(stream.read(length))
    except (SafetensorError, OSError, ValueError) as error:
        said = f"{first_line(error)}{mistaken_for(path)}"
        raise CheckpointError(f"{path}: not a safetensors file, or truncated: {said}") from error
    header.pop("__metadata__", None)
    where = path.absolute()
    return {
        name: FileRows(
            where,
            8 + length + entry["data_offsets"][0],
            entry["shape"] or [1],
            _DTYPES[entry["dtype"]],
        )
        for name, entry in header.items()
        if entry["dtype"] in _DTYPES
    }


def read_index(path: Path) -> Arrays:
    """The tensors of an index ``{"weight_map": {tensor: file}}``, from files beside it.

    Raises:
        CheckpointError: it is not such an index, a file is missing or damaged, or lacks a tensor.
    """
    places = _weight_map(path)
    files = {name: read_safetensors(_sibling(path, name)) for name in sorted(set(places.values()))}
    lost = [f"{name} ({file})" for name, file in places.items() if name not in files[file]]
    if lost:
        raise CheckpointError(f"{path}: not in the files that it names: {listed(lost)}")
    return {name: files[file][name] for name, file in places.items()}


def _weight_map(path: Path) -> dict[str, str]:
    try:
        index: Any = json.loads(read_regular(path, MOST_INDEX_BYTES, CheckpointError))
        places = dict(index["weight_map"])
    except CheckpointError:
        raise
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        said = f"{first_line(error)}{mistaken_for(path)}"
        raise CheckpointError(f"{path}: not an index: {said}") from error
    if not all(isinstance(place, str) for place in places.values()):
        raise CheckpointError(f"{path}: not an index: weight_map must give a file for each tensor")
    return places


def _sibling(index: Path, name: str) -> Path:
    """A file of the index's folder; an untrusted index must not refer to files outside of it."""
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise CheckpointError(f"{index}: names {name!r}, a file outside its folder")
    path = index.parent / name
    try:
        check_regular(path, CheckpointError)
    except CheckpointError as error:
        raise CheckpointError(f"{index}: names {name!r}; {error}") from error
    return path
