"""Quality against all bytes, by method: points over seeds, and the best of ours by size."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import mean
from typing import Any

__all__ = [
    "CLASSES",
    "EVERY",
    "MEASURES",
    "OURS",
    "RIVALS",
    "SIZES",
    "SMALL",
    "TRAINED",
    "UNCOMPRESSED",
    "Point",
    "best_at",
    "by_model",
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
_, _OTHERWISE, *_SMALL = CLASSES.values()
SMALL = tuple(name for names in _SMALL for name in names)
TRAINED = (*_OTHERWISE, *SMALL)  # these change training
OURS = tuple(name for name in EVERY if name.startswith(("saec", "axes")) or "+" in name)
RIVALS = tuple(name for name in EVERY if name not in OURS)

# Of the original, rows and keys, by all bytes: sizes at which ours stand beside the rivals.
SIZES = (5, 7, 10, 15, 20, 30, 50, 70, 100, 200, 300, 500)

# Two tables are of the same size if the larger one has so many times the bytes of the other: no
# method meets a ratio exactly.
SAME_SIZE = 1.01


@dataclass(frozen=True)
class Point:
    """A method at one size: the runs of several seeds, with the settings that are best by the
    validation rows of that seed which has most trials."""

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


def by_model(
    rows: Iterable[Mapping[str, Any]],
) -> Iterator[tuple[tuple[str, str, float], list[dict[str, Any]]]]:
    """Runs of one task, model and width after the other, with these three."""

    def key(row: Mapping[str, Any]) -> tuple[str, str, float]:
        return row["task"], row["model"], row["dim"]

    for own, group in groupby(sorted(rows, key=key), key):
        yield own, [dict(row) for row in group]


def with_changes(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Runs of seeds with a run of ``float32``, and their changes from it; and impossible ones.

    Args:
        rows: of one task and model, from :func:`by_model`.
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
    all_points = [_point(*known, seeds) for known, seeds in found.items()]
    order = {name: place for place, name in enumerate((UNCOMPRESSED, *EVERY))}
    return sorted(
        all_points,
        key=lambda point: (
            order.get(point.method, len(order)),
            point.method,
            -point.mean("bytes_all_in"),
        ),
    )


def _point(
    method: str, ratio: float | None, seeds: Mapping[int, Sequence[dict[str, Any]]]
) -> Point:
    tried = max(seeds.values(), key=len)
    chosen = _settings(min(tried, key=_validation_loss))
    runs = [
        min(own, key=_validation_loss)
        for rows in seeds.values()
        for own in [[row for row in rows if _settings(row) == chosen]]
        if own
    ]
    return Point(method, ratio, runs, len(tried))


def _settings(row: Mapping[str, Any]) -> Mapping[str, Any]:
    settings: Mapping[str, Any] = row.get("settings", {})
    return settings


def _validation_loss(row: Mapping[str, Any]) -> float:
    return float(row["validation_logloss"])


def best_at(found: Sequence[Point], methods: Sequence[str], nbytes: float) -> Point | None:
    """The least loss of AUC of ``methods`` in ``nbytes`` in all, or hardly more; None if none is so
    small."""
    limit = SAME_SIZE * nbytes
    fitting = [
        point for point in found if point.method in methods and point.mean("bytes_all_in") <= limit
    ]
    return max(fitting, key=lambda point: point.mean("d_auc"), default=None)


def least_lead(found: Sequence[Point], sizes: Sequence[float]) -> tuple[float, float] | None:
    """By how much the best of ours loses less AUC than the best rival, at least, in a number of
    bytes of ``sizes`` or of a rival between them, and that number; None if no rival is so small.
    """
    rivals = [point.mean("bytes_all_in") for point in found if point.method in RIVALS]
    between = [nbytes for nbytes in rivals if min(sizes) <= nbytes <= max(sizes)]
    leads = []
    for nbytes in (*sizes, *between):
        ours, rival = (best_at(found, methods, nbytes) for methods in (OURS, RIVALS))
        if rival is not None:
            lost = -math.inf if ours is None else ours.mean("d_auc")
            leads.append((lost - rival.mean("d_auc"), nbytes))
    return min(leads, default=None)
