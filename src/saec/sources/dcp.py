"""Folders of ``torch.distributed.checkpoint``, read without the model and without PyTorch.

The folder's ``.metadata``, a pickle, lists the file and place of each chunk of each tensor;
each chunk is a separate archive in the format of ``torch.save``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

from saec.errors import CheckpointError
from saec.sources.archive import DAMAGED
from saec.sources.beside import BesideRows
from saec.sources.pickles import MOST_PICKLE_BYTES, StandIn, unpickled
from saec.sources.source import Arrays, name_unread
from saec.sources.torch_archive import MOST_DIMS, read_archive, tensor, why_unread
from saec.sources.torch_files import STATE_DICT_KEYS
from saec.streaming.rows import JoinedRows, Rows
from saec.util.messages import first_line
from saec.util.regular_file import read_regular

__all__ = ["METADATA", "read_dcp"]

METADATA = ".metadata"

_CLASSES = "torch.distributed.checkpoint.metadata."

_MOST_KEYS = 64  # depth of a tensor in nested dictionaries
_DIRECTORY_BYTES = 1 << 16  # of a chunk's archive, which contains one tensor

Numbers = tuple[int, ...]


@dataclass(frozen=True)
class _StoredChunk:
    """The place of a piece in its tensor, and its bytes in a file."""

    offsets: Numbers
    sizes: Numbers
    file: str
    first: int
    length: int


def read_dcp(folder: Path) -> Arrays:
    """The tensors of one or two dimensions, assembled from their chunks.

    Names are those of the state_dict, or of the one under ``"state_dict"``, ``"model_state_dict"``
    or ``"model"`` if all tensors are in inner dictionaries.

    Raises:
        CheckpointError: the metadata cannot be read, a file is missing or damaged, or the chunks of
            a tensor do not cover it.
    """
    try:
        tensors, paths = _listed(folder / METADATA)
    except CheckpointError:
        raise
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{folder / METADATA}: damaged: {first_line(error)}") from error
    names = _names(tensors, paths)
    read = {
        name: _put_together(folder, tensor_name, *tensors[tensor_name])
        for tensor_name, name in names.items()
    }
    arrays = {name: rows for name, rows in read.items() if isinstance(rows, Rows)}
    unread = {name: reason for name, reason in read.items() if isinstance(reason, str)}
    name_unread(folder, unread, others=bool(arrays))
    return arrays


def _listed(path: Path) -> tuple[dict[str, tuple[Numbers, list[_StoredChunk]]], Mapping[str, Any]]:
    """Shape and chunks of each tensor, and the path of each in the saved dictionaries."""
    metadata = unpickled(read_regular(path, MOST_PICKLE_BYTES, CheckpointError))
    if not isinstance(metadata, StandIn) or metadata.kind != f"{_CLASSES}Metadata":
        raise CheckpointError(f"{path}: not the metadata of a distributed checkpoint")
    stored = {
        (_text(index.get("fqn")), _numbers(index.get("offset"))): _object(place)
        for index, place in _mapping(metadata, "storage_data").items()
        if _object(index).get("offset") is not None
    }
    tensors = {}
    left = len(stored)  # chunks that may still follow: none is read repeatedly
    for name, entry in _mapping(metadata, "state_dict_metadata").items():
        if isinstance(entry, StandIn) and entry.kind == f"{_CLASSES}TensorStorageMetadata":
            shape = _numbers(entry.get("size"))
            if len(shape) in (1, 2) and 0 not in shape:
                given = entry.get("chunks")
                if not isinstance(given, list):
                    raise ValueError(f"the chunks of {_text(name)} are no list")
                left -= len(given)
                if left < 0:
                    raise ValueError("more chunks than are stored")
                chunks = [_chunk(_text(name), _object(chunk), stored) for chunk in given]
                if any({len(c.offsets), len(c.sizes)} != {len(shape)} for c in chunks):
                    raise ValueError(f"chunks of {name} have other dimensions than it")
                tensors[_text(name)] = shape, chunks
    paths = metadata.get("planner_data") or {}
    if not isinstance(paths, Mapping):
        raise ValueError("the tensors' paths are no mapping")
    return tensors, paths


def _object(value: object) -> StandIn:
    if not isinstance(value, StandIn):
        raise ValueError(f"a {type(value).__name__} where an object is due")
    return value


def _mapping(metadata: StandIn, name: str) -> Mapping[Any, Any]:
    found = metadata.get(name)
    if not isinstance(found, Mapping):
        raise ValueError(f"{name} is no mapping")
    return found


def _chunk(name: str, chunk: StandIn, stored: Mapping[Any, StandIn]) -> _StoredChunk:
    offsets = _numbers(chunk.get("offsets"))
    place = stored.get((name, offsets))
    if place is None:
        raise ValueError(f"a chunk of {name} is not stored")
    extensions = place.get("transform_descriptors")
    if extensions:
        names = extensions if isinstance(extensions, list | tuple) else [extensions]
        raise CheckpointError(
            f"{name} is stored by extensions ({', '.join(map(str, names))}); "
            "save the checkpoint without them"
        )
    file, first, length = (place.get(key) for key in ("relative_path", "offset", "length"))
    if type(first) is not int or type(length) is not int or min(first, length) < 0:
        raise ValueError(f"{name} lies at no place of its file")
    if not isinstance(file, str):
        raise ValueError(f"{name} lies in a file whose name is no text")
    if PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts:
        raise CheckpointError(f"{name} lies in {file!r}, a file outside its folder")
    return _StoredChunk(offsets, _numbers(chunk.get("sizes")), file, first, length)


def _numbers(size: Any) -> Numbers:
    """A torch.Size, or a tuple."""
    given: Any = size.given[0] if isinstance(size, StandIn) and size.given else size
    if not isinstance(given, tuple | list) or len(given) > MOST_DIMS:
        raise ValueError("a shape that is no list of lengths")
    if not all(type(number) is int and number >= 0 for number in given):
        raise ValueError("a shape of other things than whole numbers")
    return tuple(given)


def _text(name: Any) -> str:
    if not isinstance(name, str):
        raise ValueError("a tensor whose name is no text")
    return name


def _names(tensors: Mapping[str, object], paths: Mapping[str, Any]) -> dict[str, str]:
    """Tensors to read, and their names in the state_dict."""
    inner = {name: _path(name, paths.get(name, (name,))) for name in tensors}
    if all(len(path) > 1 for path in inner.values()):
        for key in STATE_DICT_KEYS:
            found = {n: ".".join(path[1:]) for n, path in inner.items() if path[0] == key}
            if found:
                return found
    return {name: name for name in tensors}


def _path(name: str, keys: Any) -> tuple[str, ...]:
    """The keys that lead to a saved tensor; its name if these are not plain keys."""
    plain = isinstance(keys, tuple | list) and len(keys) <= _MOST_KEYS
    right = plain and all(isinstance(key, str | int) for key in keys)
    return tuple(map(str, keys)) if right else (name,)


def _put_together(
    folder: Path, name: str, shape: Numbers, chunks: list[_StoredChunk]
) -> Rows | str:
    """Chunks below each other, each of which consists of chunks side by side; or what the tensor
    is, if it cannot be read."""
    bands: list[Rows] = []
    at = 0
    chunks = sorted(chunks, key=lambda chunk: chunk.offsets)
    for first, group in groupby(chunks, key=lambda chunk: chunk.offsets[0]):
        band = list(group)
        _check_columns(folder, name, shape, band)
        if first != at:
            raise CheckpointError(f"{folder}: the chunks of {name} leave or repeat row {at}")
        at += band[0].sizes[0]
        rows = []
        for chunk in band:
            found = _rows(folder, name, chunk)
            if isinstance(found, str):
                return found
            rows.append(found)
        bands.append(rows[0] if len(rows) == 1 else BesideRows(rows))
    if at != shape[0]:
        raise CheckpointError(f"{folder}: the chunks of {name} end at row {at} of {shape[0]}")
    return bands[0] if len(bands) == 1 else JoinedRows(bands)


def _check_columns(folder: Path, name: str, shape: Numbers, band: Sequence[_StoredChunk]) -> None:
    """Check that chunks that begin at one row are equally long and side by side."""
    rows = {chunk.sizes[0] for chunk in band}
    ends = [(*chunk.offsets[1:], 0)[0] + (*chunk.sizes[1:], 1)[0] for chunk in band]
    begins = [(*chunk.offsets[1:], 0)[0] for chunk in band]
    whole = begins[0] == 0 and ends[-1] == (*shape[1:], 1)[0]
    if len(rows) > 1 or not whole or begins[1:] != ends[:-1]:
        raise CheckpointError(
            f"{folder}: the chunks of {name} from row {band[0].offsets[0]} on do not lie side by "
            "side; load and save it with shards of whole rows or whole columns"
        )


def _rows(folder: Path, name: str, chunk: _StoredChunk) -> Rows | str:
    path = folder / chunk.file
    try:
        saved = read_archive(path, chunk.first, chunk.length, _DIRECTORY_BYTES)
        found = tensor(saved)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {name} lies in it") from error
    except DAMAGED as error:
        raise CheckpointError(
            f"{path}: {name} at byte {chunk.first} is damaged: {first_line(error)}"
        ) from error
    if found is None:
        return why_unread(saved) or "no tensor"
    if found.shape != chunk.sizes:
        raise CheckpointError(f"{path}: {name} is {found.shape} there, not {chunk.sizes}")
    return found
