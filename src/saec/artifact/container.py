"""Definitions for reading and writing: dtypes, limits, and the form of the file's header."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from reprlib import Repr
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from saec.util.atomic_file import let_go

__all__ = [
    "ARTIFACT",
    "DATA",
    "DESCRIPTION",
    "DTYPES",
    "FIXED_BYTES",
    "FORMAT",
    "HEADER_BYTES",
    "LOSS",
    "MOST_BYTES",
    "MOST_FIELDS",
    "MOST_HEADER_BYTES",
    "PATCH",
    "FileKind",
    "byte_blocks",
    "file_header",
    "padded_header",
    "shortly",
]

FORMAT = 3

# In the order of their codes in a file, from 1 on: append only.
DTYPES: tuple[np.dtype[Any], ...] = (
    np.dtype(np.float32),
    np.dtype(np.float16),
    np.dtype(ml_dtypes.bfloat16),
    np.dtype(np.int8),
    np.dtype(np.uint8),
)

DATA, DESCRIPTION = "data", "description"  # the tensors of a file
HEADER_BYTES = 256  # of a file, with the length before it, whatever the fields
LOSS = np.dtype("<f8")  # of the predicted loss increase, with which the description begins
FIXED_BYTES = HEADER_BYTES + LOSS.itemsize  # of a file without fields
MOST_BYTES = 16 << 20  # of the description
MOST_FIELDS = 1 << 16
MOST_HEADER_BYTES = 1 << 16  # of a file that is read for an error message

_BLOCK_BYTES = 4 << 20


@dataclass(frozen=True)
class FileKind:
    """A kind of file: its name, its key and number in the header's metadata, and the bytes with
    which its description begins, before the records."""

    name: str
    key: str
    format: int
    head_bytes: int

    @property
    def one(self) -> str:
        """The name with its article."""
        return f"{'an' if self.name[0] in 'aeiou' else 'a'} {self.name}"


ARTIFACT = FileKind("artifact", "saec", FORMAT, LOSS.itemsize)
PATCH = FileKind("patch", "saec_patch", 2, 40)

_SHORT = Repr()
_SHORT.maxdict, _SHORT.maxstring = 20, 100


def shortly(value: object) -> str:
    """``repr`` for untrusted values, which may be long, or nested too deeply for ``repr``."""
    return _SHORT.repr(value)


def file_header(kind: FileKind, data_bytes: int, description_bytes: int) -> bytes:
    """The beginning of a file with tensors of these sizes, always :data:`HEADER_BYTES` bytes."""
    end = data_bytes + description_bytes
    header = {
        "__metadata__": {kind.key: str(kind.format)},
        DATA: _bytes_tensor(0, data_bytes),
        DESCRIPTION: _bytes_tensor(data_bytes, end),
    }
    begin = padded_header(header, HEADER_BYTES)
    assert len(begin) == HEADER_BYTES, "no file is so large that its sizes need more digits"
    return begin


def _bytes_tensor(start: int, stop: int) -> dict[str, Any]:
    return {"dtype": "U8", "shape": [stop - start], "data_offsets": [start, stop]}


def padded_header(header: Mapping[str, Any], multiple: int) -> bytes:
    """The beginning of a safetensors file, with blanks up to the next multiple of ``multiple``."""
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % multiple)
    return len(text).to_bytes(8, "little") + text


def byte_blocks(tensor: NDArray[Any]) -> Iterator[memoryview]:
    """The bytes in row-major order, some MB at a time: no more is copied, for any strides.

    Pages of a mapped file are released after they were read, so they do not count as memory.
    """
    rows = max(1, _BLOCK_BYTES // max(1, tensor[:1].nbytes))
    for start in range(0, len(tensor), rows):
        block = tensor[start : start + rows]
        yield np.ascontiguousarray(block).view(np.uint8).data
        let_go(block)
