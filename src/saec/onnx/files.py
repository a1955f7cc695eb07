"""ONNX models on disk: one file, or with their tensors in a second one if that would be too big."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto, TensorProto, helper
from onnx.external_data_helper import load_external_data_for_tensor

from saec.errors import OnnxError
from saec.files import whole_file
from saec.sources.onnx_graph import scopes_of

__all__ = ["save"]

# Bytes of tensors. A protobuf message ends at 2 GiB; what is no tensor gets the rest.
_LARGEST_MESSAGE = (1 << 31) - (1 << 26)
_SMALLEST_OUTSIDE = 1024  # bytes; smaller tensors stay, shape inference wants their values
_ALIGNED = 4096  # so that a runtime can map tensors


def save(model: ModelProto, source: Path, out: Path) -> None:
    """Write a model, whole or not at all; tensors that lie next to ``source`` move along.

    Over 2 GiB, tensors go to ``OUT.data`` beside it, written first.

    Raises:
        OnnxError: a tensor of ``source`` is missing, or a file cannot be written.
    """
    tensors = list(_tensors(model))
    # Not of the model as a whole: protobuf cannot tell sizes beyond its limit.
    if sum(tensor.ByteSize() + _bytes_outside(tensor) for tensor in tensors) > _LARGEST_MESSAGE:
        _move_out(tensors, source, out)
    else:
        for tensor in tensors:
            _move_in(tensor, source)
    with whole_file(out, OnnxError) as stream:
        stream.write(model.SerializeToString())


def _tensors(model: ModelProto) -> Iterator[Any]:
    for scope in scopes_of(model.graph):
        yield from scope.graph.initializer
        for node in scope.graph.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t


def _bytes_outside(tensor: TensorProto) -> int:
    if tensor.data_location != TensorProto.EXTERNAL:
        return 0
    item = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return int(math.prod(tensor.dims) * item)


def _move_in(tensor: TensorProto, source: Path) -> None:
    if tensor.data_location != TensorProto.EXTERNAL:
        return
    try:
        load_external_data_for_tensor(tensor, str(source.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise OnnxError(f"{source}: {tensor.name}: {error}") from error
    tensor.data_location = TensorProto.DEFAULT
    del tensor.external_data[:]


def _move_out(tensors: list[Any], source: Path, out: Path) -> None:
    beside = out.with_name(out.name + ".data")
    with whole_file(beside, OnnxError) as stream:
        for tensor in tensors:
            _move_in(tensor, source)
            if len(tensor.raw_data) < _SMALLEST_OUTSIDE:
                continue
            stream.seek(-stream.tell() % _ALIGNED, os.SEEK_CUR)
            said = {
                "location": beside.name,
                "offset": stream.tell(),
                "length": len(tensor.raw_data),
            }
            stream.write(tensor.raw_data)
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in said.items():
                tensor.external_data.add(key=key, value=str(value))
