"""Pictures of clusterings as SVG: features where they lie, those of a cluster in one colour."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from saec.report.drawing import COLOURS
from saec.report.inside import Picture, Shown

__all__ = ["drawn"]

_WIDTH, _HEIGHT = 360.0, 270.0
_MARGIN, _FOOT = 14.0, 20.0  # the foot holds a line of text
_LEAST_RADIUS, _MOST_RADIUS = 1.8, 10.0
_COVERED = 0.15  # of the drawing, by discs, at most
_NEIGHBOURS = 12  # clusters among which a colour should be the only one of its kind


def drawn(picture: Picture) -> str:
    """The ``<svg>`` element of a picture, in the colours of the page's classes ``k0``, ``k1``, ...

    A disc's area is proportional to its feature's frequency, and its title names it. Lines lead to
    where the row that a cluster became lies. Features that share their row with none of those shown
    have no colour. Each axis has its own scale, so that the second one can be seen at all.
    """
    places = _Places(picture)
    unit = _unit([feature.frequency for feature in picture.features])
    colours = _colours(picture)
    marks = "".join(
        _group(group, places, unit, colours[group[0].cluster], picture.field)
        for group in picture.groups
    )
    first, second = (f"{100 * share:.3g} %" for share in picture.shares)
    foot = f"across: {first} of the variance, up: {second}"
    what = f"features of {picture.field} on their two leading axes, by cluster"
    return (
        f'<svg viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" role="img" aria-label="{escape(what)}">'
        f'{marks}<text x="{_MARGIN:.0f}" y="{_HEIGHT - 5:.0f}">{foot}</text></svg>'
    )


class _Places:
    """Where coordinates of a picture lie in the drawing."""

    def __init__(self, picture: Picture) -> None:
        shown = [(feature.x, feature.y) for feature in picture.features]
        self._centers = picture.centers
        every = np.array(shown + list(picture.centers), float)
        self._low = every.min(axis=0)
        spread = every.max(axis=0) - self._low
        self._spread = np.where(spread > 0, spread, 1.0)

    def feature(self, feature: Shown) -> tuple[float, float]:
        return self._at(feature.x, feature.y)

    def center(self, cluster: int) -> tuple[float, float]:
        return self._at(*self._centers[cluster])

    def _at(self, x: float, y: float) -> tuple[float, float]:
        across, up = ((x, y) - self._low) / self._spread
        width, height = _WIDTH - 2 * _MARGIN, _HEIGHT - 2 * _MARGIN - _FOOT
        return _MARGIN + float(across) * width, _MARGIN + (1 - float(up)) * height


def _group(group: Sequence[Shown], places: _Places, unit: float, colour: int, field: str) -> str:
    """A cluster: its lines below, then its features."""
    alone = len(group) == 1
    to = places.center(group[0].cluster)
    lines = "".join(_line(places.feature(feature), to) for feature in group)
    path = f'<path d="{lines}"/>' if lines and not alone else ""
    rest = "" if alone else f" with {len(group) - 1} more"
    discs = "".join(
        _disc(
            places.feature(feature),
            max(_LEAST_RADIUS, unit * feature.frequency**0.5),
            f"{field} {feature.name}, {feature.frequency:,.6g} times, "
            f"cluster {feature.cluster + 1}{rest}",
        )
        for feature in group
    )
    return f'<g class="{"alone" if alone else f"k{colour}"}">{path}{discs}</g>'


def _line(start: tuple[float, float], to: tuple[float, float]) -> str:
    (x, y), (a, b) = start, to
    return "" if abs(a - x) + abs(b - y) < 0.5 else f"M{x:.1f} {y:.1f}L{a:.1f} {b:.1f}"


def _unit(frequencies: Sequence[float]) -> float:
    """The radius of a disc of frequency 1."""
    most, total = max(frequencies), sum(frequencies)
    if not most:
        return 0.0
    return float(
        min(_MOST_RADIUS / most**0.5, (_COVERED * _WIDTH * _HEIGHT / np.pi / total) ** 0.5)
    )


def _disc(place: tuple[float, float], radius: float, words: str) -> str:
    return (
        f'<circle cx="{place[0]:.1f}" cy="{place[1]:.1f}" r="{radius:.1f}">'
        f"<title>{escape(words)}</title></circle>"
    )


def _colours(picture: Picture) -> list[int]:
    """A colour for each cluster that its neighbours, in the drawing, have not or have least."""
    centers = np.array(picture.centers, float)
    spread = np.ptp(centers, axis=0)
    centers /= np.where(spread > 0, spread, 1.0)
    chosen = np.full(len(centers), -1)
    for cluster, center in enumerate(centers):
        chosen[cluster] = _rarest(list(_near(centers, center, chosen)))
    return [int(colour) for colour in chosen]


def _near(
    centers: NDArray[np.float64], center: NDArray[np.float64], chosen: NDArray[np.intp]
) -> Iterator[int]:
    """Colours of the nearest clusters that have some, the nearest last."""
    known = np.flatnonzero(chosen >= 0)
    distances = np.square(centers[known] - center).sum(axis=1)
    for place in np.argsort(distances, kind="stable")[:_NEIGHBOURS][::-1]:
        yield int(chosen[known[place]])


def _rarest(near: list[int]) -> int:
    """The colour that occurs least in ``near`` and, of such, whose last place there is furthest."""

    def use(colour: int) -> tuple[int, int, int]:
        places = [place for place, other in enumerate(near) if other == colour]
        return len(places), places[-1] if places else -1, colour

    return min(range(len(COLOURS)), key=use)
