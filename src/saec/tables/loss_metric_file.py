"""Loss metrics in a file: measured with the model, used where its tables are compressed."""

from __future__ import annotations

import json
import math
import os
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from saec.errors import MetricError
from saec.tables.loss_metric import LossMetrics
from saec.tables.unseen_gradients import RowSums, UnseenGradients
from saec.util.atomic_file import whole_file
from saec.util.regular_file import check_header, mistaken_for
from saec.util.remote_file import local

__all__ = ["load_metrics", "save_metrics"]

_FACTS = "saec_metrics"  # the key of the file's metadata
_FORMAT, _WITH_UNSEEN, _WITH_UNKNOWN = 1, 2, 3
_UNSEEN = "unseen"  # prefix of the names of tensors of gradients on unseen rows, from format 2 on
_MATRIX = "metric "  # and of matrices
_UNKNOWN = "unknown "  # and, from format 3 on, of matrices for unknown keys
_MOST_HEADER_BYTES = 16 << 20


def save_metrics(metrics: LossMetrics, path: str | os.PathLike[str]) -> None:
    """Write ``metrics`` as a safetensors file, atomically.

    The file holds one (dim, dim) float64 tensor per field, by the field's name. Its metadata have
    one entry, ``saec_metrics``, a JSON object: ``format`` (1), ``examples``, and
    ``relative_errors`` by field name, null for fields that no example used.

    With gradients on unseen rows the format is 2. The matrix of field ``f`` is then ``metric f``.
    The gradients of one half are ``unseen 0 ids f`` (m,) int64 and ``unseen 0 sums f`` (m, dim)
    float32, those of the other half ``unseen 1 ...``. ``unseen_examples`` in the metadata gives by
    field name the number of rows of both halves.

    With matrices for unknown keys the format is 3, and that of field ``f`` is ``unknown f``.

    Raises:
        MetricError: the file cannot be written, or a field is named ``__metadata__``.
    """
    if "__metadata__" in metrics:  # where the format keeps data other than tensors
        raise MetricError("a field cannot be named '__metadata__' in a file of metrics")
    errors = metrics.relative_errors
    facts = {
        "format": _FORMAT,
        "examples": metrics.examples,
        "relative_errors": {
            name: float(errors[name]) if math.isfinite(errors[name]) else None for name in metrics
        },
    }
    tensors: dict[str, NDArray[Any]] = dict(metrics)
    if metrics.unseen or metrics.unknown:
        facts["format"] = _WITH_UNKNOWN if metrics.unknown else _WITH_UNSEEN
        facts["unseen_examples"] = {n: own.examples for n, own in metrics.unseen.items()}
        tensors = {f"{_MATRIX}{name}": matrix for name, matrix in metrics.items()}
        for name, own in metrics.unseen.items():
            for number, half in enumerate(own.halves):
                tensors[f"{_UNSEEN} {number} ids {name}"] = half.ids
                tensors[f"{_UNSEEN} {number} sums {name}"] = half.sums
        tensors |= {f"{_UNKNOWN}{name}": matrix for name, matrix in metrics.unknown.items()}
    content = safetensors.numpy.save(tensors, {_FACTS: json.dumps(facts)})
    with whole_file(path, MetricError) as file:
        file.write(content)


def load_metrics(path: str | os.PathLike[str]) -> LossMetrics:
    """Read a file that :func:`save_metrics` wrote.

    Raises:
        MetricError: the file is missing, damaged, or holds no loss metrics.
    """
    file_here = local(path, MetricError)
    check_header(file_here, _MOST_HEADER_BYTES, MetricError)
    try:
        with safe_open(file_here, framework="np") as file:
            names = list(file.keys())
            text = (file.metadata() or {}).get(_FACTS)
            if text is None:
                held = ", ".join(names) or "nothing"
                raise MetricError(f"{path}: no loss metrics; it holds {held}")
            facts = _checked_facts(path, text)
            kept = [name for name in names if name.startswith(f"{_UNSEEN} ") and facts.prefixed]
            squares = {name: _square(path, file, name) for name in names if name not in kept}
            unseen = _unseen(path, {name: file.get_tensor(name) for name in kept}, facts)
            matrices, unknown = _by_kind(path, squares, facts)
    except (SafetensorError, OSError) as error:
        said = f"{error}{mistaken_for(path)}"
        raise MetricError(f"{path}: not a safetensors file, or truncated: {said}") from error
    errors = facts.relative_errors
    if errors.keys() != matrices.keys():
        raise MetricError(
            f"{path}: damaged: standard errors of {', '.join(errors) or 'nothing'}, but matrices "
            f"of {', '.join(matrices) or 'nothing'}"
        )
    ordered = {name: matrices[name] for name in errors}
    return LossMetrics(ordered, facts.examples, errors, unseen, unknown)


