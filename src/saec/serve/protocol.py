"""Terms of the Open Inference Protocol v2 that REST and gRPC share: tensors, requests, errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saec.errors import SaecError

__all__ = [
    "DTYPES",
    "Answer",
    "InferRequest",
    "RefusedError",
    "Status",
    "TensorSpec",
    "checked_dtype",
    "checked_shape",
    "datatype_of",
    "from_raw",
    "invalid",
    "refuse_parameters",
    "strings",
    "to_raw",
]

# Little-endian, as tensors are sent; BYTES are byte strings of any length.
DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    **{f"INT{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
    "BYTES": np.dtype(object),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_MOST_DIMS = 32
_LONGEST_MESSAGE = 1000  # gRPC sends messages in headers, whose size is limited
_LENGTH_BYTES = 4  # length in front of each of the BYTES


class Status(Enum):
    """Result of a request: HTTP status and gRPC status code."""

    OK = (200, "OK")
    INVALID = (400, "INVALID_ARGUMENT")
    UNAUTHENTICATED = (401, "UNAUTHENTICATED")
    NOT_FOUND = (404, "NOT_FOUND")
    SLOW = (408, "DEADLINE_EXCEEDED")
    TOO_LARGE = (413, "RESOURCE_EXHAUSTED")
    ENCODED = (415, "INVALID_ARGUMENT")
    GONE = (499, "CANCELLED")  # the client has gone; the number is nginx's
    FAILED = (500, "INTERNAL")
    BUSY = (503, "UNAVAILABLE")
    LATE = (504, "DEADLINE_EXCEEDED")

    @property
    def http(self) -> int:
        """HTTP status code."""
        return self.value[0]

    @property
    def grpc(self) -> str:
        """Name of the gRPC status code."""
        return self.value[1]


class RefusedError(SaecError):
    """A request that fails, with the message for its client."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message[:_LONGEST_MESSAGE])
        self.status = status


def invalid(message: str) -> RefusedError:
    """An error in the client's request."""
    return RefusedError(Status.INVALID, message)


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a model; -1 in ``shape`` means any length."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    @property
    def json(self) -> dict[str, Any]:
        """In the protocol's form."""
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}


@dataclass(frozen=True, eq=False)
class InferRequest:
    """A request: inputs and parameters by name; empty ``outputs`` stand for all."""

    inputs: Mapping[str, NDArray[Any]]
    outputs: Sequence[str] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""


@dataclass(frozen=True, eq=False)
class Answer:
    """Outputs by name, with the model's name and version."""

    model_name: str
    model_version: str
    id: str
    outputs: Mapping[str, NDArray[Any]]


def datatype_of(values: NDArray[Any]) -> str:
    """The protocol's name of an array's dtype."""
    return _NAMES[values.dtype]


def checked_dtype(name: str, datatype: Any) -> np.dtype[Any]:
    """The dtype of input ``name``; raises RefusedError if there is no such datatype."""
    if not isinstance(datatype, str) or datatype not in DTYPES:
        raise invalid(f"input {name!r}: datatype {datatype!r} is none of {', '.join(DTYPES)}")
    return DTYPES[datatype]


def checked_shape(name: str, shape: Any) -> tuple[int, ...]:
    """The shape of input ``name``; raises RefusedError if it is not a list of lengths."""
    if not isinstance(shape, Sequence) or isinstance(shape, str) or len(shape) > _MOST_DIMS:
        raise invalid(f"input {name!r}: shape is a list of at most {_MOST_DIMS} lengths")
    for length in shape:
        if not isinstance(length, int) or isinstance(length, bool) or not 0 <= length < 2**63:
            raise invalid(f"input {name!r}: {length!r} in its shape is no length")
    return tuple(shape)


def refuse_parameters(parameters: Mapping[str, Any], where: str) -> None:
    """Raise RefusedError if an input or output refers to data other than those sent.

    Other unsupported parameters are ignored, as in Triton and KServe: clients send
    ``content_type``, ``priority``, ``sequence_id`` and more by default.
    """
    for key in parameters:
        if key == "classification" or key.startswith("shared_memory_"):
            raise invalid(f"{where}: parameter {key!r} is not offered")


def from_raw(
    name: str, dtype: np.dtype[Any], shape: tuple[int, ...], raw: bytes | memoryview
) -> NDArray[Any]:
    """The array of input ``name`` from its bytes; raises RefusedError if they do not fit."""
    # Lengths beside a 0 may be too large for numpy to multiply.
    if math.prod(max(length, 1) for length in shape) >= 2**60:
        raise invalid(f"input {name!r}: shape {list(shape)} is too large")
    count = math.prod(shape)
    if dtype.hasobject:
        return _texts(name, count, bytes(raw)).reshape(shape)
    if len(raw) != count * dtype.itemsize:
        raise invalid(
            f"input {name!r}: {len(raw)} bytes, but shape {list(shape)} of {_NAMES[dtype]} "
            f"takes {count * dtype.itemsize}"
        )
    if dtype == np.bool_ and np.frombuffer(raw, np.uint8).max(initial=0) > 1:
        raise invalid(f"input {name!r}: a BOOL is 0 or 1")
    values = np.frombuffer(raw, dtype).reshape(shape)
    return np.require(values, requirements="A")  # bytes may start at odd addresses


def to_raw(values: NDArray[Any]) -> bytes:
    """The bytes of an array, as they are sent."""
    if values.dtype != object:
        return values.tobytes()
    return b"".join(
        part for text in values.flat for part in (len(text).to_bytes(_LENGTH_BYTES, "little"), text)
    )


def _texts(name: str, count: int, raw: bytes) -> NDArray[Any]:
    """(count,) byte strings, each preceded by its length."""
    texts: list[bytes] = []
    start = 0
    while start < len(raw):
        first = start + _LENGTH_BYTES
        start = first + int.from_bytes(raw[start:first], "little")
        if start > len(raw) or first > len(raw):
            raise invalid(f"input {name!r}: element {len(texts)} goes beyond its {len(raw)} bytes")
        texts.append(raw[first:start])
    return strings(name, count, texts)


def strings(name: str, count: int, texts: Sequence[bytes]) -> NDArray[Any]:
    """(count,) objects; raises RefusedError if their number differs."""
    if len(texts) != count:
        raise invalid(f"input {name!r}: {len(texts)} elements, but its shape takes {count}")
    values = np.empty(count, dtype=object)
    values[:] = texts
    return values
