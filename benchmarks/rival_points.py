"""Points of a picture of quality against all bytes, from results files; the best ones by size."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from plot_rivals import METHODS

from saec.reference.rival_runs import RunFile
from saec.reference.rival_trials import TRAINED_OTHERWISE
from saec.tables.field_keys import KEY_BYTES

__all__ = [
    "Point",
    "beside_rivals",
    "best_at",
    "kilobytes",
    "least_lead",
    "points",
    "rows_by_task",
    "with_changes",
]

MEASURES = ("auc", "logloss")
OURS = tuple(
    name for name in METHODS if name.startswith(("saec", "axes")) or name in TRAINED_OTHERWISE
)
RIVALS = tuple(name for name in METHODS if name not in OURS)

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
        return mean(run.get(measure, math.nan) for run in self.runs)

    def spread(self, measure: str) -> float:
        """Half of the difference between the highest and the lowest of the seeds."""
        values = [run[measure] for run in self.runs]
        return (max(values) - min(values)) / 2


def rows_by_task(paths: Iterable[Path]) -> dict[str, list[dict[str, Any]]]:
    """Rows of all files, by task, with the changes from the uncompressed model of the same run.

    Args:
        paths: results of ``saec bench --rivals`` (``.jsonl``), where that model is the method
            ``float32`` of the same seed; seeds without it are left out. Or of ``saec bench``
            (``.json``), where each row has that model's quality.
    """
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for path in paths:
        rows = _of_bench(path) if path.suffix == ".json" else with_changes(RunFile(path).rows)
        for row in rows:
            found[row["task"]].append(row)
    return found


def with_changes(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Runs of seeds with a run of ``float32``, and their changes from it; and impossible ones."""
    whole = {row["seed"]: row for row in rows if row["method"] == "float32"}
    for row in rows:
        if "impossible" in row:
            yield row
        elif row["seed"] in whole:
            yield row | {f"d_{name}": row[name] - whole[row["seed"]][name] for name in MEASURES}


def _of_bench(path: Path) -> Iterator[dict[str, Any]]:
    """The same of a results file of ``saec bench``; and its uncompressed models."""
    seeds = set()
    for row in json.loads(path.read_text())["rows"]:
        if row["method"] not in METHODS or row.get("finetuned"):
            continue
        own = {"trial": 0, **{f"d_{name}": row[name] - row[f"base_{name}"] for name in MEASURES}}
        keyed = row["method"] == "axes" and row.get("keyed")
        yield row | own | ({"method": "axes-keyed"} if keyed else {})
        if row["seed"] not in seeds:
            seeds.add(row["seed"])
            yield _uncompressed(row)


def _uncompressed(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "task": row["task"],
        "method": "float32",
        "target_ratio": None,
        "seed": row["seed"],
        "trial": 0,
        "nbytes": row["original_nbytes"],
        "bytes_all_in": row["original_nbytes"] + KEY_BYTES * row["features"],
        "ratio": 1.0,
        "ratio_all_in": 1.0,
        "validation_logloss": math.inf,  # not in all files; there is nothing to choose among
        **{name: row[f"base_{name}"] for name in MEASURES},
        **{f"d_{name}": 0.0 for name in MEASURES},
    }


def points(rows: Sequence[dict[str, Any]]) -> list[Point]:
    """Of all methods with finished runs, in order of the methods and then of bytes.

    Args:
        rows: of one task, from :func:`rows_by_task`.
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
    order = ["float32", *METHODS]
    return sorted(
        all_points, key=lambda point: (order.index(point.method), -point.mean("bytes_all_in"))
    )


def best_at(found: Sequence[Point], methods: Sequence[str], nbytes: float) -> Point | None:
    """The least loss of AUC of ``methods`` in ``nbytes`` in all, or hardly more; None if none is so
    small."""
    limit = SAME_SIZE * nbytes
    fitting = [
        point for point in found if point.method in methods and point.mean("bytes_all_in") <= limit
    ]
    return max(fitting, key=lambda point: point.mean("d_auc"), default=None)


def beside_rivals(found: Sequence[Point]) -> str:
    """At each of some sizes, the best of ours and the best rival, in Markdown; and where ours lead
    least, of all sizes from the largest to the smallest of these."""
    whole = next(point for point in found if point.method == "float32").mean("bytes_all_in")
    lines = ["| ratio, all in | KB | ours | dAUC | rival | dAUC | difference |", "|---" * 7 + "|"]
    for ratio in SIZES:
        best = [best_at(found, methods, whole / ratio) for methods in (OURS, RIVALS)]
        cells = [f"{ratio}", kilobytes(whole / ratio)]
        for point in best:
            cells += ["-", "-"] if point is None else [_named(point), f"{point.mean('d_auc'):+.4f}"]
        lost = [point.mean("d_auc") for point in best if point is not None]
        cells.append(f"{lost[0] - lost[1]:+.4f}" if len(lost) == len(best) else "-")
        lines.append(f"| {' | '.join(cells)} |")
    least = least_lead(found, whole / SIZES[-1], whole / SIZES[0])
    if least is not None:
        lead, nbytes = least
        lines += [
            "",
            f"Least difference: {lead:+.4f}, in {kilobytes(nbytes)} KB, the size of a rival.",
        ]
    return "\n".join(lines)


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


def kilobytes(nbytes: float) -> str:
    """With three digits, or whole ones."""
    return f"{nbytes / 1e3:.3g}" if nbytes < 1e6 else f"{nbytes / 1e3:,.0f}"


def _named(point: Point) -> str:
    return f"`{point.method}` at {point.mean('ratio_all_in'):.3g}"
