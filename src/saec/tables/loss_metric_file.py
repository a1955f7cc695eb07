"""Loss metrics in a file: measured where the model is, used where its tables are compressed."""

from __future__ import annotations

import json
import math
import os
import sys
from typing import Any

import safetensors.numpy
from safetensors import SafetensorError, safe_open

from saec.errors import MetricError
from saec.tables.loss_metric import LossMetrics
from saec.util.atomic_file import whole_file
from saec.util.regular_file import check_header, mistaken_for
from saec.util.remote_file import local

__all__ = ["load_metrics", "save_metrics"]

_FACTS = "saec_metrics"  # the key of the file's metadata
_FORMAT = 1
_MOST_HEADER_BYTES = 16 << 20


def save_metrics(metrics: LossMetrics, path: str | os.PathLike[str]) -> None:
    """Write ``metrics`` as a safetensors file, whole or not at all.

    The file holds one (dim, dim) float64 tensor per field, by the field's name. Its metadata have
    one entry, ``saec_metrics``, a JSON object: ``format`` (1), ``examples``, and
    ``relative_errors`` by field name, null where no example used the field.

    Raises:
        MetricError: the file cannot be written, or a field is named ``__metadata__``.
    """
    if "__metadata__" in metrics:  # where the format keeps what is no tensor
        raise MetricError("a field cannot be named '__metadata__' in a file of metrics")
    errors = metrics.relative_errors
    facts = {
        "format": _FORMAT,
        "examples": metrics.examples,
        "relative_errors": {
            name: float(errors[name]) if math.isfinite(errors[name]) else None for name in metrics
        },
    }
    content = safetensors.numpy.save(dict(metrics), {_FACTS: json.dumps(facts)})
    with whole_file(path, MetricError) as file:
        file.write(content)


def load_metrics(path: str | os.PathLike[str]) -> LossMetrics:
    """Read what :func:`save_metrics` wrote.

    Raises:
        MetricError: the file is missing, damaged, or holds no loss metrics.
    """
    file_here = local(path, MetricError)
    check_header(file_here, _MOST_HEADER_BYTES, MetricError)
    try:
        with safe_open(file_here, framework="np") as file:
            names = list(file.keys())
            kinds = {name: file.get_slice(name) for name in names}
            for name, kind in kinds.items():
                _check_kind(path, name, kind.get_dtype(), kind.get_shape())
            matrices = {name: file.get_tensor(name) for name in names}
            text = (file.metadata() or {}).get(_FACTS)
    except (SafetensorError, OSError) as error:
        said = f"{error}{mistaken_for(path)}"
        raise MetricError(f"{path}: not a safetensors file, or truncated: {said}") from error
    if text is None:
        raise MetricError(f"{path}: no loss metrics; it holds {', '.join(names) or 'nothing'}")
    examples, errors = _checked_facts(path, text)
    if errors.keys() != matrices.keys():
        raise MetricError(
            f"{path}: damaged: standard errors of {', '.join(errors) or 'nothing'}, but matrices "
            f"of {', '.join(matrices) or 'nothing'}"
        )
    return LossMetrics({name: matrices[name] for name in errors}, examples, errors)


def _check_kind(path: str | os.PathLike[str], name: str, dtype: str, shape: list[int]) -> None:
    if dtype != "F64" or len(shape) != 2 or shape[0] != shape[1] or not shape[0]:
        raise MetricError(
            f"{path}: no loss metrics: {name} is {dtype} {shape}, not a square of F64"
        )


def _checked_facts(path: str | os.PathLike[str], text: str) -> tuple[int, dict[str, float]]:
    """Examples and relative errors of the metadata's JSON."""
    try:
        facts: Any = json.loads(text)
        known = facts["format"]
        examples, given = facts["examples"], dict(facts["relative_errors"])
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise MetricError(f"{path}: damaged metadata: {type(error).__name__}: {error}") from error
    if known != _FORMAT:
        raise MetricError(f"{path}: format {known!r} of metrics; this saec reads {_FORMAT}")
    right = type(examples) is int and examples >= 0 and all(map(_is_error, given.values()))
    if not right:
        raise MetricError(
            f"{path}: damaged metadata: examples and relative errors are numbers of at least 0"
        )
    return examples, {n: math.inf if error is None else float(error) for n, error in given.items()}


def _is_error(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and 0 <= value <= sys.float_info.max)
