"""Requests that are computed together: their inputs in one, and its outputs in parts again."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saec.serve.model import Model
from saec.serve.protocol import InferRequest, RefusedError, Status

__all__ = ["joined", "kind_of", "row_count", "split"]

Outputs = Mapping[str, NDArray[Any]]


def row_count(request: InferRequest) -> int:
    """First length of a request's longest input: ids, keys or examples."""
    lengths = [values.shape[0] if values.ndim else 1 for values in request.inputs.values()]
    return max(lengths, default=1)


def kind_of(model: Model, request: InferRequest) -> Hashable | None:
    """Requests of one kind can be computed together; None if this one is computed alone."""
    named = request.parameters
    said = [(name, named[name]) for name in model.parameters if name in named]
    if model.output_lengths(request) is None or not all(
        isinstance(value, str) for _, value in said
    ):
        return None
    inputs = tuple(
        (name, values.dtype.str, values.shape[1:]) for name, values in request.inputs.items()
    )
    return tuple(sorted(inputs)), tuple(request.outputs), tuple(said)


def joined(model: Model, requests: Sequence[InferRequest]) -> InferRequest:
    """One request with the rows of all, which are of one kind, in their order."""
    if len(requests) == 1:
        return requests[0]
    inputs: dict[str, NDArray[Any]] = {}
    for name in requests[0].inputs:
        parts = [request.inputs[name] for request in requests]
        if name in model.offsets:
            parts = _moved(parts, [request.inputs[model.offsets[name]] for request in requests])
        inputs[name] = np.concatenate(parts)
    return InferRequest(inputs, requests[0].outputs, requests[0].parameters)


def _moved(starts: Sequence[NDArray[Any]], ids: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """Starts of bags among the ids of all requests; of a wrong dtype if they had one."""
    before = accumulate((len(own) for own in ids), initial=0)
    wide = [own.astype(np.int64) if own.dtype == np.int32 else own for own in starts]
    return [own + shift for own, shift in zip(wide, before, strict=False)]


def split(
    model: Model, requests: Sequence[InferRequest], outputs: Outputs
) -> list[dict[str, NDArray[Any]]]:
    """The outputs of each request.

    Raises:
        RefusedError: an output has another number of rows than its inputs.
    """
    if len(requests) == 1:
        return [dict(outputs)]
    parts: list[dict[str, NDArray[Any]]] = [{} for _ in requests]
    lengths = [model.output_lengths(request) or {} for request in requests]
    for name, values in outputs.items():
        ends = list(accumulate(own[name] for own in lengths))
        if values.shape[:1] != (ends[-1],):
            raise RefusedError(
                Status.FAILED,
                f"output {name!r} of {ends[-1]} rows has shape {list(values.shape)}: "
                "requests for this model cannot be computed together",
            )
        for part, first, end in zip(parts, [0, *ends], ends, strict=False):
            part[name] = values[first:end]
    return parts
