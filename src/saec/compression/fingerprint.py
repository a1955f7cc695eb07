"""A hash of everything that an artifact depends on. It identifies interrupted work."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from importlib.metadata import version

import numpy as np
from numpy.typing import ArrayLike

import saec.artifact as artifact
from saec.codecs.protocol import Codec
from saec.compression.budget import Budget
from saec.tables.field import Field
from saec.tables.loss_metric import LossMetrics

__all__ = ["fingerprint"]


def fingerprint(
    fields: Sequence[Field],
    budget: Budget | None,
    codec: Codec | None,
    metrics: Mapping[str, ArrayLike] | None,
    seed: int,
) -> str:
    """A hash of everything that the artifact depends on; for files, of size and modification
    time."""
    known = {
        "versions": [version("saec"), artifact.FORMAT],
        "fields": [
            [
                field.name,
                field.rows.identity,
                field.counts.identity,
                None if field.keys is None else field.keys.identity,
            ]
            for field in fields
        ],
        "metrics": None if metrics is None else _hashed(metrics),
        "asked": [repr(budget), repr(codec), seed],
    }
    return blake2b(json.dumps(known).encode(), digest_size=16).hexdigest()


def _hashed(metrics: Mapping[str, ArrayLike]) -> dict[str, list[str]]:
    arrays: dict[str, list[ArrayLike]] = {name: [matrix] for name, matrix in metrics.items()}
    if isinstance(metrics, LossMetrics):
        for name, gradients in metrics.unseen.items():
            parts = [array for half in gradients.halves for array in (half.ids, half.sums)]
            arrays[name] += [gradients.examples, *parts]
        for name, matrix in metrics.unknown.items():
            arrays[name].append(matrix)
    return {
        name: [
            blake2b(np.asarray(array, np.float64).tobytes(), digest_size=16).hexdigest()
            for array in own
        ]
        for name, own in arrays.items()
    }
