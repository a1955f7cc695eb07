"""Charts as SVG: loss by frequency of features, forecast against measurement, bytes by field."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from saec.report.drawing import INK, element, line, signed, styles
from saec.report.results import Decile, Measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "comparable",
    "decile_chart",
    "field_chart",
    "frequencies_of",
    "prediction_chart",
    "short",
    "tier_chart",
    "tier_names",
]

_CHANGE = "change of log loss"
_FREQUENCY = "frequency of a row's rarest feature, by deciles of test rows"
_PREDICTED = "predicted increase of log loss, nats"
_MEASURED = "measured increase, nats"
_BYTES = "bytes of each field"
_BITS = "mean bits per feature"
_TIERS = "rank of a feature by frequency in its field"

_NAME = 22
_SLANTED: dict[str, Any] = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}


def decile_chart(measured: Sequence[Measured], name: str) -> str | None:
    """Draw the change of log loss by decile of test rows, rarest first, one line per method.

    Every method is shown at one size: that nearest to the point in the geometric middle of all.
    Each change has a bar: the spread over seeds, or the standard error of a single seed.

    Args:
        measured: the points; those with a decile without a bar are left out.
        name: makes the ids in the element unique in the page.

    Returns:
        An ``<svg>`` element, or None if no point is left.

    Raises:
        OptionalDependencyError: matplotlib is not installed.
    """
    chosen = comparable([point for point in measured if _has_bars(point)])
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
        names = [frequencies_of(decile) for decile in longest]
        axes.set_xticks(range(len(names)), names, **_SLANTED)
        axes.yaxis.set_major_formatter(lambda value, _: signed(value))
        axes.axhline(0.0, color=INK, alpha=0.5, linewidth=1)
        axes.set_xlabel(_FREQUENCY)
        axes.set_ylabel(_CHANGE)
        axes.grid(visible=True)

    return element(draw, f"{_CHANGE} by {_FREQUENCY}", name)


def _has_bars(point: Measured) -> bool:
    changes = [decile.logloss_change.deviation for decile in point.deciles]
    return bool(changes) and None not in changes


def prediction_chart(measured: Sequence[Measured], name: str) -> str | None:
    """Draw measured increases of the log loss against predicted ones, both logarithmic.

    The measured axis is linear around 0 where the loss of a point fell.

    Args:
        measured: the points; those with no prediction are left out.
        name: makes the ids in the element unique in the page.

    Returns:
        An ``<svg>`` element with the diagonal, or None if there are not two points.

    Raises:
        OptionalDependencyError: matplotlib is not installed.
    """
    pairs = [
        (point.label, point.predicted, point.logloss_change.mean)
        for point in measured
        if point.predicted is not None and point.predicted > 0
    ]
    if len(pairs) < 2:
        return None
    style = styles(measured)
    both = [value for _, *pair in pairs for value in pair if value > 0]
    ends = min(both) / 1.5, max(both) * 1.5
    fallen = [increase for *_, increase in pairs if increase <= 0]

    def draw(axes: Axes) -> None:
        for label in dict.fromkeys(label for label, *_ in pairs):
            own = [pair for owner, *pair in pairs if owner == label]
            axes.plot(*zip(*own, strict=True), label=label, **style[label] | {"linestyle": "none"})
        axes.plot(ends, ends, color=INK, alpha=0.5, linewidth=1, label="as predicted")
        axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends, aspect="equal")
        if fallen:
            axes.set_yscale("symlog", linthresh=ends[0])
            axes.set(ylim=(1.5 * min(*fallen, -ends[0]), ends[1]), aspect="auto")
            axes.axhline(0.0, color=INK, alpha=0.5, linewidth=1)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(lambda value, _: f"{value:g}")
            axis.set_minor_formatter("")
        axes.set_xlabel(_PREDICTED)
        axes.set_ylabel(_MEASURED)
        axes.grid(visible=True)

    return element(draw, f"{_MEASURED} against {_PREDICTED}", name)


def comparable(measured: Sequence[Measured]) -> list[Measured]:
    """One point of each label, all of about the same size, in the order of methods."""
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


def field_chart(measured: Sequence[Measured], name: str) -> str | None:
    """Draw what each field takes, before and after, a line of the drawing per field.

    Every method is shown at one size, as in :func:`decile_chart`; fine-tuning, which leaves sizes
    as they are, is left out.

    Args:
        measured: the points; those that say nothing of fields are left out.
        name: makes the ids in the element unique in the page.

    Returns:
        An ``<svg>`` element, or None if no point tells of two fields.

    Raises:
        OptionalDependencyError: matplotlib is not installed.
    """
    chosen = comparable([point for point in measured if _plain(point) and len(point.fields) > 1])
    if not chosen:
        return None
    style = styles(measured)
    names = [field.name for field in max((point.fields for point in chosen), key=len)]

    def draw(axes: Axes) -> None:
        original = {field.name: field.original_nbytes for p in chosen for field in p.fields}
        known = [(size, names.index(field)) for field, size in original.items() if size]
        if known:
            axes.plot(*zip(*known, strict=True), "|", color=INK, ms=9, label="uncompressed")
        for point in chosen:
            places = [(f.nbytes, names.index(f.name)) for f in point.fields if f.nbytes > 0]
            label = f"{point.label}, ratio {point.ratio:.1f}"
            axes.plot(
                *zip(*places, strict=True),
                label=label,
                **style[point.label] | {"linestyle": "none", "alpha": 0.85},
            )
        axes.set_xscale("log")
        axes.margins(x=0.08)
        axes.xaxis.set_major_formatter(lambda value, _: f"{short(value)}B")
        axes.set_yticks(range(len(names)), list(map(_shortened, names)))
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlabel(_BYTES)
        axes.grid(visible=True)

    return element(draw, _BYTES, name, 1.0 + 0.26 * len(names))


def tier_chart(measured: Sequence[Measured], name: str) -> str | None:
    """Draw the bits of a feature's code by its rank, a line per method, all fields together.

    Args:
        measured: the points; those that say nothing of tiers are left out, and fine-tuned ones.
        name: makes the ids in the element unique in the page.

    Returns:
        An ``<svg>`` element, or None if no point has two tiers.

    Raises:
        OptionalDependencyError: matplotlib is not installed.
    """
    means = [
        (point, _bits_by_tier(point))
        for point in comparable([point for point in measured if _plain(point) and point.fields])
    ]
    means = [(point, bits) for point, bits in means if len(bits) > 1]
    if not means:
        return None
    style = styles(measured)
    most = max(max(bits) for _, bits in means)

    def draw(axes: Axes) -> None:
        for point, bits in means:
            label = f"{point.label}, ratio {point.ratio:.1f}"
            axes.plot(range(len(bits)), bits, label=label, **style[point.label])
        # Logarithmic down to one bit, and no bits at all in sight.
        axes.set_yscale("symlog", base=2, linthresh=1)
        ticks = [0, *(1 << power for power in range(1 + max(math.ceil(math.log2(most + 1)), 1)))]
        axes.set_yticks(ticks, list(map(str, ticks)))
        axes.set_ylim(-0.2, ticks[-1])
        count = max(len(bits) for _, bits in means)
        axes.set_xticks(range(count), tier_names(count), **_SLANTED)
        axes.set_xlabel(_TIERS)
        axes.set_ylabel(_BITS)
        axes.grid(visible=True)

    return element(draw, f"{_BITS} by {_TIERS}", name)


def tier_names(count: int) -> list[str]:
    """Ranks, from 1 on, of the features of each tier: up to 64, 256, 1024, ..."""
    ends = [64 << 2 * tier for tier in range(count)]
    starts = [1, *(end + 1 for end in ends)]
    return [f"{_rank(start)}\u2013{_rank(end)}" for start, end in zip(starts, ends, strict=False)]


def _rank(value: float) -> str:
    """A rank, where two digits will do for thousands."""
    return short(float(f"{value:.2g}") if value >= 1000 else value)


def short(value: float) -> str:
    """A number in about four letters."""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.3g}{letter}"
    return f"{value:.3g}"


def _shortened(name: str) -> str:
    """A field's name beside a drawing, which needs room, too."""
    return name if len(name) <= _NAME else name[: _NAME - 1] + "\u2026"


def _plain(point: Measured) -> bool:
    return not point.finetuned


def _bits_by_tier(point: Measured) -> list[float]:
    """Mean bits of the features of all fields, tier by tier."""
    means = []
    for tier in range(max(len(field.tiers) for field in point.fields)):
        tiers = [field.tiers[tier] for field in point.fields if len(field.tiers) > tier]
        rows = sum(own.rows for own in tiers)
        means.append(sum(own.rows * own.bits for own in tiers) / rows if rows else 0.0)
    return means


def frequencies_of(decile: Decile) -> str:
    """The largest frequency in a decile, in about four letters."""
    return f"\u2264{short(decile.most)}" if decile.most else "0"
