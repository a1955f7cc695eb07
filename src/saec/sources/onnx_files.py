"""Embedding tables of ONNX models, external data included."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import ml_dtypes
import numpy as np

from saec.errors import CheckpointError, require
from saec.sources.onnx_functions import inlined
from saec.sources.onnx_graph import TableUse, embedding_tables, quantised_tables, scopes_of
from saec.sources.source import Arrays
from saec.streaming.rows import ArrayRows, FileRows, Rows
from saec.util.messages import first_line, listed
from saec.util.regular_file import check_regular, mistaken_for, read_regular

__all__ = [
    "MOST_MODEL_BYTES",
    "external_bytes",
    "find_tables",
    "open_model",
    "read_onnx",
    "tensor_rows",
]

logger = logging.getLogger(__name__)

_DTYPES = {1: np.float32, 10: np.float16, 11: np.float64, 16: ml_dtypes.bfloat16}
MOST_MODEL_BYTES = 1 << 31  # limit of protobuf

_EXTERNAL = 1  # of TensorProto.DataLocation


def open_model(path: Path) -> Any:
    """Parse a model without its external data. Its local functions are inlined.

    Raises:
        CheckpointError: it cannot be read, or is not an ONNX model.
        OptionalDependencyError: onnx is not installed.
    """
    onnx = require("onnx", "onnx")
    require("google.protobuf.message", "onnx")
    from google.protobuf.message import DecodeError

    content = read_regular(path, MOST_MODEL_BYTES, CheckpointError)
    try:
        model = onnx.load_model_from_string(content)
    except (DecodeError, ValueError) as error:
        said = f"{first_line(error)}{mistaken_for(path)}"
        raise CheckpointError(f"{path}: not an ONNX model: {said}") from error
    if not model.HasField("graph") or not model.opset_import:
        said = f"it has no graph, or names no opset{mistaken_for(path)}"
        raise CheckpointError(f"{path}: not an ONNX model: {said}")
    model = inlined(path, model)
    if not all(isinstance(name, str) for name in _names(model.graph)):
        raise CheckpointError(f"{path}: a name in the graph is no text")  # protobuf gives its bytes
    return model


def find_tables(path: Path, model: Any) -> dict[str, TableUse]:
    """The embedding tables of the model at ``path``, by name.

    Quantised ones are not tables of floats: a warning names them.

    Raises:
        CheckpointError: there are only quantised ones.
    """
    found = embedding_tables(model.graph)
    quantised = quantised_tables(model.graph)
    if quantised:
        advice = "compress the model as it was before quantisation"
        said = f"{path}: quantised tables cannot be compressed ({listed(quantised)}); {advice}"
        if not found:
            raise CheckpointError(said)
        logger.warning(said)
    return found


def _names(graph: Any) -> Iterator[object]:
    for scope in scopes_of(graph):
        for node in scope.graph.node:
            yield from (*node.input, *node.output, node.name, node.op_type, node.domain)
            yield from (attribute.name for attribute in node.attribute)
        values = (scope.graph.initializer, scope.graph.input, scope.graph.output)
        yield from (value.name for some in values for value in some)


def read_onnx(path: Path) -> Arrays:
    """The tables of a model from which rows are gathered by ids, read in place.

    Other tensors are left out, because weights of layers also have two dimensions.

    Raises:
        CheckpointError: the model is damaged, or its external data are.
        OptionalDependencyError: onnx is not installed.
    """
    uses = find_tables(path, open_model(path))
    return {name: tensor_rows(path, use.tensor) for name, use in uses.items()}


def tensor_rows(path: Path, tensor: Any) -> Rows:
    """Rows of a tensor of floats of the model at ``path``.

    Raises:
        CheckpointError: it has fewer bytes than its shape requires, or is in a file outside the
            model's folder.
    """
    from onnx.numpy_helper import to_array

    shape, dtype = tuple(tensor.dims), np.dtype(_DTYPES[tensor.data_type])
    if tensor.data_location == _EXTERNAL:
        return _external(path, tensor, shape, dtype)
    try:
        array = to_array(tensor)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: {tensor.name}: {first_line(error)}") from error
    if array.shape != shape:
        raise CheckpointError(f"{path}: {tensor.name} has shape {array.shape}, not {shape}")
    return ArrayRows(array)


def external_bytes(path: Path, tensor: Any, nbytes: int) -> FileRows:
    """External data of a tensor of the model at ``path``: (n,) uint8.

    Args:
        path: of the model.
        tensor: with external data.
        nbytes: n, if the model does not contain it.

    Raises:
        CheckpointError: the file is outside the model's folder, or has fewer bytes.
    """
    said = {entry.key: entry.value for entry in tensor.external_data}
    name = said.get("location", "")
    if not isinstance(name, str):  # protobuf returns bytes if the content is not text
        raise CheckpointError(f"{path}: {tensor.name} lies in a file whose name is no text")
    file = path.parent / name
    if not name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise CheckpointError(f"{path}: {tensor.name} lies in {name!r}, outside the folder")
    try:
        held = check_regular(file, CheckpointError)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {tensor.name} lies elsewhere: {error}") from error
    try:
        offset, size = (int(said.get(key, at)) for key, at in (("offset", 0), ("length", nbytes)))
    except ValueError as error:
        raise CheckpointError(f"{path}: {tensor.name}: {error}") from error
    if min(offset, size) < 0 or offset + size > held:
        raise CheckpointError(
            f"{path}: {tensor.name} takes {size} bytes from byte {offset} on; {file} has {held}"
        )
    return FileRows(file.absolute(), offset, (size,), np.uint8)


def _external(path: Path, tensor: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> FileRows:
    nbytes = math.prod(shape) * dtype.itemsize
    content = external_bytes(path, tensor, nbytes)
    if len(content) < nbytes:
        raise CheckpointError(f"{path}: {tensor.name} takes {nbytes} bytes, not {len(content)}")
    return FileRows(content.path, content.offset, shape, dtype)
