"""Map from a table's rows to points: scaled, in the metric, and clipped to a largest distance.

Squares of float32 values leave float32's range above 1e19 and below 1e-23, so points are rows
divided by a power of two, which is exact. Rows much farther from the mean than nearly all others
would take most of the bits, so they are moved towards the mean.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saec.clustering.points import mapped

__all__ = ["Limit", "Reach", "RowMap", "exponent_of"]

# Let r be the distance that at most a share _FEW of the rows, and of the occurrences, exceed. Rows
# beyond _FAR r are far, and are moved to distance r.
_FAR = 3.0
_FEW = 0.01
# In a smaller sample, one row alone is more than this share.
_LEAST_ROWS = round(1 / _FEW)
# A row is not far if its weighted squared distance is at most this share of those of all others.
_MOST_SHARE = 1e-3
# Far rows may stay where they are if clipping loses at most this share of the loss without any
# bits. Beyond, they could take bits from the others to save loss that is forecast too high: the
# log loss of a large error grows more slowly than the square of the error.
_MODEST = 0.1
_TINY = 1e-300
_ROUNDS = 3  # iterations for the mean without far rows

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Limit:
    """Distance up to which points stay in place: ``radius``, or more while the frequency
    times the squared distance is at most ``energy``. Points beyond are moved to ``radius`` / 3, the
    distance that only few rows exceed."""

    radius: float
    energy: float

    def shares(self, squared: Floats, frequencies: Floats) -> Floats:
        """The factor for the distance of each point, (m,) of 0..1, from squared distances (m,)."""
        shares = np.ones(len(squared))
        with np.errstate(divide="ignore", over="ignore"):  # a row that never occurs is not far
            limit = np.maximum(self.radius**2, self.energy / frequencies)
        far = np.flatnonzero(squared > limit)
        shares[far] = self.radius / (_FAR * np.sqrt(squared[far]))
        return shares


@dataclass(frozen=True, eq=False)
class Reach:
    """Limits of the distance from ``centre`` (dim,) float64, in the table's own space and, if
    there is a metric, in that."""

    centre: Floats
    own: Limit
    metric: Limit | None = None

    @classmethod
    def of(
        cls, rows: NDArray[np.float32], weights: Floats, counts: Floats, root: Floats | None
    ) -> Reach | None:
        """The limits of a table from a sample; None if no row can be far.

        Args:
            rows: (m, dim), scaled as points are.
            weights: (m,) occurrences that each stands for.
            counts: (m,) rows of the table that each stands for.
            root: of the metric.
        """
        seen = weights > 0
        rows, weights, counts = rows[seen], weights[seen], counts[seen]
        if counts.sum() < _LEAST_ROWS:
            return None
        near = np.ones(len(rows), dtype=bool)
        for _ in range(_ROUNDS):
            centre = np.average(rows[near].astype(np.float64), axis=0, weights=weights[near])
            squared = _squared(rows, centre, None)
            reach = _reach(squared, weights, counts)
            near = squared <= reach
        metric = None
        if root is not None:
            metric = _limit(_squared(rows, centre, root), weights, counts)
        return cls(centre, _limit(squared, weights, counts), metric)

    def holds(self, longest: float, root: Floats | None) -> bool:
        """Whether certainly no row is far, for scaled rows of lengths up to ``longest``."""
        distance = longest + float(np.linalg.norm(self.centre))
        if self.metric is None or root is None:
            return distance <= self.own.radius
        stretched = distance * float(np.linalg.norm(root, 2))
        return distance <= self.own.radius and stretched <= self.metric.radius

    def shares(self, rows: NDArray[np.float32], frequencies: Floats, root: Floats | None) -> Floats:
        """The factor for the distance from the centre of each of ``rows`` (m, dim), (m,)."""
        shares = self.own.shares(_squared(rows, self.centre, None), frequencies)
        if self.metric is None:
            return shares
        other = self.metric.shares(_squared(rows, self.centre, root), frequencies)
        return np.minimum(shares, other)

    def times(self, rows: NDArray[np.float32], root: Floats | None) -> Floats:
        """Distance of each of ``rows`` (m, dim), divided by that which only few rows exceed,
        (m,)."""
        times = np.sqrt(_squared(rows, self.centre, None)) / max(self.own.radius / _FAR, _TINY)
        if self.metric is None:
            return times
        other = np.sqrt(_squared(rows, self.centre, root)) / max(self.metric.radius / _FAR, _TINY)
        return np.maximum(times, other)


@dataclass(frozen=True, eq=False)
class RowMap:
    """Maps rows to points; can be pickled.

    Args:
        exponent: rows are divided by 2 ** exponent.
        root: (dim, dim) square root of a metric, whose distances the points have; None for the
            table's own.
        reach: limits of the distance of scaled rows from their mean; None for no limit.
    """

    exponent: int = 0
    root: Floats | None = None
    reach: Reach | None = None

    def __call__(self, rows: NDArray[Any], frequencies: Floats) -> NDArray[np.float32]:
        """Points (m, dim) of ``rows`` (m, dim) with their ``frequencies`` (m,)."""
        return mapped(self._near(rows, frequencies), self.root)

    def near(self, rows: NDArray[Any], frequencies: Floats) -> NDArray[Any]:
        """``rows`` (m, dim) in the table's own space, with far rows moved."""
        if self.reach is None:
            return rows
        return np.ldexp(self._near(rows, frequencies), self.exponent)

    def _near(self, rows: NDArray[Any], frequencies: Floats) -> NDArray[np.float32]:
        scaled = self._scaled(rows)
        if self.reach is not None:
            shares = self.reach.shares(scaled, frequencies, self.root)
            far = np.flatnonzero(shares < 1)
            away = scaled[far] - self.reach.centre
            scaled[far] = self.reach.centre + away * shares[far, None]
        return scaled

    def pulled(self, rows: NDArray[Any], frequencies: Floats) -> Floats:
        """Squared distances (m,) by which far rows are moved; 0 for all others."""
        squared = np.zeros(len(rows))
        if self.reach is not None:
            moved = self.full(rows) - self(rows, frequencies)
            squared = np.einsum("nd,nd->n", moved, moved, dtype=np.float64)
        return squared

    def far(self, rows: NDArray[Any], frequencies: Floats) -> tuple[NDArray[np.int64], Floats]:
        """The far ones of ``rows`` (m, dim), (k,), and their distances divided by that which only
        few rows exceed, (k,)."""
        if self.reach is None:
            return np.empty(0, np.int64), np.empty(0)
        scaled = self._scaled(rows)
        far = np.flatnonzero(self.reach.shares(scaled, frequencies, self.root) < 1)
        return far, self.reach.times(scaled[far], self.root)

    def unclipped(self, lost: float, worth: float) -> RowMap | None:
        """The map without a limit, if far rows may stay where they are; None if not, or if there is
        no limit.

        Args:
            lost: by clipping, whatever the codes are.
            worth: the loss of clipped rows without any bits, in the same unit.
        """
        if self.reach is None or lost > _MODEST * worth:
            return None
        return replace(self, reach=None)

    def full(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        """Points (m, dim) of rows or centroids (m, dim), without a limit of the distance."""
        return mapped(self._scaled(rows), self.root)

    def _scaled(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        """A new array."""
        return np.ldexp(np.asarray(rows, np.float32), -self.exponent)


def exponent_of(largest: float) -> int:
    """The exponent that scales values of up to ``largest`` to at most 1 and more than 1/2."""
    return int(np.frexp(largest)[1])


def _limit(squared: Floats, weights: Floats, counts: Floats) -> Limit:
    reach = _FAR**2 * _reach(squared, weights, counts)
    inside = squared <= reach
    energy = float((weights[inside] * squared[inside]).sum())
    return Limit(float(np.sqrt(reach)), _MOST_SHARE * energy)


def _reach(squared: Floats, weights: Floats, counts: Floats) -> float:
    """The squared distance that only few of the rows and of the occurrences exceed."""
    order = np.argsort(squared)
    places = [
        int(np.searchsorted(covered, (1 - _FEW) * covered[-1]))
        for covered in (np.cumsum(weights[order]), np.cumsum(counts[order]))
    ]
    return float(squared[order[min(max(places), len(order) - 1)]])


def _squared(rows: NDArray[np.float32], centre: Floats, root: Floats | None) -> Floats:
    """Squared distances (m,) of rows from the centre."""
    away = rows - centre
    if root is not None:
        away = away @ root
    squared: Floats = np.einsum("nd,nd->n", away, away)
    return squared
