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

__all__ = ["beside_rivals", "class_tables", "impossible_runs", "kilobytes", "least_difference"]

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
    """Which methods have no tables of a size, or no training, and why, in words."""
    found = [row for row in rows if "impossible" in row and row.get("trial") == 0]
    return [f"{row['method']}{_at(row['target_ratio'])}: {row['impossible']}" for row in found]


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
    """Where ours lead least, of all sizes in :func:`beside_rivals`, in words; or nothing."""
    whole = _whole(found)
    least = least_lead(found, whole / SIZES[-1], whole / SIZES[0])
    if least is None:
        return ""
    lead, nbytes = least
    if lead == -math.inf:
        return f"In {kilobytes(nbytes)} KB, the size of a rival, no table of ours was measured."
    return f"Least difference: {lead:+.4f}, in {kilobytes(nbytes)} KB, the size of a rival."


def kilobytes(nbytes: float) -> str:
    """With three digits, or whole ones."""
    return f"{nbytes / 1e3:.3g}" if nbytes < 1e6 else f"{nbytes / 1e3:,.0f}"


def _whole(found: Sequence[Point]) -> float:
    """Bytes of the uncompressed tables and their vocabulary."""
    return next(point for point in found if point.method == UNCOMPRESSED).mean("bytes_all_in")


def _cells(point: Point) -> list[str]:
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
        _known(point.mean("train_seconds"), ",.0f"),
        _known(point.mean("lookup_ns"), ",.0f"),
    ]


def _at(ratio: float | None) -> str:
    return "" if ratio is None else f" at {ratio:g}"


def _known(value: float, form: str) -> str:
    return "-" if math.isnan(value) else f"{value:{form}}"


def _named(point: Point) -> str:
    return f"{point.method} at {point.mean('ratio_all_in'):.3g}"
