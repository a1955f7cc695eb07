"""Quality against all bytes, a line for each method, as one panel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from saec.report.comparison import OURS, SMALL, UNCOMPRESSED, Point
from saec.report.drawing import INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["MARKS", "limits", "panel"]

# Label, colour and marker of a method. Colours keep a contrast of 3 to white and to a dark page.
_GREY = "#777777"
MARKS = {
    "float16": ("float16", _GREY, "s"),
    "int8": ("int8 rows", _GREY, "D"),
    "int4": ("int4 rows", _GREY, "^"),
    "int2": ("int2 rows", _GREY, "v"),
    "svd": ("SVD", "#8b8420", "P"),
    "head-mean": ("head and mean", "#b07aa1", "X"),
    "pq": ("PQ (faiss)", "#59a14f", "p"),
    "opq": ("OPQ", "#1b7f79", "h"),
    "saec": ("clusters (the paper)", "#3b82d6", "o"),
    "saec-metric": ("clusters, loss metric", "#5f97d8", "o"),
    "axes": ("axes", "#d9691e", "o"),
    "axes-keyed": ("axes by keys", "#8d52c7", "o"),
    "axes-keyed+network": ("axes by keys, network", "#a478cc", "o"),
    "axes-remapped": ("axes, remapped ids", "#d0363d", "o"),
    "float32+tuned": ("float32, tuned", INK, "+"),
    "axes-keyed+tuned": ("axes by keys, tuned", "#8d52c7", "P"),
    "float32+averaged": ("float32, averaged", INK, "x"),
    "axes-keyed+averaged": ("axes by keys, averaged", "#8d52c7", "s"),
    "float32+priced": ("float32, priced", INK, "*"),
    "saec+priced": ("clusters, priced", "#3b82d6", "d"),
    "saec-metric+priced": ("loss metric, priced", "#5f97d8", "d"),
    "axes+priced": ("axes, priced", "#d9691e", "d"),
    "axes-keyed+priced": ("axes by keys, priced", "#8d52c7", "d"),
    "dqrm": ("DQRM, int4", INK, "^"),
    "alpt": ("ALPT, int8", INK, "D"),
    "mpe": ("MPE", "#d46a8b", "s"),
    "mixed-dim": ("mixed dimension", "#9c755f", "v"),
    "hash": ("hashing trick", "#2b9b6b", "X"),
    "qr": ("quotient-remainder", "#a866d4", "P"),
    "robe": ("ROBE", "#1f97a8", "D"),
    "dhe": ("DHE", "#c98410", "*"),
    "tt": ("tensor train", "#8f6f10", "<"),
    "semi-tt": ("semi-tensor train", "#a5851a", "<"),
    "cce": ("CCE", "#d8486f", ">"),
}

# Larger losses are in the tables alone: the good methods would all be one line.
_WORST = {"auc": -0.03, "logloss": 0.036}
_MARGIN = 0.05  # of the height


def panel(
    axes: Axes,
    found: Sequence[Point],
    measure: str,
    label: str,
    window: tuple[float, float] | None = None,
) -> None:
    """One measure against megabytes of all that serving needs; lines of ours are thick, and those
    of small tables are dashed.

    Args:
        axes: to draw on.
        found: the points, at least one.
        measure: ``"auc"`` or ``"logloss"``, whose change is drawn.
        label: of the y axis.
        window: lower and upper limit; None takes :func:`limits`.
    """
    from matplotlib.ticker import LogLocator, NullFormatter

    others = {point.method for point in found} - {UNCOMPRESSED, *MARKS}
    for method, (name, colour, marker) in (
        MARKS | {name: (name, _GREY, "o") for name in sorted(others)}
    ).items():
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
    axes.axhline(0, color=INK, linewidth=0.8, linestyle=":", label=UNCOMPRESSED)
    axes.set_ylim(*(limits(found, measure) if window is None else window))
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel="MB, all that serving needs", ylabel=label)
    axes.grid(visible=True)


def limits(found: Sequence[Point], measure: str) -> tuple[float, float]:
    """The range of all changes, but losses up to 0.03 of AUC or 0.036 nats of log loss only."""
    changes = [0.0, *(point.mean(f"d_{measure}") for point in found)]
    low, high = min(changes), max(changes)
    if measure == "auc":
        low = max(low, _WORST[measure])
    else:
        high = min(high, _WORST[measure])
    margin = _MARGIN * ((high - low) or 1e-4)
    return low - margin, high + margin
