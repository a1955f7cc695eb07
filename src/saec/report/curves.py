"""Quality against size, as SVG that goes into a page and takes on its colours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from saec.errors import DataError
from saec.report.drawing import COLOURS, INK, element, line, signed, styles
from saec.report.results import Measured, Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["curve", "forecast_curve"]

_INCREASE = "predicted increase of log loss, nats"
_LEAST_DRAWN = 1e-6


def curve(
    measured: Sequence[Measured],
    change: Callable[[Measured], Spread],
    label: str,
    name: str,
) -> str:
    """Draw a change against the compression ratio, one line per method, as an ``<svg>`` element.

    Args:
        measured: the points; fine-tuned ones get a broken line.
        change: the change of quality of a point, with its spread over seeds.
        label: of the y axis.
        name: makes the ids in the element unique in the page.

    The same points give the same text.

    Raises:
        OptionalDependencyError: matplotlib is not installed.
    """

    def draw(axes: Axes) -> None:
        _draw_lines(axes, measured, change)
        _dress(axes, [point.ratio for point in measured], label, signed)
        axes.axhline(0.0, color=INK, alpha=0.5, linewidth=1)

    return element(draw, f"{label} against compression ratio", name)


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

    return element(draw, f"{_INCREASE} against compression ratio", name)


def _draw_band(axes: Axes, points: Sequence[Mapping[str, float]]) -> None:
    ratios = [point["ratio"] for point in points]
    means = [point["predicted_loss_increase"] for point in points]
    floor = min(means) / 10  # a band that reaches down to 0 has no lower end here
    low = [max(point["low"], floor) for point in points]
    high = [point["high"] for point in points]
    axes.set_yscale("log")
    axes.set_ylim(min(low) / 1.25, max(high) * 1.25)
    axes.fill_between(
        ratios, low, high, color=COLOURS[0], alpha=0.2, linewidth=0, label="two standard errors"
    )
    axes.plot(ratios, means, color=COLOURS[0], marker="o", markersize=3, label="predicted")


def _draw_lines(
    axes: Axes, measured: Sequence[Measured], change: Callable[[Measured], Spread]
) -> None:
    for label, style in styles(measured).items():
        own = sorted(
            (point for point in measured if point.label == label), key=lambda point: point.ratio
        )
        line(axes, [point.ratio for point in own], list(map(change, own)), label, style)


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
