"""A table with keys on two days, for tests of patches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import saec
from saec.format.keyed_field import KeyedField
from saec.format.patched_field import PatchedField

DIM = 4
METRIC = np.diag([1e-2, 5e-3, 5e-3, 1e-3])
METRICS = {"user": METRIC}


class Day:
    """Rows, frequencies and keys; frequent rows are long."""

    def __init__(
        self, weights: NDArray[np.float32], frequencies: NDArray[np.float64], keys: NDArray[Any]
    ) -> None:
        self.weights, self.frequencies, self.keys = weights, frequencies, keys

    @classmethod
    def first(cls, rows: int = 3000) -> Day:
        rng = np.random.default_rng(7)
        frequencies = np.floor(20 * rows / np.arange(1, rows + 1) ** 1.2) + 1
        scale = np.log1p(frequencies)[:, None] * np.array([1.0, 0.5, 0.2, 0.1])
        weights = (rng.standard_normal((rows, DIM)) * scale).astype(np.float32)
        return cls(weights, frequencies, rng.integers(0, 1 << 63, rows))

    def next(self, seed: int, moved: int = 100, new: int = 150) -> Day:
        """The next day: some rows have moved, and new rows of small frequency follow the others."""
        rng = np.random.default_rng(seed)
        weights = self.weights.copy()
        places = rng.choice(len(weights), moved, replace=False)
        weights[places] += 3 * rng.standard_normal((moved, DIM)).astype(np.float32)
        more = 2 * rng.standard_normal((new, DIM)).astype(np.float32)
        counts = np.floor(5 * rng.pareto(1.2, new)) + 1
        keys = rng.integers(0, 1 << 63, new)
        return Day(
            np.concatenate([weights, more]),
            np.concatenate([self.frequencies, counts]),
            np.concatenate([self.keys, keys]),
        )

    def only(self, kept: NDArray[np.bool_]) -> Day:
        """The rows that are ``kept``."""
        return Day(self.weights[kept], self.frequencies[kept], self.keys[kept])

    def field(self, **options: object) -> saec.Field:
        given = {"keys": self.keys, "unseen": np.zeros(DIM), "unseen_share": 0.3} | options
        return saec.Field("user", self.weights, self.frequencies, **given)  # type: ignore[arg-type]

    def either(self, keyed: bool) -> saec.Field:
        """With keys or with ids."""
        return self.field() if keyed else saec.Field("user", self.weights, self.frequencies)

    def nats(self, field: saec.CompressedField) -> float:
        """The loss in nats of all rows by lookups from ``field``, which has keys or ids."""
        asked = self.keys if isinstance(field, KeyedField) else np.arange(len(self.keys))
        error = (field.lookup(asked) - self.weights).astype(np.float64)
        each = np.einsum("nd,de,ne->n", error, METRIC, error) / 2
        return float(self.frequencies @ each / self.frequencies.sum())


def write_chain(base: Path, days: Sequence[Day]) -> None:
    """An artifact of the first of three days, and beside it 1.patch and 2.patch of the others."""
    saec.compress([days[0].field()], saec.Ratio(6), metrics=METRICS, progress=False, out=base)
    for number in (1, 2):
        saec.update(
            base,
            [days[number].field()],
            out=base.with_name(f"{number}.patch"),
            patches=[base.with_name("1.patch")][: number - 1],
            metrics=METRICS,
            whole_rows=0,
            compare=False,
        )


def patched(result: saec.Compressed, name: str = "user") -> PatchedField:
    field = result[name]
    assert isinstance(field, PatchedField)
    return field
