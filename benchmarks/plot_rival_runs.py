"""The picture and the tables of docs/comparison.md: quality against all bytes, by method.

    python benchmarks/plot_rival_runs.py benchmarks/recorded/rivals[-_]*

Writes docs/pictures/rivals_TASK.svg from results files of ``saec bench TASK --rivals`` and of
``saec bench TASK``: test AUC and log loss against ``bytes_all_in``. Of the trials of a seed,
validation log loss chooses; points are mean changes from the uncompressed models of the same seeds,
with their spread. Prints the same as a table for each class of methods, and a table of the best of
ours beside the best rival that fit into each of some sizes. README's picture,
docs/pictures/rivals_all.svg, has the test AUC of all tasks.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from plot_lookup import PICTURES, STYLE
from plot_rivals import METHODS
from rival_points import OURS, Point, beside_rivals, kilobytes, points, rows_by_task

from saec.reference.rival_trials import TRAINED_OTHERWISE
from saec.reference.small import SMALL

TRAINED = {*SMALL, *TRAINED_OTHERWISE}  # methods that change training; all others come after it

# Classes of Li et al., Embedding Compression in Recommender Systems: A Survey, 2024 (section 3),
# beside what is done after training.
CLASSES = {
    "After training": tuple(name for name in METHODS if name not in TRAINED),
    "Trained with a price on bits or a running mean": TRAINED_OTHERWISE,
    "Low precision": ("dqrm", "alpt", "mpe"),
    "Mixed dimension": ("mixed-dim",),
    "Weight sharing": ("hash", "qr", "robe", "dhe", "tt", "semi-tt", "cce"),
}
ORDER = ["float32", *(name for names in CLASSES.values() for name in names)]

TASKS = ("ml-1m", "ml-1m-x", "globo")  # in README's picture, which leaves these out:
LEFT_OUT = {"axes-keyed+network", "saec-metric+priced", "axes+priced"}
LEFT_OUT |= {name for name in TRAINED_OTHERWISE if name.endswith("+averaged")}

# Changes from the uncompressed model that are drawn; what loses more is in the tables.
WINDOWS = {"auc": (-0.03, 0.01), "logloss": (-0.012, 0.036)}


def tables(found: Sequence[Point], rows: Sequence[dict[str, Any]]) -> str:
    """One for each class, in Markdown."""
    parts = []
    for name, methods in CLASSES.items():
        own = [point for point in found if point.method in methods]
        if not own:
            continue
        parts += [f"### {name}", ""]
        parts += ["| method | aimed at | ratio | ratio, all in | KB, all in | AUC | dAUC "]
        parts[-1] += "| spread | d log loss | trials | seeds | training, s |"
        parts.append("|---" * 12 + "|")
        shown = ["float32", *methods] if name == "After training" else methods
        parts += [_line(point) for point in found if point.method in shown]
        parts += [""]
        for row in rows:
            if row["method"] in methods and "impossible" in row and row["trial"] == 0:
                parts += [f"* `{row['method']}` at {row['target_ratio']:g}: {row['impossible']}"]
        parts += [""]
    return "\n".join(parts)


def _line(point: Point) -> str:
    aimed = "-" if point.ratio is None else f"{point.ratio:g}"
    trials, seconds = point.trials if point.method in TRAINED else "-", point.mean("train_seconds")
    spread = f"{point.spread('d_auc'):.4f}" if len(point.runs) > 1 else "-"
    return (
        f"| `{point.method}` | {aimed} | {point.mean('ratio'):.1f} "
        f"| {point.mean('ratio_all_in'):.1f} | {kilobytes(point.mean('bytes_all_in'))} "
        f"| {point.mean('auc'):.4f} | {point.mean('d_auc'):+.4f} | {spread} "
        f"| {point.mean('d_logloss'):+.4f} | {trials} "
        f"| {len(point.runs)} | {'-' if math.isnan(seconds) else f'{seconds:.0f}'} |"
    )


def panel(axes: Axes, found: Sequence[Point], measure: str, label: str) -> None:
    """One measure against all bytes; ours are thick lines, what is trained small is broken."""
    for method, (name, colour, marker) in METHODS.items():
        own = [point for point in found if point.method == method]
        if own:
            axes.errorbar(
                [point.mean("bytes_all_in") / 1e6 for point in own],
                [point.mean(f"d_{measure}") for point in own],
                [point.spread(f"d_{measure}") for point in own],
                color=colour,
                marker=marker,
                linestyle="--" if method in SMALL else "-",
                linewidth=2.2 if method in OURS else 1.0,
                label=name,
                zorder=3,
            )
    axes.axhline(0, color="k", linewidth=0.8, linestyle=":", label="float32")
    axes.set_ylim(*WINDOWS[measure])
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel="MB, all that serving needs", ylabel=label)
    axes.grid(visible=True)


def draw(found: Sequence[Point], title: str) -> Figure:
    """AUC beside log loss."""
    figure = Figure(figsize=(9.5, 7), layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2)
    panel(left, found, "auc", "change of test AUC")
    panel(right, found, "logloss", "change of test log loss, nats")
    figure.suptitle(title)
    _legend(figure)
    return figure


def draw_tasks(found: Mapping[str, Sequence[Point]]) -> Figure:
    """AUC for each task."""
    figure = Figure(figsize=(12, 6.5), layout="constrained", facecolor="white")
    for axes, task in zip(figure.subplots(1, len(found)), found, strict=True):
        own = [point for point in found[task] if point.method not in LEFT_OUT]
        panel(axes, own, "auc", "change of test AUC")
        axes.set_title(task)
        axes.xaxis.set_major_locator(LogLocator())
    _legend(figure)
    return figure


def _legend(figure: Figure) -> None:
    """Below, of all panels."""
    entries = {
        label: handle
        for axes in figure.axes
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=5)


def save(figure: Figure, name: str) -> None:
    """As a picture of the documents."""
    path = PICTURES / f"{name}.svg"
    figure.savefig(path, format="svg", metadata={"Date": None})
    print(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, nargs="+")
    every = rows_by_task(parser.parse_args().results)
    found = {task: points(rows) for task, rows in every.items()}
    with matplotlib.rc_context(STYLE):
        for task, rows in every.items():
            seeds = len({row["seed"] for row in rows})
            print(f"## {task}\n\n{tables(found[task], rows)}\n{beside_rivals(found[task])}\n")
            save(draw(found[task], f"{task}, {seeds} seed{'s' * (seeds > 1)}"), f"rivals_{task}")
        if set(TASKS) <= found.keys():
            save(draw_tasks({task: found[task] for task in TASKS}), "rivals_all")


if __name__ == "__main__":
    main()
