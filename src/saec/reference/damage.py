"""Who pays for compression: its damage among rows with rare features and with frequent ones."""

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
        its rows (0: unseen), ``rows``, ``auc_change`` (None if the decile holds one class only) and
        ``logloss_change`` in nats.
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
        deciles.append(
            {
                "least": float(rarest[chosen[0]]),
                "most": float(rarest[chosen[-1]]),
                "rows": len(chosen),
                "auc_change": None if old is None or new is None else new.auc - old.auc,
                "logloss_change": _log_loss(labels[chosen], after[chosen])
                - _log_loss(labels[chosen], before[chosen]),
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


def _log_loss(labels: NDArray[np.float32], probabilities: NDArray[np.float32]) -> float:
    least = np.finfo(np.float64).eps
    p = np.clip(probabilities.astype(np.float64), least, 1 - least)
    return float(-np.mean(np.where(labels == 1, np.log(p), np.log1p(-p))))
