"""Which rows pay for compression, and whether the cost was foreseen, as SVG for the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from saec.report.drawing import INK, element, line, signed, styles
from saec.report.results import Decile, Measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["decile_chart", "prediction_chart"]

_CHANGE = "change of log loss"
_FREQUENCY = "frequency of a row's rarest feature, by deciles of test rows"
_PREDICTED = "predicted increase of log loss, nats"
_MEASURED = "measured increase, nats"


def decile_chart(measured: Sequence[Measured], name: str) -> str | None:
    """Draw the change of log loss by decile of test rows, rarest first, one line per method.

    Every method is shown at one size: that nearest to the point in the geometric middle of all.

    Args:
        measured: the points; those without deciles are left out.
        name: makes the ids in the element unique in the page.

    Returns:
        An ``<svg>`` element, or None if no point has deciles.

    Raises:
        OptionalDependencyError: matplotlib is not installed.
    """
    chosen = _comparable([point for point in measured if point.deciles])
    if not chosen:
        return None
    style = styles(measured)

    def draw(axes: Axes) -> None:
        for point in chosen:
            changes = [decile.logloss_change for decile in point.deciles]
            label = f"{point.label}, ratio {point.ratio:.1f}"
            line(axes, range(len(changes)), changes, label, style[point.label])
        # Test rows, and so deciles, are the same for all methods.
        longest = max((point.deciles for point in chosen), key=len)
        axes.set_xticks(range(len(longest)), [_frequencies(decile) for decile in longest])
        axes.yaxis.set_major_formatter(lambda value, _: signed(value))
        axes.axhline(0.0, color=INK, alpha=0.5, linewidth=1)
        axes.set_xlabel(_FREQUENCY)
        axes.set_ylabel(_CHANGE)
        axes.grid(visible=True)

    return element(draw, f"{_CHANGE} by {_FREQUENCY}", name)


def prediction_chart(measured: Sequence[Measured], name: str) -> str | None:
    """Draw measured increases of the log loss against predicted ones, both logarithmic.

    Args:
        measured: the points; those with no prediction, and those that lost nothing, are left out.
        name: makes the ids in the element unique in the page.

    Returns:
        An ``<svg>`` element with the diagonal, or None if there are not two points.

    Raises:
        OptionalDependencyError: matplotlib is not installed.
    """
    pairs = [
        (point.label, point.predicted, point.logloss_change.mean)
        for point in measured
        if point.predicted is not None and min(point.predicted, point.logloss_change.mean) > 0
    ]
    if len(pairs) < 2:
        return None
    style = styles(measured)
    both = [value for _, *pair in pairs for value in pair]
    ends = min(both) / 1.5, max(both) * 1.5

    def draw(axes: Axes) -> None:
        for label in dict.fromkeys(label for label, *_ in pairs):
            own = [pair for owner, *pair in pairs if owner == label]
            axes.plot(*zip(*own, strict=True), label=label, **style[label] | {"linestyle": "none"})
        axes.plot(ends, ends, color=INK, alpha=0.5, linewidth=1, label="as predicted")
        axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends, aspect="equal")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(lambda value, _: f"{value:g}")
            axis.set_minor_formatter("")
        axes.set_xlabel(_PREDICTED)
        axes.set_ylabel(_MEASURED)
        axes.grid(visible=True)

    return element(draw, f"{_MEASURED} against {_PREDICTED}", name)


def _comparable(measured: Sequence[Measured]) -> list[Measured]:
    """One point of each label, all of about the same size."""
    if not measured:
        return []
    sizes = [math.log(point.ratio) for point in measured]
    middle = sum(sizes) / len(sizes)
    # An actual point: between two, methods that miss the same ratio differently would part.
    wanted = min(sizes, key=lambda size: abs(size - middle))
    nearest: dict[str, Measured] = {}
    for point in sorted(measured, key=lambda point: abs(math.log(point.ratio) - wanted)):
        nearest.setdefault(point.label, point)
    return [nearest[label] for label in styles(measured)]


def _frequencies(decile: Decile) -> str:
    """The largest frequency in a decile, in about four letters."""
    for unit, letter in ((1e6, "M"), (1e3, "k")):
        if decile.most >= unit:
            return f"\u2264{decile.most / unit:.3g}{letter}"
    return f"\u2264{decile.most:.0f}" if decile.most else "0"
