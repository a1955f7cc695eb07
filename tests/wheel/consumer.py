"""A user's program for mypy --strict, which sees the types of the installed package."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

import saec


def squeeze(
    weights: NDArray[np.float32], counts: NDArray[np.int64], ratio: float
) -> saec.Compressed:
    field = saec.Field("user", weights, counts)
    budgets: list[saec.Budget] = [saec.Ratio(ratio), saec.MaxBytes("1MB"), saec.LossIncrease(1e-3)]
    return saec.compress([field], budgets[0], saec.Clusters(codebook="int8"), progress=False)


def bits_per_feature(result: saec.Compressed) -> dict[str, float]:
    return {name: 8 * field.nbytes / field.vocab_size for name, field in result.items()}


def ratio_for(field: saec.Field, metrics: saec.LossMetrics, nats: float) -> float:
    try:
        return saec.forecast([field], metrics).ratio_at(nats)
    except saec.BudgetError:
        return 1.0


def rows(path: str, ids: list[int]) -> NDArray[np.float32]:
    result = saec.load(path)
    found: NDArray[np.float32] = result["user"].lookup(ids)
    return found
