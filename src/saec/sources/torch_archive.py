"""What ``torch.save`` writes: tensors are found, and left, where they lie in the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from saec.rows import ArrayRows, FileRows, Rows
from saec.sources.archive import Archive, open_archive
from saec.sources.pickles import StandIn, unpickled

__all__ = ["is_tensor", "read_archive", "tensor"]

_STORAGES = {
    "torch.DoubleStorage": np.float64,
    "torch.FloatStorage": np.float32,
    "torch.HalfStorage": np.float16,
    "torch.BFloat16Storage": ml_dtypes.bfloat16,
    "torch.LongStorage": np.int64,
    "torch.IntStorage": np.int32,
    "torch.ShortStorage": np.int16,
    "torch.CharStorage": np.int8,
    "torch.ByteStorage": np.uint8,
    "torch.BoolStorage": np.bool_,
}


def read_archive(path: Path, first: int = 0, length: int | None = None) -> object:
    """What was saved; its tensors and other objects are stand-ins, see :func:`tensor`.

    Args:
        path: of the file.
        first: byte at which the archive begins.
        length: its bytes; the whole file if None.

    Raises:
        Exception: of any kind, if the archive is damaged.
    """
    with open_archive(path.absolute(), first, length) as archive:
        names = archive.opened.namelist()
        folder = next(name.partition("/")[0] for name in names if name.endswith("/data.pkl"))
        if f"{folder}/constants.pkl" in names:
            raise ValueError("a TorchScript program")
        if (
            f"{folder}/byteorder" in names
            and archive.opened.read(f"{folder}/byteorder") != b"little"
        ):
            raise ValueError("numbers are stored with the highest byte first")
        pickled = archive.opened.read(f"{folder}/data.pkl")
        return unpickled(pickled, _storages(archive, folder))


def tensor(value: object) -> Rows | None:
    """The rows of a tensor in what was saved; None for what is no tensor of plain numbers.

    Raises:
        ValueError: it does not lie within its storage.
    """
    if not isinstance(value, StandIn) or not value.given:
        return None
    if value.kind == "torch._utils._rebuild_parameter":
        return tensor(value.given[0])
    storage = value.given[0]
    if value.kind != "torch._utils._rebuild_tensor_v2" or not isinstance(storage, FileRows):
        return None
    first, shape, strides = value.given[1:4]
    return _view(storage, first, shape, strides)


def is_tensor(value: object) -> bool:
    """Whether a value in what was saved is a tensor of any kind."""
    return isinstance(value, StandIn) and value.kind.startswith("torch._utils._rebuild_")


def _storages(archive: Archive, folder: str) -> Callable[[Any], object]:
    """Makes rows, one number each, from a storage's id; None for those of other numbers."""

    def load(given: Any) -> FileRows | None:
        _, kind, key, _, count = given
        dtype = _STORAGES.get(kind.kind)
        if dtype is None:
            return None
        member = archive.opened.getinfo(f"{folder}/data/{key}")
        rows = FileRows(archive.path, archive.place(member), (count,), dtype)
        if not 0 <= rows.nbytes <= member.file_size:
            raise ValueError(f"{member.filename} is shorter than the tensors in it")
        return rows

    return load


def _view(storage: FileRows, first: Any, shape: Any, strides: Any) -> Rows:
    numbers = [first, *shape, *strides]
    if len(shape) != len(strides) or not all(type(n) is int and n >= 0 for n in numbers):
        raise ValueError(f"a tensor of shape {shape} and strides {strides}")
    size = storage.dtype.itemsize
    empty = 0 in shape
    last = first + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if last >= len(storage) and not empty:
        raise ValueError("a tensor reaches past its storage")
    rows = FileRows(storage.path, storage.offset + first * size, shape or (1,), storage.dtype)
    if empty or _one_after_the_other(shape, strides):
        return rows
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
