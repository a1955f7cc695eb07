"""Lloyd's algorithm, weighted, over any points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saec.clustering.points import Points, StepSums
from saec.clustering.seeding import (
    Seeding,
    draw_by_mass,
    seed_centroids,
    squared_distances,
)

__all__ = ["Clustering", "kmeans"]

_ROWS_PER_EMPTY = 8  # looked at to find a place for a cluster without rows
_LEAST_ROWS = 4096


@dataclass(frozen=True, eq=False)
class Clustering:
    """What k-means found.

    centroids: (k, dim) float32; weights: (k,) float64, of the rows behind each; distortion:
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

    Stops early when the distortion falls by less than ``tolerance`` of itself. Fewer clusters come
    back if there are fewer different rows. ``advance`` is called once per
    iteration. Deterministic for a given ``rng``, whatever the number of threads.
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
    """Means of the clusters; clusters without weight move to rows that are far from all others."""
    empty = np.flatnonzero(step.weights <= 0)
    updated = centroids.copy()
    used = step.weights > 0
    updated[used] = (step.sums[used] / step.weights[used, None]).astype(np.float32)
    if len(empty) and step.distortion.sum() > 0:
        rows, weights = points.sample(max(_LEAST_ROWS, _ROWS_PER_EMPTY * len(empty)), rng)
        # Drawn by squared distance, as in k-means++, but all at once.
        far = draw_by_mass(weights * squared_distances(rows, updated[used]), len(empty), rng)
        updated[empty[: len(far)]] = rows[far]
    return updated
