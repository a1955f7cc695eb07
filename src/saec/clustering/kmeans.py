"""Weighted k-means over any points: initial centroids, and Lloyd's algorithm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

import saec._native as _native
from saec.clustering.points import ArrayPoints, Points, StepSums

__all__ = [
    "Clustering",
    "Seeding",
    "draw_by_mass",
    "draw_distant",
    "kmeans",
    "seed_centroids",
    "squared_distances",
]

Seeding = Literal["k-means++", "random"]

# Seeds are drawn from a sample of this many rows per cluster.
_ROWS_PER_SEED = 16
_LEAST_ROWS = 4096
_ROWS_PER_EMPTY = 8  # rows that are searched for a new position of a cluster without rows
_ONE_BY_ONE = 32
_GROUPS = 4  # groups of centroids that a row searches; exact distances are not needed


def seed_centroids(
    points: Points, clusters: int, seeding: Seeding, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Choose up to ``clusters`` different rows as first centroids, (k, dim) float32.

    k is less than ``clusters`` only if the points hold fewer different rows of positive weight.
    ``k-means++`` is Arthur and Vassilvitskii 2007, on a sample of the rows; ``random`` takes each
    row with the same probability.
    """
    draw = draw_distant if seeding == "k-means++" else _draw_different
    size = max(_ROWS_PER_SEED * clusters, _LEAST_ROWS)
    while True:
        rows, weights = points.sample(size, rng)
        seeds = draw(rows, weights, clusters, rng)
        if len(seeds) == clusters or len(rows) == points.count:
            return seeds
        size *= 8  # many rows are equal: sample more of them


def draw_distant(
    rows: NDArray[np.float32],
    weights: NDArray[np.float64],
    count: int,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Draw up to ``count`` different ``rows`` by weight x squared distance to those drawn before.

    The first :data:`_ONE_BY_ONE` are exactly k-means++. After that each batch doubles the number of
    seeds, all drawn by their distances to the previous ones (the idea of k-means||, Bahmani et al.
    2012): the distances change little meanwhile, and twenty thousand seeds take a second, not
    minutes.
    """
    chosen = np.zeros(min(count, _ONE_BY_ONE), dtype=np.int64)
    drawn = _native.draw_seeds(rows, weights, rng.random(len(chosen)), chosen)
    seeds = rows[chosen[:drawn]]
    if drawn < len(chosen) or drawn == count:
        return seeds
    squared = squared_distances(rows, seeds)
    while len(seeds) < count:
        new = draw_by_mass(weights * squared, min(len(seeds), count - len(seeds)), rng)
        if not len(new):
            break
        squared[new] = 0
        # Equal rows may be drawn together, and because of rounding a row that equals a seed may
        # seem closer to another seed and be drawn again.
        found = np.concatenate([seeds, rows[new]])
        _, first = np.unique(found, axis=0, return_index=True)
        added = found[np.sort(first)[len(seeds) :]]
        if len(added):
            squared = np.minimum(squared, squared_distances(rows, added))
            seeds = np.concatenate([seeds, added])
    return seeds


def squared_distances(
    rows: NDArray[np.float32], centroids: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Squared distance of each row (n, dim) to its nearest centroid, (n,) float64."""
    nearest = ArrayPoints(rows, groups=_GROUPS).assign(centroids)
    difference = rows - centroids[nearest]
    squared: NDArray[np.float64] = np.einsum("nd,nd->n", difference, difference, dtype=np.float64)
    return squared


def draw_by_mass(
    mass: NDArray[np.float64], count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Up to ``count`` different positions, without replacement, in proportion to ``mass``."""
    possible = np.flatnonzero(mass > 0)
    # Exponential clocks (Efraimidis and Spirakis 2006): the smallest times are the sample.
    clocks = rng.exponential(size=len(possible)) / mass[possible]
    if len(possible) > count:
        possible = possible[np.argpartition(clocks, count)[:count]]
    return np.sort(possible)


def _draw_different(
    rows: NDArray[np.float32],
    weights: NDArray[np.float64],
    count: int,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    shuffled = rows[rng.permutation(np.flatnonzero(weights > 0))]
    _, first = np.unique(shuffled, axis=0, return_index=True)
    seeds: NDArray[np.float32] = shuffled[np.sort(first)[:count]]
    return seeds


@dataclass(frozen=True, eq=False)
class Clustering:
    """Result of k-means.

    centroids: (k, dim) float32; weights: (k,) float64, of the rows of each cluster; distortion:
    weighted squared error before each update of the centroids; converged: whether it stopped
    before the last iteration.
    """

    centroids: NDArray[np.float32]
    weights: NDArray[np.float64]
    distortion: tuple[float, ...]
    converged: bool


def kmeans(
    points: Points,
    clusters: int,
    *,
    rng: np.random.Generator,
    iterations: int = 20,
    tolerance: float = 1e-4,
    seeding: Seeding = "k-means++",
    advance: Callable[[], None] = lambda: None,
) -> Clustering:
    """Cluster ``points`` into up to ``clusters`` clusters.

    Stops early when the distortion falls by less than ``tolerance`` of itself. There are fewer
    clusters if there are fewer different rows. ``advance`` is called once per
    iteration. Deterministic for a given ``rng``, for any number of threads.
    """
    centroids = seed_centroids(points, clusters, seeding, rng)
    history: list[float] = []
    for _ in range(iterations):
        step = points.step(centroids)
        history.append(float(step.distortion.sum()))
        centroids = _update(points, centroids, step, rng)
        advance()
        if len(history) > 1 and history[-2] - history[-1] <= tolerance * history[-2]:
            return Clustering(centroids, step.weights, tuple(history), True)
    return Clustering(centroids, step.weights, tuple(history), False)


def _update(
    points: Points, centroids: NDArray[np.float32], step: StepSums, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Means of the clusters; clusters without weight move to rows that are far from all
    centroids."""
    used = step.weights > 0
    means = centroids.astype(np.float64)
    np.divide(step.sums, step.weights[:, None], out=means, where=used[:, None])
    updated: NDArray[np.float32] = means.astype(np.float32)
    empty = np.flatnonzero(~used)
    if len(empty) and step.distortion.sum() > 0:
        rows, weights = points.sample(max(_LEAST_ROWS, _ROWS_PER_EMPTY * len(empty)), rng)
        # Drawn by squared distance, as in k-means++, but all at once.
        far = draw_by_mass(weights * squared_distances(rows, updated[used]), len(empty), rng)
        updated[empty[: len(far)]] = rows[far]
    return updated
