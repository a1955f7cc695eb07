"""Quality against all bytes, by method: points over seeds, and the best of ours by size."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

__all__ = [
    "CLASSES",
    "EVERY",
    "MEASURES",
    "OURS",
    "RIVALS",
    "SIZES",
    "TRAINED",
    "UNCOMPRESSED",
    "Point",
    "best_at",
    "least_lead",
    "points",
    "with_changes",
]

MEASURES = ("auc", "logloss")
UNCOMPRESSED = "float32"

# Classes of Li et al., Embedding Compression in Recommender Systems: A Survey, 2024 (section 3),
# beside what is done after training.
CLASSES = {
    "After training": (
        *("float16", "int8", "int4", "int2", "svd", "head-mean", "pq", "opq"),
        *("saec", "saec-metric", "axes", "axes-keyed", "axes-keyed+network", "axes-remapped"),
    ),
    "Trained otherwise: by other settings, a running mean, or a price on bits": (
        *("float32+tuned", "axes-keyed+tuned", "float32+averaged", "axes-keyed+averaged"),
        *("float32+priced", "saec+priced", "saec-metric+priced", "axes+priced"),
        "axes-keyed+priced",
    ),
    "Low precision": ("dqrm", "alpt", "mpe"),
    "Mixed dimension": ("mixed-dim",),
    "Weight sharing": ("hash", "qr", "robe", "dhe", "tt", "semi-tt", "cce"),
}
EVERY = tuple(name for names in CLASSES.values() for name in names)
TRAINED = EVERY[len(CLASSES["After training"]) :]  # these change training
OURS = tuple(name for name in EVERY if name.startswith(("saec", "axes")) or "+" in name)
RIVALS = tuple(name for name in EVERY if name not in OURS)

# Of the original, rows and keys, by all bytes: sizes at which ours stand beside the rivals.
SIZES = (5, 7, 10, 15, 20, 30, 50, 70, 100, 200, 300, 500)

# Two tables are of the same size if the larger one has so many times the bytes of the other: no
# method meets a ratio exactly.
SAME_SIZE = 1.01


@dataclass(frozen=True)
class Point:
    """A method at one size: the runs of several seeds, each the best of its trials."""

    method: str
    ratio: float | None
    runs: Sequence[dict[str, Any]]
    trials: int

    def mean(self, measure: str) -> float:
        """Over seeds; NaN if it was not measured."""
        values = [run.get(measure) for run in self.runs]
        known = [value for value in values if value is not None]
        return float(mean(known)) if len(known) == len(values) else math.nan

    def spread(self, measure: str) -> float:
        """Half of the difference between the highest and the lowest of the seeds."""
        values: list[float] = [run[measure] for run in self.runs]
        return (max(values) - min(values)) / 2


def with_changes(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Runs of seeds with a run of ``float32``, and their changes from it; and impossible ones.

    Args:
        rows: of one task and model, as of :func:`saec.report.rival_runs.read_runs`.
    """
    measured = [row for row in rows if "impossible" not in row]
    whole = {row["seed"]: row for row in measured if row["method"] == UNCOMPRESSED}
    yield from (row for row in rows if "impossible" in row)
    for row in measured:
        if row["seed"] in whole:
            yield row | {f"d_{name}": row[name] - whole[row["seed"]][name] for name in MEASURES}


def points(rows: Sequence[dict[str, Any]]) -> list[Point]:
    """Of all methods with finished runs, in order of the methods and then of bytes.

    Args:
        rows: of one task, with the changes from :func:`with_changes`.
    """
    found: dict[tuple[str, float | None], dict[int, list[dict[str, Any]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for row in rows:
        if "impossible" not in row:
            found[row["method"], row["target_ratio"]][row["seed"]].append(row)
    all_points = [
        Point(
            method,
            ratio,
            [min(trials, key=lambda run: run["validation_logloss"]) for trials in seeds.values()],
            max(map(len, seeds.values())),
        )
        for (method, ratio), seeds in found.items()
    ]
    order = {name: place for place, name in enumerate((UNCOMPRESSED, *EVERY))}
    return sorted(
        all_points,
        key=lambda point: (
            order.get(point.method, len(order)),
            point.method,
            -point.mean("bytes_all_in"),
        ),
    )


def best_at(found: Sequence[Point], methods: Sequence[str], nbytes: float) -> Point | None:
    """The least loss of AUC of ``methods`` in ``nbytes`` in all, or hardly more; None if none is so
    small."""
    limit = SAME_SIZE * nbytes
    fitting = [
        point for point in found if point.method in methods and point.mean("bytes_all_in") <= limit
    ]
    return max(fitting, key=lambda point: point.mean("d_auc"), default=None)


def least_lead(found: Sequence[Point], low: float, high: float) -> tuple[float, float] | None:
    """By how much the best of ours loses less AUC than the best rival, at least, in a number of
    bytes from ``low`` to ``high``, and that number; None if nothing was measured there.

    The best rival changes only at the sizes of rivals, so no other sizes need to be looked at.
    """
    leads = []
    for rival in found:
        nbytes = rival.mean("bytes_all_in")
        if rival.method in RIVALS and low <= nbytes <= high:
            ours, best = (best_at(found, methods, nbytes) for methods in (OURS, RIVALS))
            assert best is not None, "the rival itself fits"
            lost = -math.inf if ours is None else ours.mean("d_auc")
            leads.append((lost - best.mean("d_auc"), nbytes))
    return min(leads, default=None)
