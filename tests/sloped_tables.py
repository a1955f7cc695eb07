"""Tables whose rows the loss on unseen rows wants larger or smaller."""

from __future__ import annotations

import numpy as np

import saec
from saec.tables.loss_metric import LossMetrics
from saec.tables.unseen_gradients import RowSums, UnseenGradients

__all__ = ["tables"]


def tables(sign: dict[str, float], keyed: bool = False) -> tuple[list[saec.Field], LossMetrics]:
    """Equal fields, whose rows the loss wants larger (-1) or smaller (1) on unseen rows."""
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(1000, 2)).astype(np.float32)
    counts = np.sort(rng.integers(1, 100, 1000))[::-1].astype(np.float64)
    ids = np.arange(1000)
    given = {"keys": ids, "unseen": np.zeros(2), "unseen_share": 0.0} if keyed else {}
    fields = [saec.Field(name, rows, counts, **given) for name in sign]
    metric = np.eye(2) * 1e-3
    unseen = {}
    for name, direction in sign.items():
        # Both halves say that the loss changes by direction x metric x the row.
        sums = (direction * 0.5 * counts / counts.sum() * 1000)[:, None] * (rows @ metric)
        half = RowSums(ids, sums.astype(np.float32))
        unseen[name] = UnseenGradients((half, half), 1000)
    known = dict.fromkeys(sign, metric)
    return fields, LossMetrics(known, 1000, dict.fromkeys(sign, 0.0), unseen)
