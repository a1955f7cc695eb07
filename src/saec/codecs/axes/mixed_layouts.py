"""Layouts between those of the sweep, for budgets between their sizes.

The sweep's layouts lie on the lower convex hull, where a step may be a bit more for each row of the
largest tier. What a budget leaves of such a step buys bits in other tiers.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from saec.codecs.axes.lagrangian import Layered, Way

__all__ = ["mixed"]

_LONG = 1 / 64  # of a layout's bits: steps that are longer are divided
_MOST_BETWEEN = 16  # layouts


def mixed(found: Sequence[Layered]) -> list[Layered]:
    """``found``, cheapest first as of :func:`.lagrangian.sweep`, and layouts between those
    neighbours whose sizes are far apart.

    These are the smaller neighbour with some tiers coded as in other layouts.
    """
    ways = _Ways(found)
    result = list(found[:1])
    for small, large in pairwise(found):
        step = large.bits - small.bits
        parts = min(int(step / (_LONG * large.bits)), _MOST_BETWEEN)
        for part in range(1, parts):
            layout = ways.filled(small, step * part // parts)
            if layout.nats < result[-1].nats:
                result.append(layout)
        result.append(large)
    return result


class _Ways:
    """All ways to code each tier that occur in ``layouts``."""

    def __init__(self, layouts: Sequence[Layered]) -> None:
        pairs = {pair: None for layered in layouts for pair in enumerate(layered.ways)}
        self._ways: list[tuple[int, Way]] = list(pairs)
        self._tiers = np.array([tier for tier, _ in pairs], np.int64)
        self._bits = np.array([way.bits for _, way in pairs], np.int64)
        self._nats = np.array([way.nats for _, way in pairs])
        self._axes = np.array([way.axes for _, way in pairs], np.int64)

    def filled(self, layout: Layered, left: int) -> Layered:
        """Spend up to ``left`` bits: again and again the way that fits and saves most per bit."""
        chosen = list(layout.ways)
        while True:
            axes = max(way.axes for way in chosen)
            step = self._bits - np.array([way.bits for way in chosen])[self._tiers]
            step = step + layout.axis_bits * np.maximum(self._axes - axes, 0)
            saved = np.array([way.nats for way in chosen])[self._tiers] - self._nats
            usable = (step <= left) & (saved > 0)
            if not usable.any():
                return Layered(tuple(chosen), layout.axis_bits, layout.rest)
            slope = np.where(usable, saved / np.maximum(step, 1), -np.inf)
            best = int(np.argmax(slope))
            tier, way = self._ways[best]
            chosen[tier] = way
            left -= int(step[best])
