"""Plots of what ``benchmarks/lookup.py --json`` measured, as SVG for docs/performance.md.

    python benchmarks/plot_lookup.py lookup.json

Writes docs/pictures/lookup_methods.svg, nanoseconds per id of every method at one size, and
docs/pictures/lookup_sizes.svg, those of some methods by size.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from lookup_rivals import BAG, GATHER, KEPT
from lookup_tables import DISTRIBUTIONS
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Rows = Sequence[dict[str, Any]]

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"

STYLE = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": "DejaVu Sans",
    "font.size": 10.0,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "lookup",
}

LINES = {
    BAG: ("#555555", "o"),
    GATHER: ("#999999", "s"),
    "fbgemm int4": ("#8b8420", "^"),
    "clusters, 4096": ("#3b82d6", "D"),
    "axes": ("#d9691e", "v"),
}
OURS, THEIRS = "#3b82d6", "#bbbbbb"

IDS = {"uniform": "uniform ids", "zipf": "Zipf ids"}


def methods(rows: Rows) -> Callable[[Sequence[Axes]], None]:
    """Bars, the slowest method on top; ``rows`` are of one size, bag and number of threads."""
    times = {(row["ids"], row["method"]): row["ns_per_id"] for row in rows}
    shown = {name for ids, name in times if not name.endswith(KEPT)}
    order = sorted(shown, key=lambda name: sum(times[ids, name] for ids in DISTRIBUTIONS))

    def draw(panels: Sequence[Axes]) -> None:
        for axes, ids in zip(panels, DISTRIBUTIONS, strict=True):
            values = [times[ids, name] for name in order]
            ours = [name.startswith(("clusters", "axes")) for name in order]
            bars = axes.barh(order, values, color=[OURS if own else THEIRS for own in ours])
            axes.bar_label(bars, fmt="{:.1f}", padding=3)
            axes.set(title=IDS[ids], xlabel="ns per id")
            axes.margins(x=0.15)

    return draw


def sizes(rows: Rows) -> Callable[[Sequence[Axes]], None]:
    """Lines by rows of the table; ``rows`` are of one dim, bag and number of threads."""

    def draw(panels: Sequence[Axes]) -> None:
        for axes, ids in zip(panels, DISTRIBUTIONS, strict=True):
            for name, (colour, marker) in LINES.items():
                points = sorted(
                    (row["rows"], row["ns_per_id"])
                    for row in rows
                    if (row["ids"], row["method"]) == (ids, name)
                )
                if points:
                    axes.plot(*zip(*points, strict=True), color=colour, marker=marker, label=name)
            ticks = sorted({row["rows"] for row in rows})
            axes.set_xscale("log")
            axes.set_xticks(ticks, [f"{count / 1e6:g} M" for count in ticks])
            axes.minorticks_off()
            axes.set(title=IDS[ids], xlabel="rows of the table", ylabel="ns per id")
            axes.grid(visible=True)
        panels[0].set_ylim(bottom=0)
        panels[0].legend()

    return draw


def save(draw: Callable[[Sequence[Axes]], None], path: Path, height: float) -> None:
    """Write one drawing of two panels; the same numbers give the same file."""
    path.parent.mkdir(exist_ok=True)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.5, height), layout="constrained", facecolor="white")
        draw(figure.subplots(1, 2, sharey=True))
        figure.savefig(path, format="svg", metadata={"Date": None})
    print(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--bag", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    asked = (options.dim, options.bag, options.threads)
    rows = [
        row
        for row in json.loads(options.results.read_text())["rows"]
        if (row["dim"], row["bag"], row["threads"]) == asked
    ]
    own = [row for row in rows if row["rows"] == options.rows]
    save(methods(own), PICTURES / "lookup_methods.svg", 4.6)
    save(sizes(rows), PICTURES / "lookup_sizes.svg", 3.6)


if __name__ == "__main__":
    main()
