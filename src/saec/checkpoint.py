"""Read embedding tables and frequencies from the files in which people keep them."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from saec.errors import CheckpointError, require
from saec.metric import LossMetrics
from saec.metric_file import load_metrics
from saec.table import Field

__all__ = ["listed", "read_fields", "read_frequencies", "read_tables"]

Arrays = dict[str, NDArray[Any]]
Value = TypeVar("Value")

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


def read_fields(
    checkpoint: str | Path,
    frequencies: str | Path,
    metrics: str | Path | None = None,
    only: Sequence[str] = (),
) -> tuple[list[Field], LossMetrics | None]:
    """Read tables with their frequencies and, if their file is given, loss metrics.

    A field is named by the path of the module that holds its table, as :mod:`saec.torch` names it:
    a trailing ``.weight`` does not count. What a ``.npy`` file holds goes with the only other.

    Args:
        checkpoint: see :func:`read_tables`.
        frequencies: see :func:`read_frequencies`.
        metrics: see :func:`saec.load_metrics`.
        only: names or patterns like ``embeddings.*`` of the tables to read; all, if empty.

    Raises:
        CheckpointError: a file is not as it should be, or one has no partner for what another
            holds; tables that no pattern of ``only`` matches need none.
        FieldError: table and frequencies do not fit each other.
        MetricError: the metrics cannot be read.
    """
    checkpoint, frequencies = Path(checkpoint), Path(frequencies)
    tables = _chosen(_by_field(read_tables(checkpoint)), only)
    counts = _by_field(read_frequencies(frequencies))
    nameless = checkpoint.suffix == ".npy"
    if nameless or frequencies.suffix == ".npy":
        counts = _renamed(counts, tables)
    partners = _partners(tables, counts, only, "frequencies")
    fields = [Field(name, table, partners[name]) for name, table in tables.items()]
    if metrics is None:
        return fields, None
    loaded = load_metrics(metrics)
    matrices, errors = _by_field(loaded), _by_field(loaded.relative_errors)
    if nameless:
        matrices, errors = _renamed(matrices, tables), _renamed(errors, tables)
    matrices = _partners(tables, matrices, only, "metrics")
    return fields, LossMetrics(matrices, loaded.examples, {name: errors[name] for name in matrices})


def listed(names: Iterable[str], most: int = 8) -> str:
    """Names for a message, not more than fit."""
    all_names = list(names)
    more = f" and {len(all_names) - most} more" if len(all_names) > most else ""
    return (", ".join(all_names[:most]) or "none") + more


def _partners(
    tables: Arrays, others: Mapping[str, Value], only: Sequence[str], what: str
) -> dict[str, Value]:
    """Of ``others`` those that go with ``tables``; every one of both has its partner."""
    bare = [name for name in tables if name not in others]
    if bare:
        raise CheckpointError(
            f"no {what} for {listed(bare)}, but for {listed(others)}; "
            "name the tables to compress with --only"
        )
    lost = [name for name in others if name not in tables and (not only or _matches(name, only))]
    if lost:
        raise CheckpointError(f"no tables for {what} {listed(lost)}, but {listed(tables)}")
    return {name: others[name] for name in tables}


def _by_field(values: Mapping[str, Value]) -> dict[str, Value]:
    """By the path of the module that holds a weight."""
    named = {name.removesuffix(".weight"): value for name, value in values.items()}
    if len(named) < len(values):
        twice = next(name for name in named if name in values and f"{name}.weight" in values)
        raise CheckpointError(f"{twice} and {twice}.weight are the same field")
    return named


def _renamed(values: dict[str, Value], tables: Arrays) -> dict[str, Value]:
    """By the name of the table, where there is one of each and one is only the file's."""
    both = len(values) == len(tables) == 1
    return dict(zip(tables, values.values(), strict=True)) if both else values


def _chosen(tables: Arrays, only: Sequence[str]) -> Arrays:
    """Those whose name matches one of ``only``; all, if that is empty."""
    for pattern in only:
        if not any(_matches(name, [pattern]) for name in tables):
            raise CheckpointError(f"no table matches --only {pattern}; there are {listed(tables)}")
    return {name: table for name, table in tables.items() if not only or _matches(name, only)}


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern.removesuffix(".weight")) for pattern in patterns)


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
