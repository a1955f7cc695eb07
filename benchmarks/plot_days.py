"""The pictures and tables of docs/days.md: quality, bytes and seconds of daily updates, by day.

    python benchmarks/plot_days.py benchmarks/recorded/days.jsonl benchmarks/recorded/month.jsonl

Writes docs/pictures/NAME.svg for each record of days.py or month.py, and prints a table of means
over the evenings that all methods have, and one of all evenings.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from plot_lookup import PICTURES, STYLE
from recorded_runs import RecordedRuns

# By step of a record: the name in pictures, colour, marker and width of its line.
METHODS = {
    "best reachable": ("true probabilities", "#999999", "", 1.0),
    "uncompressed": ("uncompressed", "#111111", "o", 1.2),
    "new-optimisers": ("uncompressed, new optimisers", "#777777", "x", 1.0),
    "afresh": ("compressed afresh", "#2a9d4f", "s", 1.4),
    "patched": ("base + patches", "#d9691e", "v", 2.2),
    "every change": ("base + patches of every change", "#e9b44c", "^", 1.4),
    "capped": ("base + smaller patches", "#e9b44c", ">", 1.4),
    "at most 5%": ("base + patches of at most 5 %", "#8d6e63", "h", 1.4),
    "compacted weekly": ("the same, compacted weekly", "#3b82d6", "D", 1.4),
    "warm": ("trained on from patches", "#8e44ad", "P", 1.4),
    "tables never updated": ("tables never updated", "#c0392b", "<", 1.0),
    "never updated": ("never updated", "#7b241c", ">", 1.0),
}
UPDATED = ("afresh", "patched", "capped", "every change", "at most 5%", "compacted weekly", "warm")

Row = dict[str, Any]
Series = dict[str, dict[int, Row]]


def series_of(record: Path) -> Series:
    """The rows of a record by step and evening; the base is no update, and is left out.

    Raises:
        SystemExit: no evening after the base is recorded.
    """
    found: Series = {name: {} for name in METHODS}
    for row in RecordedRuns(record).lines():
        if row["step"] in found:
            found[row["step"]][row["day"]] = row
    if not found["afresh"] or not found["uncompressed"]:
        raise SystemExit(f"{record} has no evening after the base; let its command finish one")
    found["afresh"].pop(min(found["afresh"]))
    return {name: own for name, own in found.items() if own}


def panel(
    axes: Axes, found: Series, value: Callable[[str, int, Row], float | None], label: str
) -> None:
    """A line for each method of which there is a value."""
    for name, own in found.items():
        points = {day: value(name, day, row) for day, row in sorted(own.items())}
        drawn = {day: number for day, number in points.items() if number is not None}
        if drawn:
            title, colour, marker, width = METHODS[name]
            axes.plot(
                list(drawn),
                list(drawn.values()),
                label=title,
                color=colour,
                marker=marker,
                markersize=3.5,
                linewidth=width,
            )
    axes.set(xlabel="evening of day", ylabel=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=True)


def draw(found: Series, title: str) -> Figure:
    """Quality above, bytes and seconds below."""

    def of(column: str, names: Sequence[str] = tuple(METHODS)) -> Callable[..., float | None]:
        return lambda name, day, row: row.get(column) if name in names else None

    def change(column: str) -> Callable[..., float | None]:
        base = found["uncompressed"]
        return lambda name, day, row: (
            row[column] - base[day][column] if name in UPDATED and day in base else None
        )

    figure = Figure(figsize=(11, 10.5), layout="constrained", facecolor="white")
    panels = figure.subplots(3, 2)
    panel(panels[0][0], found, of("auc"), "AUC on the next day")
    panel(panels[0][1], found, of("logloss"), "log loss on the next day, nats")
    panel(panels[1][0], found, change("auc"), "AUC, change from uncompressed")
    panel(panels[1][1], found, change("logloss"), "log loss, change from uncompressed")
    panel(panels[2][0], found, lambda name, day, row: megabytes(row), "MB, all that serving needs")
    panel(panels[2][1], found, lambda name, day, row: sent(name, row), "MB sent to a server")
    for axes in (panels[2][0], panels[2][1]):
        axes.set_yscale("log")
    figure.suptitle(title)
    handles = {}
    for axes in panels.flat:
        lines, labels = axes.get_legend_handles_labels()
        handles |= dict(zip(labels, lines, strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)
    return figure


def megabytes(row: Row) -> float | None:
    return row["nbytes"] / 1e6 if "nbytes" in row else None


def sent(name: str, row: Row) -> float | None:
    """What a server has to fetch: a patch, or the whole artifact."""
    if "patch_bytes" in row:
        return float(row["patch_bytes"]) / 1e6
    return megabytes(row) if name in ("afresh", "uncompressed") else None


def means(found: Series) -> str:
    """A line for each method: means over the evenings that all of them have."""
    shared = sorted(set.intersection(*(set(own) for own in found.values())))
    lines = [
        f"Means over the evenings {', '.join(map(str, shared))}:",
        "",
        "| method | AUC | log loss | MB | MB on the last evening | MB sent | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, own in found.items():
        rows = [own[day] for day in shared]
        sizes = [size for row in rows if (size := megabytes(row)) is not None]
        moved = [size for row in rows if (size := sent(name, row)) is not None]
        seconds = [row["seconds"] for row in rows if "seconds" in row]
        lines.append(
            f"| {METHODS[name][0]} | {mean(row['auc'] for row in rows):.4f} "
            f"| {mean(row['logloss'] for row in rows):.4f} "
            f"| {_or_dash(sizes)} | {_or_dash(sizes[-1:])} | {_or_dash(moved)} "
            f"| {_or_dash(seconds, '.0f')} |"
        )
    return "\n".join(lines)


def _or_dash(values: Sequence[float], form: str = ".3g") -> str:
    return f"{mean(values):{form}}" if values else "-"


def evenings(found: Series) -> str:
    """A line for each evening: AUC / log loss of all methods."""
    lines = ["| evening | " + " | ".join(METHODS[name][0] for name in found) + " |"]
    lines.append("|---" * (len(found) + 1) + "|")
    for day in sorted({day for own in found.values() for day in own}):
        cells = [
            f"{own[day]['auc']:.4f} / {own[day]['logloss']:.4f}" if day in own else "not run"
            for own in found.values()
        ]
        lines.append(f"| {day} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("records", type=Path, nargs="+")
    for record in parser.parse_args().records:
        found = series_of(record)
        print(f"{means(found)}\n\n{evenings(found)}\n")
        path = PICTURES / f"{record.stem}.svg"
        with matplotlib.rc_context(STYLE):
            draw(found, record.stem).savefig(path, format="svg", metadata={"Date": None})
        print(path)


if __name__ == "__main__":
    main()
