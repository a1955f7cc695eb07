"""Files of ``torch.save``: tensors are found and read in place."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from saec.sources.archive import Archive, open_archive
from saec.sources.pickles import MOST_PICKLE_BYTES, StandIn, unpickled
from saec.sources.torch_storages import NUMBERS, Storage
from saec.streaming.rows import ArrayRows, FileRows, Rows

__all__ = ["MOST_DIMS", "is_tensor", "read_archive", "tensor", "why_unread"]

MOST_DIMS = 64  # of a tensor; PyTorch has as many
_MOST_REPEATED = 1 << 31  # values of a tensor that repeats values of its storage
_DIRECTORY_BYTES = 64 << 20
_BYTE_ORDER = 16  # bytes of a text

_REBUILD = "torch._utils._rebuild_"
_UNREAD = {  # beginnings of the names of functions that make other tensors, behind _REBUILD
    "sparse": "sparse; save its .to_dense()",
    "qtensor": "quantised; save its .dequantize()",
    "meta_tensor": "on the meta device, without values",
    "nested": "nested; save its .to_padded_tensor(0.0)",
    "wrapper": "of a subclass; save the plain tensor that it holds",
}
_COMPLEX = "complex; save its .real and its .imag"  # only these have old storages not in NUMBERS


def read_archive(
    path: Path, first: int = 0, length: int | None = None, directory: int = _DIRECTORY_BYTES
) -> object:
    """The saved object; its tensors and other objects are stand-ins, see :func:`tensor`.

    Args:
        path: of the file.
        first: first byte of the archive.
        length: its bytes; the whole file if None.
        directory: limit of the bytes of its directory.

    Raises:
        CheckpointError: there is no such file.
        archive.DAMAGED: the archive is damaged.
    """
    with open_archive(path.absolute(), first, length, directory) as archive:
        names = archive.opened.namelist()
        folders = [name.partition("/")[0] for name in names if name.endswith("/data.pkl")]
        if not folders:
            raise ValueError("no pickle in it")
        folder = folders[0]
        if f"{folder}/constants.pkl" in names:
            raise ValueError("a TorchScript program")
        order = f"{folder}/byteorder"
        if order in names and archive.read(order, _BYTE_ORDER) != b"little":
            raise ValueError("numbers are stored with the highest byte first")
        pickled = archive.read(f"{folder}/data.pkl", MOST_PICKLE_BYTES)
        return unpickled(pickled, _storages(archive, folder))


def tensor(value: object) -> Rows | None:
    """The rows of a tensor in the saved object; None for anything but a tensor of plain numbers.

    Raises:
        ValueError: it is not within its storage.
    """
    if not isinstance(value, StandIn) or not value.given:
        return None
    if value.kind in (f"{_REBUILD}parameter", f"{_REBUILD}parameter_with_state"):
        return tensor(value.given[0])
    storage = value.given[0]
    if value.kind != f"{_REBUILD}tensor_v2" or not isinstance(storage, FileRows):
        return None
    if len(value.given) < 4:
        raise ValueError("a tensor without a shape")
    first, shape, strides = value.given[1:4]
    return _view(storage, first, shape, strides)


def is_tensor(value: object) -> bool:
    """Whether a value in the saved object is a tensor of any kind."""
    return isinstance(value, StandIn) and value.kind.startswith(_REBUILD)


def why_unread(value: object) -> str:
    """What a tensor is for which :func:`tensor` gives None, and what to save in its place; empty
    for other objects."""
    if not isinstance(value, StandIn) or not is_tensor(value):
        return ""
    name = value.kind.removeprefix(_REBUILD)
    if name.startswith("parameter") and value.given:
        return why_unread(value.given[0])
    for start, reason in _UNREAD.items():
        if name.startswith(start):
            return reason
    dtype: Any = value.given[6] if name == "tensor_v3" and len(value.given) > 6 else None
    named = isinstance(dtype, type) and issubclass(dtype, StandIn)
    if name == "tensor_v2" or (named and "complex" in dtype.kind):
        return _COMPLEX
    return f"of {dtype.kind if named else 'an unsupported dtype'}; save its .float()"


def _storages(archive: Archive, folder: str) -> Callable[[Any], object]:
    """Makes rows, one number each, from a storage's id; None for unsupported numbers."""

    known: dict[Storage, FileRows] = {}

    def load(given: Any) -> FileRows | None:
        storage = Storage.of(given)
        if storage.kind in NUMBERS and storage not in known:
            known[storage] = find(storage)
        return known.get(storage)

    def find(storage: Storage) -> FileRows:
        member = archive.member(f"{folder}/data/{storage.key}")
        place = archive.place(member)
        rows = FileRows(archive.path, place, (storage.count,), NUMBERS[storage.kind])
        if rows.nbytes > member.file_size:
            raise ValueError(f"{member.filename} is shorter than the tensors in it")
        return rows

    return load


def _view(storage: FileRows, first: Any, shape: Any, strides: Any) -> Rows:
    if not isinstance(shape, tuple | list) or not isinstance(strides, tuple | list):
        raise ValueError("a tensor whose shape is no list of lengths")
    shape, strides = tuple(shape), tuple(strides)
    if not len(shape) == len(strides) <= MOST_DIMS:
        raise ValueError(f"a tensor of {len(shape)} lengths and {len(strides)} strides")
    if not all(type(n) is int and n >= 0 for n in (first, *shape, *strides)):
        raise ValueError("a tensor whose lengths and strides are no numbers of 0 and more")
    size = storage.dtype.itemsize
    empty = 0 in shape
    last = first + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if last >= len(storage) and not empty:
        raise ValueError("a tensor reaches past its storage")
    rows = FileRows(storage.path, storage.offset + first * size, shape or (1,), storage.dtype)
    if empty or _one_after_the_other(shape, strides):
        return rows
    if math.prod(shape) > max(len(storage), _MOST_REPEATED):
        raise ValueError(f"a tensor of {math.prod(shape)} values in {len(storage)}")
    mapped = np.memmap(storage.path, storage.dtype, "r", storage.offset, storage.shape)
    steps = [step * size for step in strides]
    return ArrayRows(np.ndarray(shape, storage.dtype, mapped, first * size, steps))


def _one_after_the_other(shape: Any, strides: Any) -> bool:
    expected = 1
    for n, step in zip(reversed(shape), reversed(strides), strict=True):
        if n != 1 and step != expected:
            return False
        expected *= n
    return True
