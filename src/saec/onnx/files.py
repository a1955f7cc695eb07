"""Writes ONNX models to disk: one file, and a second one for tensors if it would be too large."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from onnx import ModelProto, TensorProto, helper

from saec.errors import OnnxError
from saec.sources.onnx_files import external_bytes
from saec.sources.onnx_graph import scopes_of
from saec.streaming.rows import FileRows
from saec.util.atomic_file import checked_target, whole_file

__all__ = ["save"]

# The most bytes of tensors in one file: a protobuf message is limited to 2 GiB, and 64 MiB are for
# everything else.
_LARGEST_MESSAGE = (1 << 31) - (1 << 26)
_SMALLEST_OUTSIDE = 1024  # bytes; smaller tensors stay, since shape inference needs their values
_ALIGNED = 4096  # bytes, so that a runtime can map tensors
_COPIED = 1 << 24  # bytes that are copied at once


def save(model: ModelProto, source: Path, out: Path) -> None:
    """Write a model atomically, with the external tensors that lie beside ``source``.

    If the file would exceed 2 GiB, tensors are first written to ``OUT.data`` beside it, in parts.

    Raises:
        CheckpointError: a tensor of ``source`` is missing or damaged.
        OnnxError: a file cannot be written.
    """
    out = checked_target(out, OnnxError)
    tensors = list(_tensors(model))
    elsewhere = {id(tensor): _outside(tensor, source) for tensor in tensors if _is_outside(tensor)}
    # Summed over tensors, since protobuf cannot compute sizes of models beyond its limit.
    inside = sum(tensor.ByteSize() for tensor in tensors)
    if inside + sum(len(rows) for rows in elsewhere.values()) > _LARGEST_MESSAGE:
        _move_out(tensors, elsewhere, out)
    else:
        for tensor in tensors:
            if id(tensor) in elsewhere:
                _move_in(tensor, elsewhere[id(tensor)])
    with whole_file(out, OnnxError) as stream:
        stream.write(model.SerializeToString())


def _tensors(model: ModelProto) -> Iterator[Any]:
    for scope in scopes_of(model.graph):
        yield from scope.graph.initializer
        for node in scope.graph.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t


def _is_outside(tensor: Any) -> bool:
    outside: bool = tensor.data_location == TensorProto.EXTERNAL
    return outside


def _outside(tensor: Any, source: Path) -> FileRows:
    """The bytes of an external tensor of the model ``source``."""
    # Tensors of 4-bit numbers take half of this; their models state the length.
    size = math.prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return external_bytes(source, tensor, size)


def _move_in(tensor: Any, content: FileRows) -> None:
    tensor.raw_data = content.read(0, len(content)).tobytes()
    tensor.data_location = TensorProto.DEFAULT
    del tensor.external_data[:]


def _move_out(tensors: list[Any], elsewhere: dict[int, FileRows], out: Path) -> None:
    beside = out.with_name(out.name + ".data")
    with whole_file(beside, OnnxError) as stream:
        for tensor in tensors:
            content = elsewhere.get(id(tensor))
            size = len(tensor.raw_data) if content is None else len(content)
            if content is None and size < _SMALLEST_OUTSIDE:
                continue
            start = stream.seek(-stream.tell() % _ALIGNED, os.SEEK_CUR)
            if content is None:
                stream.write(tensor.raw_data)
            else:
                _copy(content, stream)
            _point_to(tensor, beside.name, start, size)


def _copy(content: FileRows, stream: BinaryIO) -> None:
    """Copy in parts, since a table may be larger than memory."""
    for start in range(0, len(content), _COPIED):
        stream.write(content.read(start, start + _COPIED).data)


def _point_to(tensor: Any, file: str, offset: int, length: int) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in {"location": file, "offset": offset, "length": length}.items():
        tensor.external_data.add(key=key, value=str(value))
