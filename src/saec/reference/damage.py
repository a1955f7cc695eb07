"""Loss by frequency: the increase among rows with rare features and with frequent ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from saec.reference.evaluate import score
from saec.reference.log import Log

__all__ = ["damage_by_decile"]

_DECILES = 10


def damage_by_decile(
    log: Log,
    rows: NDArray[np.intp],
    before: NDArray[np.float32],
    after: NDArray[np.float32],
) -> list[dict[str, Any]]:
    """Changes of AUC and log loss in ten groups of ``rows``, by their rarest feature's frequency.

    Args:
        log: that the rows are of.
        rows: of the log.
        before: (rows,) probabilities of the uncompressed model.
        after: (rows,) probabilities of the compressed one.

    Returns:
        For each decile, rarest first: ``least`` and ``most``, frequencies of the rarest feature in
        its rows (0: unseen), ``rows``, ``auc_change`` (None if the decile holds one class only),
        ``logloss_change`` in nats, and ``logloss_error``, the standard error of that change from
        the differences of single rows (None for one row).
    """
    rarest = _rarest(log, rows)
    # Equal frequencies may be spread over two deciles: these are of equal size.
    order = np.argsort(rarest, kind="stable")
    labels = log.labels[rows]
    deciles = []
    for chosen in np.array_split(order, min(_DECILES, len(order))):
        both = labels[chosen].min() != labels[chosen].max()
        old, new = (
            (score(labels[chosen], values[chosen]) if both else None) for values in (before, after)
        )
        change = _losses(labels[chosen], after[chosen]) - _losses(labels[chosen], before[chosen])
        deciles.append(
            {
                "least": float(rarest[chosen[0]]),
                "most": float(rarest[chosen[-1]]),
                "rows": len(chosen),
                "auc_change": None if old is None or new is None else new.auc - old.auc,
                "logloss_change": float(change.mean()),
                "logloss_error": _standard_error(change),
            }
        )
    return deciles


def _rarest(log: Log, rows: NDArray[np.intp]) -> NDArray[np.float64]:
    """Frequency of the rarest feature of each row; 0 where one was not seen in training."""
    rarest = np.full(len(rows), np.inf)
    for column, name in enumerate(log.field_names):
        frequencies = log.frequencies[name].copy()
        frequencies[0] = 0.0  # an estimate for all unseen features together
        rarest = np.minimum(rarest, frequencies[log.ids[rows, column]])
    return rarest


def _losses(labels: NDArray[np.float32], probabilities: NDArray[np.float32]) -> NDArray[np.float64]:
    """Log loss of each row, in nats."""
    least = np.finfo(np.float64).eps
    p = np.clip(probabilities.astype(np.float64), least, 1 - least)
    losses: NDArray[np.float64] = -np.where(labels == 1, np.log(p), np.log1p(-p))
    return losses


def _standard_error(values: NDArray[np.float64]) -> float | None:
    return None if len(values) < 2 else float(values.std(ddof=1) / np.sqrt(len(values)))
