"""Requests and responses of gRPC: tensors as raw bytes, or as the numbers of typed contents."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saec.serve.grpc_messages import message
from saec.serve.protocol import (
    DTYPES,
    Answer,
    InferRequest,
    checked_dtype,
    checked_shape,
    datatype_of,
    from_raw,
    invalid,
    refuse_parameters,
    strings,
    to_raw,
)

__all__ = ["decode", "encode"]

_Response = message("ModelInferResponse")

# Typed contents hold narrow integers in wider ones; FP16 is possible as raw bytes only.
_CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def decode(said: Any) -> InferRequest:
    """Decode a ModelInferRequest.

    Raises:
        RefusedError: it does not follow the protocol.
    """
    raws = said.raw_input_contents
    if raws and len(raws) != len(said.inputs):
        raise invalid(f"{len(said.inputs)} inputs, but {len(raws)} raw contents")
    inputs: dict[str, NDArray[Any]] = {}
    for number, tensor in enumerate(said.inputs):
        if tensor.name in inputs:
            raise invalid(f"input {tensor.name!r} is given twice")
        inputs[tensor.name] = _input(tensor, raws[number] if raws else None)
    outputs: dict[str, None] = {}
    for output in said.outputs:
        refuse_parameters(output.parameters, f"output {output.name!r}")
        if output.name in outputs:
            raise invalid(f"output {output.name!r} is asked for twice")
        outputs[output.name] = None
    return InferRequest(inputs, list(outputs), _parameters(said.parameters), said.id)


def encode(answer: Answer, raw: bool) -> Any:
    """A ModelInferResponse, with typed contents unless ``raw`` or an output has none."""
    response = _Response(
        model_name=answer.model_name, model_version=answer.model_version, id=answer.id
    )
    raw = raw or any(datatype_of(values) not in _CONTENTS for values in answer.outputs.values())
    for name, values in answer.outputs.items():
        datatype = datatype_of(values)
        tensor = response.outputs.add(name=name, datatype=datatype, shape=values.shape)
        if raw:
            response.raw_output_contents.append(to_raw(values))
        else:
            getattr(tensor.contents, _CONTENTS[datatype]).extend(values.reshape(-1).tolist())
    return response


def _input(tensor: Any, raw: bytes | None) -> NDArray[Any]:
    name = tensor.name
    refuse_parameters(tensor.parameters, f"input {name!r}")
    dtype = checked_dtype(name, tensor.datatype)
    shape = checked_shape(name, list(tensor.shape))
    if raw is None:
        return _typed(name, dtype, shape, tensor)
    if tensor.HasField("contents"):
        raise invalid(f"input {name!r} has contents and raw contents")
    return from_raw(name, dtype, shape, raw)


def _typed(name: str, dtype: np.dtype[Any], shape: tuple[int, ...], tensor: Any) -> NDArray[Any]:
    if tensor.datatype not in _CONTENTS:
        raise invalid(f"input {name!r}: {tensor.datatype} has no typed contents: send raw ones")
    wanted = _CONTENTS[tensor.datatype]
    odd = [held.name for held, _ in tensor.contents.ListFields() if held.name != wanted]
    if odd:
        raise invalid(f"input {name!r}: {tensor.datatype} stands in {wanted}, not in {odd[0]}")
    items = getattr(tensor.contents, wanted)
    if len(items) != math.prod(shape):
        raise invalid(
            f"input {name!r}: {len(items)} values, but shape {list(shape)} takes {math.prod(shape)}"
        )
    try:
        flat = strings(name, len(items), items) if dtype.hasobject else np.array(items, dtype)
        return flat.reshape(shape)
    except (OverflowError, ValueError) as error:  # too wide, or lengths beside a 0
        raise invalid(f"input {name!r}: {error}") from error


def _parameters(said: Mapping[str, Any]) -> dict[str, Any]:
    values = {}
    for name, parameter in said.items():
        choice = parameter.WhichOneof("parameter_choice")
        values[name] = None if choice is None else getattr(parameter, choice)
    return values


assert set(DTYPES) == {*_CONTENTS, "FP16"}
