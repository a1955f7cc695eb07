"""Read embedding tables and frequencies from the files in which people keep them."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from saec.errors import CheckpointError, require

__all__ = ["read_frequencies", "read_tables"]

Arrays = dict[str, NDArray[Any]]

TABLE_DTYPES = tuple(
    np.dtype(dtype) for dtype in (np.float64, np.float32, np.float16, ml_dtypes.bfloat16)
)

# Where trainers put the state_dict in a checkpoint that holds more (Lightning, PyTorch's recipes).
STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model")

# The format's dtype names, apart from those narrower than a byte.
_SAFETENSORS_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


def read_tables(path: str | Path) -> Arrays:
    """Read all two-dimensional floating-point tables of a checkpoint, by name.

    Vectors, integers and tensors of more dimensions are left out. ``.safetensors``, ``.npy`` and
    PyTorch's zip format are memory mapped, so rows are read only when they are used.

    Args:
        path: ``.safetensors``; ``.npz``; ``.npy`` (one table, named like the file); or a torch
            state_dict in ``.pt``, ``.pth`` or ``.bin``, alone or under ``"state_dict"``,
            ``"model_state_dict"`` or ``"model"``. Python objects are never unpickled.

    Returns:
        ``{name: (n, d)}`` arrays or memory maps of float64, float32, float16 or bfloat16.

    Raises:
        CheckpointError: the file is missing, unreadable, truncated, of another kind, or holds no
            table; says what was found.
        OptionalDependencyError: PyTorch is needed and not installed.
    """
    arrays = _read(Path(path), _ARRAY_READERS | _TORCH_READERS)
    tables = {
        name: array
        for name, array in arrays.items()
        if array.ndim == 2 and array.dtype in TABLE_DTYPES
    }
    if not tables:
        raise CheckpointError(
            f"{path}: no two-dimensional floating-point table; it holds {_describe(arrays)}"
        )
    return tables


def read_frequencies(path: str | Path) -> Arrays:
    """Read the frequencies of tables, by the tables' names.

    Args:
        path: ``.npz`` or ``.safetensors`` with one vector per table, or ``.npy`` with one vector,
            named like the file. Arrays of other shapes are left out.

    Returns:
        ``{name: (n,)}`` arrays or memory maps of real numbers.

    Raises:
        CheckpointError: the file is missing, unreadable, truncated, of another kind, or holds no
            vector of numbers; says what was found.
    """
    arrays = _read(Path(path), _ARRAY_READERS)
    vectors = {
        name: array
        for name, array in arrays.items()
        if array.ndim == 1 and (array.dtype.kind in "iuf" or array.dtype in TABLE_DTYPES)
    }
    if not vectors:
        raise CheckpointError(f"{path}: no vector of frequencies; it holds {_describe(arrays)}")
    return vectors


def _read(path: Path, readers: Mapping[str, Callable[[Path], Arrays]]) -> Arrays:
    reader = readers.get(path.suffix)
    if reader is None:
        raise CheckpointError(f"{path}: unknown kind of file; known are {', '.join(readers)}")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    return reader(path)


def _read_safetensors(path: Path) -> Arrays:
    try:
        # Checks the whole header against the file's size. Its own numpy arrays would be copies, and
        # it has none for bfloat16.
        with safe_open(path, framework="np"):
            pass
        mapped = np.memmap(path, np.uint8, mode="r")
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a safetensors file, or truncated: {error}") from error
    start = 8 + int(mapped[:8].view("<u8")[0])
    header = json.loads(mapped[8:start].tobytes())
    arrays = {}
    for name, entry in header.items():
        dtype = _SAFETENSORS_DTYPES.get(entry.get("dtype"))
        if dtype is not None:
            first, last = (start + offset for offset in entry["data_offsets"])
            array = mapped[first:last].view(dtype).reshape(entry["shape"])
            arrays[name] = np.require(array, requirements="A")  # a copy only if not aligned
    return arrays


def _read_npz(path: Path) -> Arrays:
    if not zipfile.is_zipfile(path):
        raise CheckpointError(f"{path}: not an .npz file (no zip archive), or truncated")
    try:
        # Opened here, because np.load forgets to close what it cannot read.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as loaded:
            members = dict(loaded)
    except Exception as error:  # a broken archive may raise anything
        raise _unreadable(path, error) from error
    # A member that is no array comes as bytes.
    return {name: value for name, value in members.items() if isinstance(value, np.ndarray)}


def _read_npy(path: Path) -> Arrays:
    try:
        # Not np.load, which would open a zip or try a pickle by the file's first bytes.
        return {path.stem: np.lib.format.open_memmap(path, mode="r")}
    except Exception as error:  # a broken header may raise anything
        raise _unreadable(path, error) from error


def _read_torch(path: Path) -> Arrays:
    torch = require("torch", "torch")
    try:
        # Only the zip format can be mapped; the one before PyTorch 1.6 is read into memory.
        mapped = zipfile.is_zipfile(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # a broken pickle may raise anything
        raise CheckpointError(
            f"{path}: not a file of tensors alone, or truncated; save model.state_dict() "
            f"({_first_line(error)})"
        ) from error
    return {
        name: _as_numpy(torch, tensor)
        for name, tensor in _state_dict(torch, path, loaded).items()
        if isinstance(tensor, torch.Tensor) and _is_plain(torch, tensor)
    }


def _state_dict(torch: Any, path: Path, loaded: object) -> Mapping[str, object]:
    if isinstance(loaded, torch.Tensor):
        return {path.stem: loaded}
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{path}: holds a {type(loaded).__name__}, not a state_dict")
    if not any(isinstance(value, torch.Tensor) for value in loaded.values()):
        for key in STATE_DICT_KEYS:
            if isinstance(loaded.get(key), Mapping):
                return _state_dict(torch, path, loaded[key])
        found = ", ".join(map(repr, loaded)) or "nothing"
        raise CheckpointError(f"{path}: no state_dict; it holds {found}")
    return {str(name): value for name, value in loaded.items()}


def _is_plain(torch: Any, tensor: Any) -> bool:
    dense = tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_meta
    return bool(dense) and tensor.dtype in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    )


def _as_numpy(torch: Any, tensor: Any) -> NDArray[Any]:
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        bits: NDArray[Any] = tensor.view(torch.int16).numpy()
        return bits.view(ml_dtypes.bfloat16)
    array: NDArray[Any] = tensor.numpy()
    return array


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path}: cannot be read as {path.suffix}: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).split("\n", 1)[0]


def _describe(arrays: Arrays, most: int = 8) -> str:
    if not arrays:
        return "nothing that can be read"
    parts = [f"{name} {array.shape} {array.dtype}" for name, array in list(arrays.items())[:most]]
    return "; ".join(parts) + (f"; and {len(arrays) - most} more" if len(arrays) > most else "")


_ARRAY_READERS: dict[str, Callable[[Path], Arrays]] = {
    ".safetensors": _read_safetensors,
    ".npz": _read_npz,
    ".npy": _read_npy,
}
_TORCH_READERS: dict[str, Callable[[Path], Arrays]] = dict.fromkeys(
    (".pt", ".pth", ".bin"), _read_torch
)
