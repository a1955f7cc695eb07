"""The picture and the tables of docs/comparison.md: quality against all bytes, by method.

    python benchmarks/plot_rival_runs.py benchmarks/recorded/rivals-ml-1m.jsonl

Writes docs/pictures/rivals_TASK.svg from the results file of ``saec bench TASK --rivals``: test AUC
and log loss against ``bytes_all_in``. Of the trials of a seed, validation log loss chooses; points
are means over seeds, with their spread. Prints the same as a table for each class of methods.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from plot_lookup import PICTURES, STYLE
from plot_rivals import METHODS

from saec.reference.rival_runs import RunFile
from saec.reference.small import SMALL

# Classes of Li et al., Embedding Compression in Recommender Systems: A Survey, 2024 (section 3),
# beside what is done after training.
CLASSES = {
    "After training": tuple(name for name in METHODS if name not in SMALL),
    "Low precision": ("dqrm", "alpt", "mpe"),
    "Mixed dimension": ("mixed-dim",),
    "Weight sharing": ("hash", "qr", "robe", "dhe", "tt", "semi-tt", "cce"),
}
ORDER = ["float32", *(name for names in CLASSES.values() for name in names)]

# Changes from the uncompressed model that are drawn; what loses more is in the tables.
WINDOWS = {"auc": (-0.03, 0.002), "logloss": (-0.003, 0.036)}


@dataclass(frozen=True)
class Point:
    """A method at one size: the runs of several seeds, each the best of its trials."""

    method: str
    ratio: float | None
    runs: Sequence[dict[str, Any]]
    trials: int

    def mean(self, measure: str) -> float:
        """Over seeds."""
        return mean(run[measure] for run in self.runs)

    def spread(self, measure: str) -> float:
        """Half of the difference between the highest and the lowest of the seeds."""
        values = [run[measure] for run in self.runs]
        return (max(values) - min(values)) / 2


def points(rows: Sequence[dict[str, Any]]) -> list[Point]:
    """Of all methods with finished runs, in order of the classes and then of bytes."""
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
    return sorted(
        all_points, key=lambda point: (ORDER.index(point.method), -point.mean("bytes_all_in"))
    )


def tables(found: Sequence[Point], rows: Sequence[dict[str, Any]]) -> str:
    """One for each class, in Markdown."""
    parts = []
    for name, methods in CLASSES.items():
        parts += [f"### {name}", ""]
        parts += ["| method | aimed at | ratio | ratio, all in | KB, all in | AUC | log loss "]
        parts[-1] += "| trials | seeds | training, s |"
        parts.append("|---" * 10 + "|")
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
    trials = point.trials if point.method in SMALL else "-"
    return (
        f"| `{point.method}` | {aimed} | {point.mean('ratio'):.1f} "
        f"| {point.mean('ratio_all_in'):.1f} | {point.mean('bytes_all_in') / 1e3:.3g} "
        f"| {point.mean('auc'):.4f} | {point.mean('logloss'):.4f} | {trials} "
        f"| {len(point.runs)} | {point.mean('train_seconds'):.0f} |"
    )


def panel(axes: Axes, found: Sequence[Point], measure: str, label: str) -> None:
    """One measure against all bytes; ours are thick lines, what is trained small is broken."""
    for method, (name, colour, marker) in METHODS.items():
        own = [point for point in found if point.method == method]
        if own:
            axes.errorbar(
                [point.mean("bytes_all_in") / 1e6 for point in own],
                [point.mean(measure) for point in own],
                [point.spread(measure) for point in own],
                color=colour,
                marker=marker,
                linestyle="--" if method in SMALL else "-",
                linewidth=2.2 if method.startswith(("saec", "axes")) else 1.0,
                label=name,
                zorder=3,
            )
    base = next((point for point in found if point.method == "float32"), None)
    if base is not None:
        own = base.mean(measure)
        axes.axhline(own, color="k", linewidth=0.8, linestyle=":", label="float32")
        low, high = WINDOWS[measure]
        axes.set_ylim(own + low, own + high)
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
    panel(left, found, "auc", "test AUC")
    panel(right, found, "logloss", "test log loss, nats")
    figure.suptitle(title)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    rows = RunFile(parser.parse_args().results).rows
    found = points(rows)
    print(tables(found, rows))
    task, seeds = rows[0]["task"], len({row["seed"] for row in rows})
    path = PICTURES / f"rivals_{task}.svg"
    with matplotlib.rc_context(STYLE):
        title = f"{task}, {seeds} seed{'s' * (seeds > 1)}"
        draw(found, title).savefig(path, format="svg", metadata={"Date": None})
    print(path)


if __name__ == "__main__":
    main()
