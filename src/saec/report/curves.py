"""Quality against size, as SVG that goes into a page and takes on its colours."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from saec.errors import DataError, require
from saec.report.results import Measured, Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["COLOURS", "curve", "forecast_curve"]

# One per method. Each keeps a contrast of 3 or more to white and to the page's dark background.
COLOURS = ("#3b82d6", "#d9691e", "#2b9b6b", "#a866d4", "#d8486f", "#8b8420", "#1f97a8", "#8c7a6b")

_MARKERS = "osD^vPX*"

_INCREASE = "predicted increase of log loss, nats"
_LEAST_DRAWN = 1e-6

# Stands for the page's text colour, which is not known here.
_INK = "#123457"

_STYLE = {
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that all machines lay out alike
    "font.size": 10.0,
    "grid.alpha": 0.15,
    "grid.color": _INK,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text, not paths
    "text.color": _INK,
    "text.parse_math": False,  # a method's name may hold dollars
    "xtick.color": _INK,
    "ytick.color": _INK,
}


def curve(
    measured: Sequence[Measured],
    change: Callable[[Measured], Spread],
    label: str,
    name: str,
) -> str:
    """Draw a change against the compression ratio, one line per method, as an ``<svg>`` element.

    Args:
        measured: the points; fine-tuned ones get a dashed line.
        change: the change of quality of a point, with its spread over seeds.
        label: of the y axis.
        name: makes the ids in the element unique in the page.

    The same points give the same text.

    Raises:
        OptionalDependencyError: matplotlib is not installed.
    """

    def draw(axes: Axes) -> None:
        _draw_lines(axes, measured, change)
        _dress(axes, [point.ratio for point in measured], label, _plain)
        axes.axhline(0.0, color=_INK, alpha=0.5, linewidth=1)

    return _element(draw, label, name)


def forecast_curve(points: Sequence[Mapping[str, float]], name: str) -> str:
    """Draw the predicted increase of the log loss, with its band, against the compression ratio.

    Both axes are logarithmic. Increases under a millionth of a nat, which nobody could measure,
    are left out unless there are no others.

    Args:
        points: with ``ratio``, ``predicted_loss_increase``, ``low`` and ``high``.
        name: as of :func:`curve`; the element may as well be a file of its own.

    Raises:
        DataError: nothing is expected to be lost at any ratio.
        OptionalDependencyError: matplotlib is not installed.
    """
    heights = [point["predicted_loss_increase"] for point in points]
    lost = [place for place, height in enumerate(heights) if height > 0]
    if not lost:
        raise DataError("no ratio is expected to cost anything; there is no curve to draw")
    drawn = [place for place in lost if heights[place] >= _LEAST_DRAWN] or lost
    chosen = [points[place] for place in drawn]

    def draw(axes: Axes) -> None:
        _draw_band(axes, chosen)
        _dress(axes, [point["ratio"] for point in chosen], _INCREASE, "{:g}".format)

    return _element(draw, _INCREASE, name)


def _draw_band(axes: Axes, points: Sequence[Mapping[str, float]]) -> None:
    ratios = [point["ratio"] for point in points]
    means = [point["predicted_loss_increase"] for point in points]
    floor = min(means) / 10  # a band that reaches down to 0 has no lower end here
    low = [max(point["low"], floor) for point in points]
    high = [point["high"] for point in points]
    axes.set_yscale("log")
    axes.set_ylim(min(low) / 1.25, max(high) * 1.25)
    axes.fill_between(
        ratios, low, high, color=COLOURS[0], alpha=0.2, linewidth=0, label="nine cases of ten"
    )
    axes.plot(ratios, means, color=COLOURS[0], marker="o", markersize=3, label="predicted")


def _element(draw: Callable[[Axes], None], label: str, name: str) -> str:
    matplotlib: Any = require("matplotlib", "report")
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever the user's own matplotlibrc says
        matplotlib.rcParams.update(_STYLE | {"svg.hashsalt": name})
        figure = Figure(figsize=(5.6, 3.9), layout="constrained")
        draw(figure.subplots())
        figure.legend(loc="outside upper left", ncols=2)
        text = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        with warnings.catch_warnings():
            # A browser finds the letters of all scripts, whatever this font lacks.
            warnings.filterwarnings("ignore", "Glyph .* missing")
            figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    return _inline(text.getvalue(), label, name)


def _draw_lines(
    axes: Axes, measured: Sequence[Measured], change: Callable[[Measured], Spread]
) -> None:
    methods = list(dict.fromkeys(point.method for point in measured))
    ordered = sorted(measured, key=lambda p: (methods.index(p.method), p.finetuned, p.ratio))
    for label, group in groupby(ordered, key=lambda point: point.label):
        line = list(group)
        place = methods.index(line[0].method)
        tuned = line[0].finetuned
        colour = COLOURS[place % len(COLOURS)]
        ratios = [point.ratio for point in line]
        means = [change(point).mean for point in line]
        axes.plot(
            ratios,
            means,
            color=colour,
            marker=_MARKERS[place % len(_MARKERS)],
            markersize=5,
            markerfacecolor="none" if tuned else colour,
            linestyle="--" if tuned else "-",
            label=label,
        )
        spread = [change(point).deviation or 0.0 for point in line]
        if any(spread):
            axes.errorbar(ratios, means, yerr=spread, fmt="none", ecolor=colour, capsize=3)


def _dress(
    axes: Axes, ratios: Sequence[float], label: str, written: Callable[[float], str]
) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    axes.set_xlim(min(ratios) / 1.25, max(ratios) * 1.25)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: written(value)))
    axes.set_xlabel("compression ratio")
    axes.set_ylabel(label)
    axes.grid(visible=True)


def _plain(value: float) -> str:
    """A change without exponent; with a sign, except zero."""
    text = f"{value:+.7f}".rstrip("0").rstrip(".")
    return "0" if text in ("+0", "-0") else text.replace("-", "\u2212")


def _inline(document: str, label: str, name: str) -> str:
    """The ``<svg>`` element of a document: as wide as its place, ids its own, the page's ink."""
    element = document[document.index("<svg") :]
    opening, rest = element.split(">", 1)
    opening = re.sub(r' (width|height)="[^"]*"', "", opening)
    opening += f' role="img" aria-label="{label} against compression ratio"'
    element = f"{opening}>{rest}".replace(_INK, "currentColor")
    return re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", element).strip()
