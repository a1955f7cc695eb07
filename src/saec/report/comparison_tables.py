"""The points of a comparison as tables."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from saec.report.comparison import (
    CLASSES,
    EVERY,
    OURS,
    RIVALS,
    SIZES,
    TRAINED,
    UNCOMPRESSED,
    Point,
    best_at,
    least_lead,
)
from saec.report.tables import ReportTable

__all__ = [
    "beside_rivals",
    "class_tables",
    "impossible_runs",
    "kilobytes",
    "least_difference",
    "three_digits",
]

_HEAD = [
    *("method", "aimed at", "ratio", "ratio, all in", "KB, all in", "AUC", "dAUC", "spread"),
    *("d log loss", "trials", "seeds", "training, s", "lookup, ns"),
]
_OTHERS = "Other methods"


def class_tables(found: Sequence[Point]) -> Iterator[ReportTable]:
    """One for each class of methods that has points, a line a point; the first one begins with the
    uncompressed model."""
    others = tuple({point.method for point in found} - {UNCOMPRESSED, *EVERY})
    first, *more = CLASSES
    classes = {first: (UNCOMPRESSED, *CLASSES[first])} | {name: CLASSES[name] for name in more}
    for title, methods in {**classes, _OTHERS: others}.items():
        own = [point for point in found if point.method in methods]
        if own:
            yield ReportTable(title, _HEAD, [_cells(point) for point in own])


def impossible_runs(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Which methods were not measured at a size at all, and the first reason, in words."""
    measured = {(row["method"], row["target_ratio"]) for row in rows if "impossible" not in row}
    found: dict[str, str] = {}
    for row in rows:
        if (row["method"], row["target_ratio"]) not in measured:
            found.setdefault(f"{row['method']}{_at(row['target_ratio'])}", row["impossible"])
    return [f"{name}: {why}" for name, why in found.items()]


def beside_rivals(found: Sequence[Point]) -> ReportTable:
    """At each of some sizes, the best of ours and the best rival that fit."""
    whole = _whole(found)
    lines = []
    for ratio in SIZES:
        best = [best_at(found, methods, whole / ratio) for methods in (OURS, RIVALS)]
        cells = [f"{ratio}", kilobytes(whole / ratio)]
        for point in best:
            cells += ["-", "-"] if point is None else [_named(point), f"{point.mean('d_auc'):+.4f}"]
        lost = [point.mean("d_auc") for point in best if point is not None]
        cells.append(f"{lost[0] - lost[1]:+.4f}" if len(lost) == len(best) else "-")
        lines.append(cells)
    head = ["ratio, all in", "KB", "ours", "dAUC", "rival", "dAUC", "difference"]
    return ReportTable("Ours beside the best rival", head, lines)


def least_difference(found: Sequence[Point]) -> str:
    """Where ours lead least, of the sizes in :func:`beside_rivals` and those of rivals between
    them, in words; or nothing."""
    whole = _whole(found)
    least = least_lead(found, [whole / ratio for ratio in SIZES])
    if least is None:
        return ""
    lead, nbytes = least
    if lead == -math.inf:
        return f"In {kilobytes(nbytes)} KB, where a rival fits, no table of ours does."
    where = f"in {kilobytes(nbytes)} KB"
    return f"Least difference, here and at the sizes of rivals between: {lead:+.4f}, {where}."


def kilobytes(nbytes: float) -> str:
    """Without the unit."""
    return three_digits(nbytes / 1e3)


def three_digits(value: float) -> str:
    """A number with three digits, or from 1,000 on a whole one; a dash for NaN."""
    if math.isnan(value):
        return "-"
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:,.0f}"


def _whole(found: Sequence[Point]) -> float:
    """Bytes of the uncompressed tables and their vocabulary."""
    return next(point for point in found if point.method == UNCOMPRESSED).mean("bytes_all_in")


def _cells(point: Point) -> list[str]:
    seconds = point.mean("train_seconds")
    return [
        point.method,
        "-" if point.ratio is None else f"{point.ratio:g}",
        f"{point.mean('ratio'):.1f}",
        f"{point.mean('ratio_all_in'):.1f}",
        kilobytes(point.mean("bytes_all_in")),
        f"{point.mean('auc'):.4f}",
        f"{point.mean('d_auc'):+.4f}",
        f"{point.spread('d_auc'):.4f}" if len(point.runs) > 1 else "-",
        f"{point.mean('d_logloss'):+.4f}",
        f"{point.trials}" if point.method in TRAINED else "-",
        f"{len(point.runs)}",
        "-" if math.isnan(seconds) else f"{seconds:,.0f}",
        three_digits(point.mean("lookup_ns")),
    ]


def _at(ratio: float | None) -> str:
    return "" if ratio is None else f" at {ratio:g}"


def _named(point: Point) -> str:
    seeds = ", one seed" * (len(point.runs) == 1)
    return f"{point.method} at {three_digits(point.mean('ratio_all_in'))}{seeds}"
