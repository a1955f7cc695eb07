"""Bodies of REST requests and responses: JSON, with tensors in it or as bytes after it.

The extension for bytes is Triton's "binary tensor data": a header gives the length of the JSON, and
a parameter ``binary_data_size`` of each such tensor the length of its bytes, which follow in order.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from saec.serve.protocol import (
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

__all__ = ["RestRequest", "decode", "encode"]

_SIZE = "binary_data_size"
_PYTHON_TYPES: dict[str, set[type]] = {
    "b": {bool},
    "i": {int},
    "u": {int},
    "f": {int, float},
    "O": {str},
}
_JSON_BLOCK = 1 << 14  # values written at a time; other threads may run in between


@dataclass(frozen=True, eq=False)
class RestRequest:
    """A request, and the names of outputs to send as bytes."""

    request: InferRequest
    binary: Callable[[str], bool]


def decode(body: bytes | bytearray, json_bytes: int | None) -> RestRequest:
    """Parse a body whose first ``json_bytes`` bytes are JSON; None if all are.

    Raises:
        RefusedError: it does not follow the protocol.
    """
    if json_bytes is not None and json_bytes > len(body):
        raise invalid(f"the JSON takes {json_bytes} bytes of a body of {len(body)}")
    whole = memoryview(body)
    said = _object(_parsed(bytes(whole[:json_bytes])), "the body")
    parameters = _object(_member(said, "parameters", {}), "parameters")
    raw = whole[len(body) if json_bytes is None else json_bytes :]
    inputs = _inputs(said.get("inputs"), raw)
    outputs = _wanted(_member(said, "outputs", []))
    default = _flag(parameters, "binary_data_output", "the request")
    request = InferRequest(
        inputs,
        list(outputs),
        {name: value for name, value in parameters.items() if name != "binary_data_output"},
        _text(_member(said, "id", ""), "id"),
    )
    return RestRequest(request, lambda name: outputs.get(name, default))


def encode(answer: Answer, binary: Callable[[str], bool]) -> tuple[bytes, int | None]:
    """A body, and the length of its JSON part; None if all is JSON.

    Raises:
        RefusedError: an output has values that JSON cannot express.
    """
    raws: list[bytes] = []
    tensors = []
    for name, values in answer.outputs.items():
        head = {"name": name, "datatype": datatype_of(values), "shape": list(values.shape)}
        if binary(name):
            raws.append(to_raw(values))
            tensors.append(_compact({**head, "parameters": {_SIZE: len(raws[-1])}}))
        else:
            tensors.append(f'{_compact(head)[:-1]},"data":[{_listed(name, values)}]}}')
    head = {"model_name": answer.model_name, "model_version": answer.model_version}
    said = _compact({**head, "id": answer.id} if answer.id else head)
    text = f'{said[:-1]},"outputs":[{",".join(tensors)}]}}'.encode()
    return b"".join([text, *raws]), len(text) if raws else None


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _listed(name: str, values: NDArray[Any]) -> str:
    """The text between the brackets of ``data``."""
    flat = values.reshape(-1)
    if values.dtype.kind == "f" and not np.isfinite(flat).all():
        raise invalid(f"output {name!r} has values that are not finite: ask for binary data")
    blocks = (flat[first : first + _JSON_BLOCK] for first in range(0, flat.size, _JSON_BLOCK))
    return ",".join(_compact(_plain(name, block))[1:-1] for block in blocks)


def _plain(name: str, block: NDArray[Any]) -> Any:
    if block.dtype != object:
        return block.tolist()
    try:
        return [text.decode() for text in block]
    except UnicodeDecodeError as error:
        raise invalid(f"output {name!r} holds bytes that are no text: ask for binary") from error


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text.decode(), parse_constant=_refuse_constant)
    except RecursionError as error:
        raise invalid("the body is no JSON that can be read: it is nested too deep") from error
    except ValueError as error:  # also if it is not UTF-8
        raise invalid(f"the body is no JSON: {error}") from error


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"JSON has no {word}")


def _member(said: Mapping[str, Any], key: str, default: Any) -> Any:
    """The value of ``key``; the default if it is missing or null, which some clients send."""
    value = said.get(key)
    return default if value is None else value


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise invalid(f"{what} must be a JSON object")
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise invalid(f"{what} must be a string, not {value!s:.40}")
    return value


def _flag(parameters: Mapping[str, Any], key: str, where: str) -> bool:
    value = parameters.get(key, False)
    if not isinstance(value, bool):
        raise invalid(f"{where}: {key} is true or false")
    return value


def _wanted(said: Any) -> dict[str, bool]:
    """By name, whether to send as bytes; false for outputs without this parameter."""
    if not isinstance(said, list):
        raise invalid("outputs must be a list")
    wanted: dict[str, bool] = {}
    for output in said:
        name = _text(_object(output, "an output").get("name"), "an output's name")
        parameters = _object(_member(output, "parameters", {}), f"output {name!r}: parameters")
        refuse_parameters(parameters, f"output {name!r}")
        if name in wanted:
            raise invalid(f"output {name!r} is asked for twice")
        wanted[name] = _flag(parameters, "binary_data", f"output {name!r}")
    return wanted


def _inputs(said: Any, raw: memoryview) -> dict[str, NDArray[Any]]:
    if not isinstance(said, list):
        raise invalid("inputs must be a list")
    inputs: dict[str, NDArray[Any]] = {}
    for tensor in said:
        name = _text(_object(tensor, "an input").get("name"), "an input's name")
        if name in inputs:
            raise invalid(f"input {name!r} is given twice")
        size = _raw_size(name, tensor, len(raw))
        inputs[name] = _input(name, tensor, None if size is None else raw[:size])
        raw = raw[size or 0 :]
    if len(raw):
        raise invalid(f"{len(raw)} bytes follow the last input")
    return inputs


def _raw_size(name: str, tensor: Mapping[str, Any], left: int) -> int | None:
    parameters = _object(_member(tensor, "parameters", {}), f"input {name!r}: parameters")
    refuse_parameters(parameters, f"input {name!r}")
    if _SIZE not in parameters:
        return None
    size = parameters[_SIZE]
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= left:
        raise invalid(f"input {name!r}: {_SIZE} {size!r}, but {left} bytes are left of the body")
    return size


def _input(name: str, tensor: Mapping[str, Any], raw: memoryview | None) -> NDArray[Any]:
    dtype = checked_dtype(name, tensor.get("datatype"))
    shape = checked_shape(name, tensor.get("shape"))
    if raw is None:
        return _from_list(name, dtype, shape, tensor.get("data"))
    if tensor.get("data") is not None:
        raise invalid(f"input {name!r} has data and {_SIZE}")
    return from_raw(name, dtype, shape, raw)


def _from_list(name: str, dtype: np.dtype[Any], shape: tuple[int, ...], data: Any) -> NDArray[Any]:
    flat = _flat(name, shape, data)
    kinds = set(map(type, flat))
    if not kinds <= _PYTHON_TYPES[dtype.kind]:
        odd = sorted(kind.__name__ for kind in kinds - _PYTHON_TYPES[dtype.kind])
        raise invalid(f"input {name!r}: its data must be {_words_for(dtype)}, not {odd[0]}")
    try:
        if dtype.hasobject:
            return strings(name, len(flat), [text.encode() for text in flat]).reshape(shape)
        with np.errstate(over="ignore"):
            values = np.array(flat, dtype=dtype).reshape(shape)
    except (
        OverflowError,
        ValueError,
    ) as error:  # half a surrogate pair, or lengths beside 0
        raise invalid(f"input {name!r}: {error}") from error
    if dtype.kind == "f" and not np.isfinite(values).all():
        raise invalid(f"input {name!r}: a number is too large for {datatype_of(values)}")
    return values


def _words_for(dtype: np.dtype[Any]) -> str:
    """The JSON type for a dtype."""
    words = {"b": "true or false", "i": "integers", "u": "integers", "f": "numbers", "O": "strings"}
    return words[dtype.kind]


def _flat(name: str, shape: tuple[int, ...], data: Any) -> list[Any]:
    """The values of a list, which is flat or nested as ``shape`` requires."""
    if not isinstance(data, list):
        raise invalid(f"input {name!r} needs data, a list")
    flat, depth = data, 1
    while flat and isinstance(flat[0], list):
        lengths = {len(part) if isinstance(part, list) else -1 for part in flat}
        if depth >= len(shape) or lengths != {shape[depth]}:
            raise invalid(f"input {name!r}: its data are not nested as shape {list(shape)} says")
        flat, depth = list(chain.from_iterable(flat)), depth + 1
    if len(flat) != math.prod(shape) or (depth > 1 and len(data) != shape[0]):
        raise invalid(
            f"input {name!r}: {len(flat)} values, but shape {list(shape)} takes {math.prod(shape)}"
        )
    return flat
