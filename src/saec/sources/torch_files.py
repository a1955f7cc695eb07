"""A torch ``state_dict`` in a file."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
from numpy.typing import NDArray

from saec.errors import CheckpointError, require
from saec.rows import ArrayRows, Rows
from saec.sources.pickles import StandIn
from saec.sources.source import Arrays, first_line
from saec.sources.torch_archive import is_tensor, read_archive, tensor

__all__ = ["STATE_DICT_KEYS", "read_torch"]

# Where trainers put the state_dict in a checkpoint that holds more (Lightning, PyTorch's recipes).
STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model")


def read_torch(path: Path) -> Arrays:
    """The tensors of a ``state_dict``, alone or under one of :data:`STATE_DICT_KEYS`.

    Python objects are never unpickled. Files of PyTorch before 1.6 are read into memory, by
    PyTorch itself.

    Raises:
        CheckpointError: it is no such file, or truncated.
        OptionalDependencyError: PyTorch is needed and not installed.
    """
    try:
        if zipfile.is_zipfile(path):
            return _rows(_state_dict(path, read_archive(path), is_tensor), tensor)
        torch = require("torch", "torch")
        loaded = torch.load(path, map_location="cpu", weights_only=True)
        found = _state_dict(path, loaded, lambda value: isinstance(value, torch.Tensor))
        return _rows(found, lambda value: _in_memory(torch, value))
    except (CheckpointError, ImportError):
        raise
    except Exception as error:  # a broken pickle may raise anything
        raise _no_state_dict(path, first_line(error)) from error


def _rows(found: Mapping[str, object], rows: Callable[[object], Rows | None]) -> Arrays:
    """Those that are tensors of plain numbers."""
    read = {name: rows(value) for name, value in found.items()}
    return {name: value for name, value in read.items() if value is not None}


def _state_dict(
    path: Path, loaded: object, is_tensor: Callable[[object], bool]
) -> Mapping[str, object]:
    if is_tensor(loaded):
        return {path.stem: loaded}
    if isinstance(loaded, StandIn):
        raise _no_state_dict(path, f"it holds a {loaded.kind}")
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{path}: holds a {type(loaded).__name__}, not a state_dict")
    if not any(is_tensor(value) for value in loaded.values()):
        for key in STATE_DICT_KEYS:
            if isinstance(loaded.get(key), Mapping):
                return _state_dict(path, loaded[key], is_tensor)
        found = ", ".join(map(repr, loaded)) or "nothing"
        raise CheckpointError(f"{path}: no state_dict; it holds {found}")
    return {str(name): value for name, value in loaded.items()}


def _in_memory(torch: Any, value: Any) -> Rows | None:
    if not isinstance(value, torch.Tensor) or not _is_plain(torch, value):
        return None
    value = value.detach()
    if value.dtype == torch.bfloat16:
        bits: NDArray[Any] = value.view(torch.int16).numpy()
        return ArrayRows(bits.view(ml_dtypes.bfloat16))
    return ArrayRows(value.numpy())


def _is_plain(torch: Any, value: Any) -> bool:
    dense = value.layout == torch.strided and not value.is_quantized and not value.is_meta
    return bool(dense) and value.dtype in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    )


def _no_state_dict(path: Path, found: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: not a file of tensors alone, or truncated; save model.state_dict() ({found})"
    )
