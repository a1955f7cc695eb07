"""The picture and the tables of docs/comparison.md: quality against all bytes, by method.

    python benchmarks/plot_rival_runs.py benchmarks/recorded/rivals[-_]* \\
        --lookups benchmarks/recorded/rival_lookups.jsonl

Writes docs/pictures/rivals_TASK.svg from results files of ``saec bench TASK --rivals`` and of
``saec bench TASK``: test AUC and log loss against ``bytes_all_in``. Of the trials of a seed,
validation log loss chooses; points are mean changes from the uncompressed models of the same seeds,
with their spread. Prints the same as a table for each class of methods, and a table of the best of
ours beside the best rival that fit into each of some sizes. README's picture,
docs/pictures/rivals_all.svg, has the test AUC of all tasks.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from plot_lookup import PICTURES, STYLE
from recorded_runs import RecordedRuns

from saec.report.comparison import EVERY, MEASURES, Point, by_model, points, with_changes
from saec.report.comparison_chart import panel
from saec.report.comparison_tables import (
    beside_rivals,
    class_tables,
    impossible_runs,
    least_difference,
)
from saec.report.drawing import INK
from saec.report.rival_runs import read_runs
from saec.report.tables import ReportTable
from saec.tables.field_keys import KEY_BYTES

TASKS = ("ml-1m", "ml-1m-x", "globo")  # in README's picture, which leaves these out:
LEFT_OUT = {"axes-keyed+network", "saec-metric+priced", "axes+priced"}
LEFT_OUT |= {name for name in EVERY if name.endswith("+averaged")}

_LOOKED_UP = ("task", "method", "target_ratio")

# Changes from the uncompressed model that are drawn; what loses more is in the tables.
WINDOWS = {"auc": (-0.03, 0.01), "logloss": (-0.012, 0.036)}


def markdown(table: ReportTable) -> str:
    """A table of a report, with names of methods as code."""
    lines = [table.head, ["---"] * len(table.head)]
    lines += [[re.sub(r"^([a-z][\w+-]*)", r"`\1`", cell) for cell in row] for row in table.rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def tables(found: Sequence[Point], rows: Sequence[dict[str, Any]]) -> str:
    """One for each class, what has no such size, and ours beside the best rival, in Markdown."""
    parts = [f"### {table.title}\n\n{markdown(table)}\n" for table in class_tables(found)]
    parts += [f"* {line}" for line in impossible_runs(rows)]
    beside = beside_rivals(found)
    parts += [f"\n### {beside.title}\n\n{markdown(beside)}\n", least_difference(found)]
    return "\n".join(parts)


def draw(found: Sequence[Point], title: str) -> Figure:
    """AUC beside log loss."""
    figure = Figure(figsize=(9.5, 7), layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2)
    panel(left, found, "auc", "change of test AUC", WINDOWS["auc"])
    panel(right, found, "logloss", "change of test log loss, nats", WINDOWS["logloss"])
    figure.suptitle(title)
    _legend(figure, 4)
    return figure


def draw_tasks(found: Mapping[str, Sequence[Point]]) -> Figure:
    """AUC for each task."""
    figure = Figure(figsize=(12, 6.5), layout="constrained", facecolor="white")
    for axes, task in zip(figure.subplots(1, len(found)), found, strict=True):
        own = [point for point in found[task] if point.method not in LEFT_OUT]
        panel(axes, own, "auc", "change of test AUC", WINDOWS["auc"])
        axes.set_title(task)
        axes.xaxis.set_major_locator(LogLocator())
    _legend(figure, 5)
    return figure


def _legend(figure: Figure, columns: int) -> None:
    """Below, of all panels."""
    entries = {
        label: handle
        for axes in figure.axes
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=columns)


def save(figure: Figure, name: str) -> None:
    """As a picture of the documents, on white."""
    path, text = PICTURES / f"{name}.svg", io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    path.write_text(text.getvalue().replace(INK, "#000000"))
    print(path)


def rows_by_task(paths: Iterable[Path]) -> dict[str, list[dict[str, Any]]]:
    """Rows of all files, by task, with the changes from the uncompressed model of the same run.

    Args:
        paths: results of ``saec bench --rivals`` (``.jsonl``), where that model is the method
            ``float32`` of the same seed; seeds without it are left out. Or of ``saec bench``
            (``.json``), where each row has that model's quality.
    """
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for path in paths:
        for row in _of_bench(path) if path.suffix == ".json" else _of_rivals(path):
            found[row["task"]].append(row)
    return found


def _of_rivals(path: Path) -> Iterator[dict[str, Any]]:
    for _, rows in by_model(read_runs(path)):
        yield from with_changes(rows)


def with_lookups(
    rows: Iterable[dict[str, Any]], known: Iterable[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Runs with the times of lookups of ``known`` lines in place of their own, which were measured
    beside other work; a model that is trained otherwise has tables of the same kind."""
    times = {tuple(line[name] for name in _LOOKED_UP): line["lookup_ns"] for line in known}
    found = []
    for row in rows:
        plain = {**row, "method": re.sub(r"\+\w+$", "", row["method"])}
        own = {"lookup_ns": times.get(tuple(plain[name] for name in _LOOKED_UP), math.nan)}
        found.append(row | own)
    return found


def _of_bench(path: Path) -> Iterator[dict[str, Any]]:
    """The same of a results file of ``saec bench``; and its uncompressed models."""
    seeds = set()
    for row in json.loads(path.read_text())["rows"]:
        if row["method"] not in EVERY or row.get("finetuned"):
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--lookups", type=Path, help="results of rival_lookups.py")
    options = parser.parse_args()
    every = rows_by_task(options.results)
    if options.lookups is not None:
        known = RecordedRuns(options.lookups).lines()
        every = {task: with_lookups(rows, known) for task, rows in every.items()}
    found = {task: points(rows) for task, rows in every.items()}
    with matplotlib.rc_context(STYLE):
        for task, rows in every.items():
            seeds = len({row["seed"] for row in rows})
            print(f"## {task}\n\n{tables(found[task], rows)}\n")
            save(draw(found[task], f"{task}, {seeds} seed{'s' * (seeds > 1)}"), f"rivals_{task}")
        if set(TASKS) <= found.keys():
            save(draw_tasks({task: found[task] for task in TASKS}), "rivals_all")


if __name__ == "__main__":
    main()
