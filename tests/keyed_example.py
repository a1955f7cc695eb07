"""A field with keys for tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

import saec
from saec.format.keyed_field import KeyedField

DIM = 4


class Example:
    """A table whose frequent rows are long, with keys and a metric."""

    def __init__(self, rows: int = 4000) -> None:
        rng = np.random.default_rng(7)
        self.frequencies = np.floor(20 * rows / np.arange(1, rows + 1) ** 1.2) + 1
        scale = np.log1p(self.frequencies)[:, None] * np.array([1.0, 0.5, 0.2, 0.1])
        self.weights = (rng.standard_normal((rows, DIM)) * scale).astype(np.float32)
        self.keys = rng.integers(0, 1 << 63, rows)
        self.metric = np.diag([1e-2, 5e-3, 5e-3, 1e-3])
        self.metrics = {"user": self.metric}

    def field(self, **options: object) -> saec.Field:
        given = {"keys": self.keys, "unseen": np.zeros(DIM), "unseen_share": 0.3} | options
        return saec.Field("user", self.weights, self.frequencies, **given)  # type: ignore[arg-type]

    def nats(self, rows: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float64]:
        errors = (rows - others).astype(np.float64)
        return np.einsum("nd,de,ne->n", errors, self.metric, errors) / 2


def keyed(result: saec.Compressed, name: str = "user") -> KeyedField:
    field = result[name]
    assert isinstance(field, KeyedField)
    return field


def random_keys(count: int) -> NDArray[np.int64]:
    return np.random.default_rng(1).integers(-(1 << 63), 0, count)
