"""The picture of docs/results.md and README: AUC lost against bytes, by method, as SVG.

    python benchmarks/plot_rivals.py benchmarks/recorded/rivals_*.json

Writes docs/pictures/rivals.svg from results files of ``saec bench``, with a column of panels for
each task: above the bytes of the tables, below those of tables and vocabulary (``bytes_all_in``).
Points are means over seeds. Prints the same as a table.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from plot_lookup import PICTURES, STYLE

from saec.report.comparison_chart import MARKS

LEAST = 1e-4  # of AUC: below, the axis is linear

Point = tuple[float, float]


def points(rows: Iterable[dict[str, Any]], size: str) -> dict[str, list[Point]]:
    """By method: megabytes and the change of AUC at each ratio, means over seeds, sorted."""
    found: dict[tuple[str, float | None], list[Point]] = defaultdict(list)
    for row in rows:
        if row["method"] in MARKS:
            found[row["method"], row["target_ratio"]].append(
                (row[size] / 1e6, row["auc"] - row["base_auc"])
            )
    lines: dict[str, list[Point]] = defaultdict(list)
    for (method, _), same in found.items():
        lines[method].append((mean(x for x, _ in same), mean(y for _, y in same)))
    return {method: sorted(line) for method, line in lines.items()}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Means over seeds, in Markdown."""
    same: dict[tuple[str, float | None], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        same[row["method"], row["target_ratio"]].append(row)
    lines = ["| method | ratio | MB | MB, all in | ratio, all in | dAUC | d log loss | seeds |"]
    lines.append("|---" * 8 + "|")
    for (method, _), found in sorted(same.items(), key=lambda item: list(MARKS).index(item[0][0])):
        means = {
            name: mean(row[name] for row in found)
            for name in ("ratio", "nbytes", "bytes_all_in", "ratio_all_in")
        }
        lost = [
            mean(row[name] - row[f"base_{name}"] for row in found) for name in ("auc", "logloss")
        ]
        lines.append(
            f"| `{method}` | {means['ratio']:.1f} | {means['nbytes'] / 1e6:.3g} "
            f"| {means['bytes_all_in'] / 1e6:.3g} | {means['ratio_all_in']:.1f} "
            f"| {lost[0]:+.4f} | {lost[1]:+.4f} | {len(found)} |"
        )
    return "\n".join(lines)


def panel(axes: Axes, rows: Sequence[dict[str, Any]], size: str) -> None:
    """One log and one way to count bytes."""
    found = points(rows, size)
    first = rows[0]
    keys = 0 if size == "nbytes" else 8 * first["features"]
    plain = (first["original_nbytes"] + keys) / 1e6
    axes.plot([plain], [0], "k*", markersize=10, label="float32", clip_on=False, zorder=4)
    for method, (label, colour, marker) in MARKS.items():
        if method in found:
            axes.plot(
                *zip(*found[method], strict=True),
                color=colour,
                marker=marker,
                linewidth=2.2 if method.startswith(("saec", "axes")) else 1.0,
                label=label,
                clip_on=False,
                zorder=3,
            )
    axes.set_xscale("log")
    axes.set_yscale("symlog", linthresh=LEAST, linscale=0.6)
    axes.set_ylim(-0.15, LEAST)
    axes.set_yticks([-0.1, -0.01, -0.001, -LEAST, 0], ["-0.1", "-0.01", "-0.001", "-0.0001", "0"])
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.grid(visible=True)


def draw(results: Sequence[Sequence[dict[str, Any]]]) -> Figure:
    """A column for each results file."""
    figure = Figure(figsize=(9.5, 8), layout="constrained", facecolor="white")
    grid = figure.subplots(2, len(results), squeeze=False)
    for column, rows in enumerate(results):
        seeds = len({row["seed"] for row in rows})
        said = "1 seed" if seeds == 1 else f"{seeds} seeds"
        for place, size in enumerate(("nbytes", "bytes_all_in")):
            panel(grid[place, column], rows, size)
        grid[0, column].set(title=f"{rows[0]['task']}, {said}", xlabel="MB of tables")
        grid[1, column].set(xlabel="MB of tables and vocabulary")
    for left in grid[:, 0]:
        left.set(ylabel="change of test AUC")
    handles = {}
    for axes in grid[0]:
        handles |= {handle.get_label(): handle for handle in axes.get_legend_handles_labels()[0]}
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=4)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, nargs="+")
    tasks: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for path in parser.parse_args().results:
        for row in json.loads(path.read_text())["rows"]:
            keyed = {"method": "axes-keyed"} if row.get("keyed") else {}
            tasks[row["task"]].append(row | keyed)
    results = list(tasks.values())
    for rows in results:
        print(table(rows))
    path = PICTURES / "rivals.svg"
    with matplotlib.rc_context(STYLE):
        draw(results).savefig(path, format="svg", metadata={"Date": None})
    print(path)


if __name__ == "__main__":
    main()