@dataclass(frozen=True)
class _MetricFacts:
    """The metadata: examples, and by field name relative errors and examples of unseen rows.

    prefixed: whether names of tensors begin with their kind.
    """

    examples: int
    relative_errors: dict[str, float]
    unseen: dict[str, int]
    prefixed: bool


def _unseen(
    path: str | os.PathLike[str], tensors: dict[str, NDArray[Any]], facts: _MetricFacts
) -> dict[str, UnseenGradients]:
    """Gradients on unseen rows, from all tensors that are not matrices."""
    result = {}
    for name, examples in facts.unseen.items():
        halves = []
        for half in range(2):
            ids = tensors.pop(f"{_UNSEEN} {half} ids {name}", None)
            sums = tensors.pop(f"{_UNSEEN} {half} sums {name}", None)
            if ids is None or sums is None or ids.dtype != np.int64 or sums.dtype != np.float32:
                raise MetricError(
                    f"{path}: damaged: gradients of {name!r} on unseen rows are missing, or ids "
                    "are not int64 or sums not float32"
                )
            if ids.ndim != 1 or sums.ndim != 2 or len(ids) != len(sums):
                raise MetricError(
                    f"{path}: damaged: {ids.shape} ids of {name!r} on unseen rows, but "
                    f"{sums.shape} sums"
                )
            halves.append(RowSums(ids, sums))
        result[name] = UnseenGradients((halves[0], halves[1]), examples)
    if tensors:
        raise MetricError(f"{path}: damaged: it also holds {', '.join(sorted(tensors))}")
    return result


def _square(path: str | os.PathLike[str], file: Any, name: str) -> NDArray[np.float64]:
    """A matrix, whose shape is checked before it is read."""
    kind = file.get_slice(name)
    dtype, shape = kind.get_dtype(), kind.get_shape()
    if dtype != "F64" or len(shape) != 2 or shape[0] != shape[1] or not shape[0]:
        raise MetricError(
            f"{path}: no loss metrics: {name} is {dtype} {shape}, not a square of F64"
        )
    matrix: NDArray[np.float64] = file.get_tensor(name)
    return matrix


def _by_kind(
    path: str | os.PathLike[str], squares: dict[str, NDArray[np.float64]], facts: _MetricFacts
) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.float64]]]:
    """The matrices of fields, and those for their unknown keys, by field name."""
    if not facts.prefixed:
        return squares, {}
    found = []
    for prefix in (_MATRIX, _UNKNOWN):
        own = [name for name in squares if name.startswith(prefix)]
        found.append({name.removeprefix(prefix): squares.pop(name) for name in own})
    matrices, unknown = found
    if wrong := [*squares, *(name for name in unknown if name not in matrices)]:
        raise MetricError(f"{path}: damaged: it also holds {', '.join(sorted(wrong))}")
    return matrices, unknown


def _checked_facts(path: str | os.PathLike[str], text: str) -> _MetricFacts:
    """The content of the metadata's JSON."""
    try:
        facts: Any = json.loads(text)
        known = facts["format"]
        examples, given = facts["examples"], dict(facts["relative_errors"])
        prefixed = known in (_WITH_UNSEEN, _WITH_UNKNOWN)
        unseen = dict(facts["unseen_examples"]) if prefixed else {}
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise MetricError(f"{path}: damaged metadata: {type(error).__name__}: {error}") from error
    if known not in (_FORMAT, _WITH_UNSEEN, _WITH_UNKNOWN):
        raise MetricError(
            f"{path}: format {known!r} of metrics; this saec reads {_FORMAT} to {_WITH_UNKNOWN}"
        )
    if not all(type(count) is int and count > 0 for count in unseen.values()):
        raise MetricError(f"{path}: damaged metadata: unseen examples are whole numbers above 0")
    right = type(examples) is int and examples >= 0 and all(map(_is_error, given.values()))
    if not right:
        raise MetricError(
            f"{path}: damaged metadata: examples and relative errors are numbers of at least 0"
        )
    errors = {n: math.inf if error is None else float(error) for n, error in given.items()}
    return _MetricFacts(examples, errors, unseen, prefixed)


def _is_error(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and 0 <= value <= sys.float_info.max)
