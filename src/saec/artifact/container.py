"""What reading and writing agree on: dtypes, names, limits, and how a header is spelt."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from reprlib import Repr
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from saec.util.atomic_file import let_go

__all__ = [
    "DESCRIPTION",
    "DTYPES",
    "FORMAT",
    "MOST_BYTES",
    "MOST_FIELDS",
    "MOST_HEADER_BYTES",
    "NAMES",
    "byte_blocks",
    "compact",
    "padded_header",
    "shortly",
]

FORMAT = 2

# Widest first, so that each tensor starts at a multiple of its item size.
DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}

DESCRIPTION = "description"  # no field's tensor: those have a dot in their names
MOST_BYTES = 16 << 20  # of the description, packed or not
MOST_FIELDS = 1 << 16
MOST_HEADER_BYTES = 1 << 16  # a file has a tensor for each role and dtype, and no others

_BLOCK_BYTES = 4 << 20

_SHORT = Repr()
_SHORT.maxdict, _SHORT.maxstring = 20, 100


def shortly(value: object) -> str:
    """``repr`` for what a file says, which may be long, or nested too deeply for ``repr``."""
    return _SHORT.repr(value)


def compact(value: Mapping[str, Any]) -> str:
    """JSON without a blank."""
    return json.dumps(value, separators=(",", ":"))


def padded_header(header: Mapping[str, Any], multiple: int) -> bytes:
    """How a safetensors file begins, with blanks up to the next multiple of so many bytes."""
    text = compact(header).encode()
    text += b" " * (-(8 + len(text)) % multiple)
    return len(text).to_bytes(8, "little") + text


def byte_blocks(tensor: NDArray[Any]) -> Iterator[memoryview]:
    """The bytes in row-major order, some MB at a time: no more is copied, whatever the strides.

    What has been taken of a file that is mapped no longer counts as memory of this process.
    """
    rows = max(1, _BLOCK_BYTES // max(1, tensor[:1].nbytes))
    for start in range(0, len(tensor), rows):
        block = tensor[start : start + rows]
        yield np.ascontiguousarray(block).view(np.uint8).data
        let_go(block)
