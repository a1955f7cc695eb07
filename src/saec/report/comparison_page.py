"""The page on a comparison with other methods: quality against all bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from saec.errors import DataError
from saec.report.comparison import UNCOMPRESSED, Point, by_model, points, with_changes
from saec.report.comparison_chart import panel
from saec.report.comparison_tables import (
    beside_rivals,
    class_tables,
    impossible_runs,
    least_difference,
)
from saec.report.drawing import COLOURS, element
from saec.report.methods import METHODS, SMALL_METHODS
from saec.report.tables import ReportTable
from saec.report.templates import filled

__all__ = ["TaskComparison", "comparisons", "render_comparison"]

_HEIGHT = 4.2  # inches of a panel
_MACHINE = ("cpu", "cores", "torch", "saec")


@dataclass(frozen=True)
class TaskComparison:
    """All methods on one task with one model.

    Args:
        title: task, model and width of the tables.
        points: see :func:`saec.report.comparison.points`; the first is the uncompressed model.
        tables: one for each class of methods.
        beside: ours beside the best rival, at some sizes.
        least: where ours lead least, in words; or nothing.
        impossible: which methods have no tables of a size, in words.
        machine: where the runs were made, in words.
    """

    title: str
    points: Sequence[Point]
    tables: Sequence[ReportTable]
    beside: ReportTable
    least: str
    impossible: Sequence[str]
    machine: Sequence[str]


def comparisons(runs: Iterable[Mapping[str, Any]]) -> Iterator[TaskComparison]:
    """One for each task and model that has a run of the uncompressed model.

    Args:
        runs: from :func:`saec.report.rival_runs.read_runs`.
    """

    for (task, model, dim), group in by_model(runs):
        rows = list(with_changes(group))
        found = points(rows)
        if found:
            yield TaskComparison(
                title=f"{task}, {model}, dim {dim}",
                points=found,
                tables=list(class_tables(found)),
                beside=beside_rivals(found),
                least=least_difference(found),
                impossible=impossible_runs(rows),
                machine=sorted({_machine(row) for row in rows} - {""}),
            )


def render_comparison(runs: Iterable[Mapping[str, Any]], source: str) -> str:
    """The report on runs of ``saec bench --rivals`` as an HTML page; the same runs give the same
    text.

    Args:
        runs: from :func:`saec.report.rival_runs.read_runs`.
        source: of the runs, for the error.

    Raises:
        DataError: there is no run of the uncompressed model, from which all changes are counted.
        OptionalDependencyError: jinja2 or matplotlib is not installed.
    """
    found = list(comparisons(runs))
    if not found:
        raise DataError(
            f"{source} has no run of {UNCOMPRESSED!r}, the uncompressed model, from which changes "
            f"are counted; saec bench TASK --rivals --methods {UNCOMPRESSED} adds it"
        )
    shown = {point.method for one in found for point in one.points}
    known = METHODS | SMALL_METHODS
    values = {
        "sections": [(one, _charts(one, place)) for place, one in enumerate(found)],
        "methods": {name: known[name] for name in known if name in shown},
        "colours": COLOURS,
    }
    return filled("comparison.html.j2", values, {})


def _charts(comparison: TaskComparison, place: int) -> list[str]:
    return [
        element(
            partial(panel, found=comparison.points, measure=measure, label=label),
            f"{label} against all bytes that serving needs",
            f"{measure}-{place}",
            _HEIGHT,
        )
        for measure, label in (
            ("auc", "change of test AUC"),
            ("logloss", "change of test log loss, nats"),
        )
    ]


def _machine(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {row[name]}" for name in _MACHINE if name in row)
