"""The page: one HTML file with its curves inside, nothing loaded from anywhere."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saec.report.charts import decile_chart, field_chart, prediction_chart, tier_chart
from saec.report.comparison_page import render_comparison
from saec.report.curves import curve
from saec.report.drawing import COLOURS
from saec.report.methods import explained
from saec.report.pictures import drawn
from saec.report.results import Experiment, Measured, check_results, read_results, summarise
from saec.report.rival_runs import RUNS_SUFFIX, read_runs
from saec.report.tables import ReportTable, cluster_table, decile_table, field_table, tier_tables
from saec.report.templates import filled
from saec.util.atomic_file import whole_file

__all__ = ["render", "write_report"]

# A feature in a picture takes some 130 bytes: so a page stays below two megabytes.
_MOST_FEATURES = 9_000


def render(results: dict[str, Any]) -> str:
    """The report on ``results`` as an HTML page; the same results give the same text.

    Args:
        results: as ``saec.reference.experiment.bench`` returns them.

    Raises:
        DataError: something is missing in the results or of the wrong type; names it.
        OptionalDependencyError: jinja2 or matplotlib is not installed.
    """
    check_results(results)
    experiments = summarise(results)
    values = {
        "sections": [_section(*found) for found in enumerate(experiments)],
        "command": results["command"],
        "machine": list(_facts(results["machine"])),
        "methods": _explained(experiments),
        "colours": COLOURS,
    }
    return filled("page.html.j2", values, {"clusters": cluster_table, "picture": drawn})


def write_report(results_path: str | os.PathLike[str], out: str | os.PathLike[str]) -> None:
    """Write the report on a results file to ``out``, whole or not at all.

    Args:
        results_path: as ``saec bench`` writes it; one that ends in ``.jsonl``, as ``saec bench
            --rivals`` does.
        out: the HTML page.

    Raises:
        DataError: the results cannot be read or are none, or ``out`` cannot be written.
        OptionalDependencyError: jinja2 or matplotlib is not installed.
    """
    if Path(results_path).suffix == RUNS_SUFFIX:
        page = render_comparison(read_runs(results_path), str(results_path))
    else:
        page = render(read_results(results_path))
    with whole_file(out) as stream:
        stream.write(page.encode(errors="replace"))  # see _is_text


@dataclass(frozen=True)
class _Section:
    """What the page shows of an experiment, besides the table of all its figures.

    Args:
        experiment: the experiment.
        curves: drawings of quality.
        inside: drawings of what is in compressed models.
        quality_tables: what curves do not show exactly.
        inside_tables: what drawings of the inside do not.
        pictured: the methods, at one size each, whose clusterings are drawn.
        left_out: the labels of those whose are not, to keep the page small.
    """

    experiment: Experiment
    curves: list[str]
    inside: list[str]
    quality_tables: list[ReportTable]
    inside_tables: list[ReportTable]
    pictured: list[Measured]
    left_out: list[str]


def _section(place: int, experiment: Experiment) -> _Section:
    measured = experiment.measured
    pictured = [point for point in measured if point.pictures]
    shown: list[Measured] = []
    left = _MOST_FEATURES if place == 0 else 0  # of a file that joins several, the first alone
    for point in pictured:
        left -= sum(len(picture.features) for picture in point.pictures)
        if left >= 0:
            shown.append(point)
    tables = [field_table(measured), *tier_tables(measured)]
    inside = field_chart(measured, f"field-{place}"), tier_chart(measured, f"tier-{place}")
    return _Section(
        experiment=experiment,
        curves=list(_curves(experiment, place)),
        inside=[svg for svg in inside if svg is not None],
        quality_tables=[table for table in [decile_table(measured)] if table is not None],
        inside_tables=[table for table in tables if table is not None],
        pictured=shown,
        left_out=[point.label for point in pictured if point not in shown],
    )


def _curves(experiment: Experiment, place: int) -> Iterator[str]:
    measured = experiment.measured
    yield curve(measured, lambda point: point.auc_change, "change of AUC", f"auc-{place}")
    yield curve(measured, lambda point: point.logloss_change, "change of log loss", f"loss-{place}")
    for more in (
        decile_chart(measured, f"decile-{place}"),
        prediction_chart(measured, f"predicted-{place}"),
    ):
        if more is not None:
            yield more


def _explained(experiments: Iterable[Experiment]) -> dict[str, str]:
    """Meaning of each method of the results by its label; unknown methods are left out."""
    points = (point for experiment in experiments for point in experiment.measured)
    meanings = {point.label: explained(point.method) for point in points}
    return {label: what for label, what in meanings.items() if what is not None}


def _facts(machine: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The machine's entries as text; whatever a results file holds is shown."""
    for name, value in machine.items():
        if name == "memory" and isinstance(value, int):
            yield name, f"{value / 2**30:.1f} GiB"
        elif isinstance(value, dict):
            yield name, ", ".join(f"{key} {entry}" for key, entry in value.items())
        elif value is not None:
            yield name, str(value)
