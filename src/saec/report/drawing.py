"""Drawings by matplotlib as SVG that goes into a page and takes on its colours."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from saec.errors import require
from saec.report.results import Measured, Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["COLOURS", "INK", "element", "line", "signed", "styles"]

# One per method. Each keeps a contrast of 3 or more to white and to the page's dark background.
COLOURS = ("#3b82d6", "#d9691e", "#2b9b6b", "#a866d4", "#d8486f", "#8b8420", "#1f97a8", "#8c7a6b")

_MARKERS = "osD^vPX*"

# Stands for the page's text colour, which is not known here.
INK = "#123457"

# Inches. Letters of ten points stay legible where the page is as narrow as a telephone.
_WIDTH = 5.2
_HEIGHT = 3.4
_LINE = 0.22  # of a legend's line
# In letters: what a legend's line holds, and what is beside a name in it.
_LETTERS = 62
_SIGN = 9

_STYLE = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that all machines lay out alike
    "font.size": 10.0,
    "grid.alpha": 0.15,
    "grid.color": INK,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text, not paths
    "text.color": INK,
    "text.parse_math": False,  # a method's name may hold dollars
    "xtick.color": INK,
    "ytick.color": INK,
}


def element(draw: Callable[[Axes], None], what: str, name: str, height: float = _HEIGHT) -> str:
    """Draw on one pair of axes, with a legend above; the same drawing gives the same text.

    Args:
        draw: draws; what it labels goes into the legend.
        what: the drawing in words, for those who cannot see it.
        name: makes the ids in the element unique in the page.
        height: of the drawing without its legend, in inches.

    Returns:
        An ``<svg>`` element.

    Raises:
        OptionalDependencyError: matplotlib is not installed.
    """
    matplotlib: Any = require("matplotlib", "report")
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever the user's own matplotlibrc says
        matplotlib.rcParams.update(_STYLE | {"svg.hashsalt": name})
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        axes = figure.subplots()
        draw(axes)
        labels = axes.get_legend_handles_labels()[1]
        columns = _columns(labels)
        # Methods may be many: their names take nothing from the drawing.
        figure.set_figheight(height + _LINE * -(-len(labels) // columns))
        figure.legend(loc="outside upper left", ncols=columns)
        text = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        with warnings.catch_warnings():
            # A browser finds the letters of all scripts, whatever this font lacks.
            warnings.filterwarnings("ignore", "Glyph .* missing")
            figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    return _inline(text.getvalue(), what, name)


def line(
    axes: Axes,
    places: Sequence[float],
    changes: Sequence[Spread],
    label: str,
    style: dict[str, Any],
) -> None:
    """Draw means, with bars where seeds differ; ``style`` as of :func:`styles`."""
    means = [change.mean for change in changes]
    axes.plot(places, means, label=label, **style)
    spread = [change.deviation or 0.0 for change in changes]
    if any(spread):
        axes.errorbar(places, means, yerr=spread, fmt="none", ecolor=style["color"], capsize=3)


def styles(measured: Iterable[Measured]) -> dict[str, dict[str, Any]]:
    """Keywords of ``Axes.plot`` by label, in the order of methods.

    A method has its colour and marker; what was fine-tuned gets hollow ones and a broken line.
    """
    known = list(measured)
    methods = list(dict.fromkeys(point.plain_method for point in known))
    known.sort(key=lambda point: (methods.index(point.plain_method), point.finetuned, point.label))
    return {point.label: _style(point, methods.index(point.plain_method)) for point in known}


def _style(point: Measured, place: int) -> dict[str, Any]:
    colour = COLOURS[place % len(COLOURS)]
    unseen = point.method.endswith("+unseen")
    return {
        "color": colour,
        "marker": _MARKERS[place % len(_MARKERS)],
        "markersize": 5,
        "markerfacecolor": "none" if point.finetuned else colour,
        "linestyle": ":" if unseen else "--" if point.finetuned else "-",
    }


def _columns(labels: Sequence[str]) -> int:
    """How many columns of a legend the drawing is wide enough for."""
    lengths = [len(label) + _SIGN for label in labels]
    for columns in (3, 2):
        # As matplotlib fills them.
        widest = [max(column, default=0) for column in np.array_split(lengths, columns)]
        if sum(widest) <= _LETTERS:
            return columns
    return 1


def signed(value: float) -> str:
    """A change without exponent; with a sign, except zero."""
    text = f"{value:+.7f}".rstrip("0").rstrip(".")
    return "0" if text in ("+0", "-0") else text.replace("-", "\u2212")


def _inline(document: str, what: str, name: str) -> str:
    """The ``<svg>`` element of a document: as wide as its place, ids its own, the page's ink."""
    element = document[document.index("<svg") :]
    opening, rest = element.split(">", 1)
    opening = re.sub(r' (width|height)="[^"]*"', "", opening)
    opening += f' role="img" aria-label="{what}"'
    element = f"{opening}>{rest}".replace(INK, "currentColor")
    return re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", element).strip()
