"""The page: one HTML file with its curves inside, nothing loaded from anywhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

from saec.errors import require
from saec.files import whole_file
from saec.report.charts import decile_chart, prediction_chart
from saec.report.curves import curve
from saec.report.results import Experiment, check_results, read_results, summarise

__all__ = ["render", "write_report"]


def render(results: dict[str, Any]) -> str:
    """The report on ``results`` as an HTML page; the same results give the same text.

    Args:
        results: as ``saec.reference.experiment.bench`` returns them.

    Raises:
        DataError: something is missing in the results or of the wrong type; names it.
        OptionalDependencyError: jinja2 or matplotlib is not installed.
    """
    jinja2: Any = require("jinja2", "report")
    check_results(results)
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    experiments = [
        (experiment, [jinja2.utils.markupsafe.Markup(svg) for svg in _curves(experiment, place)])
        for place, experiment in enumerate(summarise(results))
    ]
    template = files("saec.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    page: str = environment.from_string(template).render(
        experiments=experiments,
        command=results["command"],
        machine=list(_facts(results["machine"])),
    )
    return page


def write_report(results_path: str | os.PathLike[str], out: str | os.PathLike[str]) -> None:
    """Write the report on a results file to ``out``, whole or not at all.

    Raises:
        DataError: the results cannot be read or are none, or ``out`` cannot be written.
        OptionalDependencyError: jinja2 or matplotlib is not installed.
    """
    page = render(read_results(results_path))
    with whole_file(out) as stream:
        stream.write(page.encode(errors="replace"))  # see _is_text


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


def _facts(machine: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The machine's entries as text; whatever a results file holds is shown."""
    for name, value in machine.items():
        if name == "memory" and isinstance(value, int):
            yield name, f"{value / 2**30:.1f} GiB"
        elif isinstance(value, dict):
            yield name, ", ".join(f"{key} {entry}" for key, entry in value.items())
        elif value is not None:
            yield name, str(value)
