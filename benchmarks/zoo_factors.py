"""Factors of implicit's alternating least squares, which are arrays and need no PyTorch.

The metric of user factors is the curvature of the squared error of all scores: a user's score of
item i moves by delta . v_i, and 1/2 delta' G delta with G = 2 V' V / items is the mean square of
that; and the other way round. Scores of all pairs count alike, those of rare users and items, too:
all rows have the same frequency. By how often they occur, rare items would get the mean of frequent
ones for a row, and be recommended to everybody.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

import saec
from saec.reference.log import Log

ITERATIONS = 10
PAIRS = 4096  # of a user and a movie that are scored at once


def other_side(factors: NDArray[np.float32]) -> NDArray[np.float64]:
    """The metric of rows that are multiplied with these factors."""
    wide = factors.astype(np.float64)
    return 2 * wide.T @ wide / len(wide)


def learned(log: Log, dim: int, seed: int) -> dict[str, NDArray[np.float32]]:
    """Factors of users and movies, from what users liked."""
    from implicit.als import AlternatingLeastSquares

    users, movies = (log.ids[:, log.field_names.index(name)] for name in ("user", "movie"))
    liked = np.intersect1d(log.rows("train"), np.flatnonzero(log.labels > 0))
    shape = (log.vocab_sizes["user"], log.vocab_sizes["movie"])
    ones = np.ones(len(liked), dtype=np.float32)
    clicks = csr_matrix((ones, (users[liked], movies[liked])), shape=shape)
    model = AlternatingLeastSquares(
        factors=dim, iterations=ITERATIONS, random_state=seed, num_threads=1, use_gpu=False
    )
    model.fit(clicks, show_progress=False)
    return {"user": model.user_factors, "movie": model.item_factors}


def measured(log: Log, ratios: Sequence[float], dim: int, seed: int) -> Iterator[dict[str, Any]]:
    """Learn the factors once, and compress them to each of the ratios."""
    factors = learned(log, dim, seed)
    metrics = {"user": other_side(factors["movie"]), "movie": other_side(factors["user"])}
    fields = [saec.Field(name, rows, np.ones(len(rows))) for name, rows in factors.items()]
    base = evaluate(factors, log)
    for ratio in ratios:
        result = saec.compress(
            fields, saec.Ratio(ratio), metrics=metrics, seed=seed, progress=False
        )
        small = {name: result[name].decode() for name in factors}
        after = evaluate(small, log)
        yield {
            "epochs": ITERATIONS,
            **base,
            "ratio": result.compression_ratio,
            **{f"d_{name}": after[name] - base[name] for name in base},
            "predicted": result.predicted_loss_increase,
            "restores": all(
                np.array_equal(result[name].lookup(np.arange(len(rows))), rows)
                for name, rows in small.items()
            ),
        }


def evaluate(factors: dict[str, NDArray[np.float32]], log: Log) -> dict[str, float]:
    """Of the liked movies of the test rows: how many others score lower, and the squared error.

    Wanted is a score of 1; what the factors are learned from says 0 for all that was not liked.
    """
    rows = np.intersect1d(log.rows("test"), np.flatnonzero(log.labels > 0))
    users, movies = (log.ids[rows, log.field_names.index(name)] for name in ("user", "movie"))
    below, errors = 0.0, 0.0
    for start in range(0, len(rows), PAIRS):
        chosen = slice(start, start + PAIRS)
        scores = factors["user"][users[chosen]] @ factors["movie"].T
        own = np.take_along_axis(scores, movies[chosen, None], axis=1)
        below += float((scores < own).mean(1).sum())
        errors += float(((own - 1) ** 2).sum())
    return {"auc": below / len(rows), "loss": errors / len(rows)}
