"""k-means: four points by hand, degenerate clusters, and invariances."""

from __future__ import annotations

import logging

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from saec.clustering.kmeans import Clustering, kmeans
from saec.clustering.points import ArrayPoints, Points, StepSums

Sample = tuple[NDArray[np.float32], NDArray[np.float64]]


class StartAt(ArrayPoints):
    """Points whose first sample is the given rows: k-means starts there. Records its steps."""

    def __init__(self, rows: object, weights: object, start: object) -> None:
        super().__init__(np.array(rows, np.float32), np.array(weights, np.float64))
        self.start: NDArray[np.float32] | None = np.array(start, np.float32)
        self.steps: list[StepSums] = []

    def sample(self, size: int, rng: np.random.Generator) -> Sample:
        if self.start is None:
            return super().sample(size, rng)
        rows, self.start = self.start, None
        return rows, np.ones(len(rows))

    def step(self, centroids: NDArray[np.float32]) -> StepSums:
        self.steps.append(super().step(centroids))
        return self.steps[-1]


class Halves:
    """Two sets of points as one, as with shards."""

    def __init__(self, first: Points, second: Points) -> None:
        self._parts = first, second

    @property
    def count(self) -> int:
        return sum(part.count for part in self._parts)

    @property
    def dim(self) -> int:
        return self._parts[0].dim

    def sample(self, size: int, rng: np.random.Generator) -> Sample:
        assert size >= self.count, "small enough to be sampled whole"
        rows, weights = zip(*(part.sample(part.count, rng) for part in self._parts), strict=True)
        return np.concatenate(rows), np.concatenate(weights)

    def step(self, centroids: NDArray[np.float32]) -> StepSums:
        a, b = (part.step(centroids) for part in self._parts)
        return StepSums(a.sums + b.sums, a.weights + b.weights, a.distortion + b.distortion)

    def assign(self, centroids: NDArray[np.float32]) -> NDArray[np.int32]:
        return np.concatenate([part.assign(centroids) for part in self._parts])


def run(points: Points, clusters: int, seed: int = 0, **options: object) -> Clustering:
    return kmeans(points, clusters, rng=np.random.default_rng(seed), **options)  # type: ignore[arg-type]


def column(values: object) -> NDArray[np.float32]:
    return np.asarray(values, dtype=np.float32)[:, None]


def equal(a: Clustering, b: Clustering) -> bool:
    return np.array_equal(a.centroids, b.centroids) and a.distortion == b.distortion


# scikit-learn's four points with weights 3, 1, 1, 3.
ROWS = np.array([[0, 0], [0.5, 0], [0.5, 1], [1, 1]], np.float32)
WEIGHTS = np.array([3.0, 1, 1, 3])


def test_four_points_by_hand() -> None:
    found = run(StartAt(ROWS, WEIGHTS, [[0, 0], [1, 1]]), 2, seeding="random")
    # Means (3 * 0 + 0.5) / 4 and (0.5 + 3) / 4; distortion 2 * (0.25), then 2 * (3/64 + 9/64).
    assert sorted(found.centroids.tolist()) == [[0.125, 0], [0.875, 1]]
    assert found.distortion == (0.5, 0.375, 0.375)
    assert found.converged


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("seeding", ["k-means++", "random"])
def test_four_points_from_any_seeds(seed: int, seeding: str) -> None:
    found = run(ArrayPoints(ROWS, WEIGHTS), 2, seed, seeding=seeding)
    assert sorted(found.centroids.tolist()) == [[0.125, 0], [0.875, 1]]
    assert found.distortion[-1] == 0.375


def test_one_cluster_is_the_weighted_mean() -> None:
    found = run(ArrayPoints(column([0, 10]), np.array([3.0, 1.0])), 1)
    assert found.centroids.tolist() == [[2.5]]
    assert found.distortion[-1] == 3 * 2.5**2 + 7.5**2


def test_one_row() -> None:
    found = run(ArrayPoints(column([7])), 1)
    assert found.centroids.tolist() == [[7]]
    assert found.distortion[-1] == 0


def test_as_many_clusters_as_rows(rng: np.random.Generator) -> None:
    rows = rng.permutation(200).astype(np.float32)[:, None]
    found = run(ArrayPoints(rows), 200)
    assert sorted(found.centroids.ravel()) == list(range(200))
    assert found.distortion[-1] == 0


def test_fewer_different_rows_than_clusters(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = run(ArrayPoints(column([4, 4, 1, 4, 1])), 4)
    assert sorted(found.centroids.ravel()) == [1, 4]
    assert caplog.messages == []


def test_empty_cluster_moves_to_a_row() -> None:
    # From (1,0), (2,0), (11,7): (4,6) goes with (2,0), whose mean (3,3) then loses both its rows.
    rows = [[11, 7], [2, 0], [1, 0], [4, 6], [7, 6], [5, 6], [4, 11]]
    points = StartAt(rows, np.ones(7), [[1, 0], [2, 0], [11, 7]])
    found = run(points, 3, seeding="random", tolerance=0.0)
    assert sorted(points.steps[0].weights) == [1, 2, 4]
    assert sorted(points.steps[1].weights) == [0, 2, 5], "this case is meant to empty a cluster"
    for step in points.steps[2:]:
        assert (step.weights > 0).all()
    assert np.isfinite(found.centroids).all()
    assert found.distortion[-1] < found.distortion[1]


def test_clusters_that_stay_empty_are_harmless() -> None:
    # All weight on two rows: of three centroids, one has nothing to move to.
    points = StartAt([[0], [1], [5]], [1, 1, 0], [[0], [1], [5]])
    found = run(points, 3, seeding="random")
    assert sorted(found.centroids.ravel()) == [0, 1, 5]
    assert found.distortion[-1] == 0


def test_rows_without_weight_change_nothing(rng: np.random.Generator) -> None:
    rows = rng.standard_normal((300, 3)).astype(np.float32)
    weights = rng.random(300)
    padded = np.insert(rows, 150, np.full((7, 3), 1e6), axis=0)
    found = run(ArrayPoints(padded, np.insert(weights, 150, np.zeros(7))), 5)
    assert np.abs(found.centroids).max() < 10


def test_weights_equal_repeated_rows() -> None:
    rng = np.random.default_rng(0)
    rows = rng.integers(-9, 9, (40, 2)).astype(np.float32)
    times = rng.integers(1, 5, 40)
    start = rows[np.unique(rows, axis=0, return_index=True)[1][:6]]
    weighted = run(StartAt(rows, times, start), 6, seeding="random")
    repeated = np.repeat(rows, times, axis=0)
    unweighted = run(StartAt(repeated, np.ones(len(repeated)), start), 6, seeding="random")
    assert np.array_equal(weighted.centroids, unweighted.centroids)
    np.testing.assert_allclose(weighted.distortion, unweighted.distortion, rtol=1e-12)


def test_iterations_and_advance(rng: np.random.Generator) -> None:
    points = ArrayPoints(rng.standard_normal((2000, 2)).astype(np.float32))
    calls: list[int] = []
    found = run(points, 50, iterations=4, tolerance=0.0, advance=lambda: calls.append(1))
    assert len(found.distortion) == len(calls) == 4
    assert not found.converged


def test_stops_at_the_tolerance(rng: np.random.Generator) -> None:
    points = ArrayPoints(rng.standard_normal((2000, 2)).astype(np.float32))
    found = run(points, 20, iterations=100, tolerance=0.02)
    falls = -np.diff(found.distortion) / found.distortion[:-1]
    assert found.converged
    assert falls[-1] <= 0.02
    assert (falls[:-1] > 0.02).all()


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(2, 400), dim=st.integers(1, 8))
def test_distortion_never_rises(seed: int, count: int, dim: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((count, dim)).astype(np.float32)
    clusters = min(count, 5)
    points = StartAt(rows, rng.exponential(size=count), rows[:clusters])
    found = run(points, clusters, seeding="random", tolerance=0.0)
    reseeded = [index for index, step in enumerate(points.steps) if not (step.weights > 0).all()]
    history = np.array(found.distortion[: reseeded[0] + 1 if reseeded else None])
    assert (np.diff(history) <= 1e-6 * history[:-1] + 1e-12).all()


def test_the_seed_decides(rng: np.random.Generator) -> None:
    points = ArrayPoints(rng.standard_normal((3000, 4)).astype(np.float32), rng.random(3000))
    assert equal(run(points, 80, 1), run(points, 80, 1))
    assert not equal(run(points, 80, 1), run(points, 80, 2))


def test_threads_change_nothing(rng: np.random.Generator) -> None:
    rows, weights = rng.standard_normal((3000, 4)).astype(np.float32), rng.random(3000)
    one, two = (run(ArrayPoints(rows, weights, threads=threads), 100) for threads in (1, 2))
    assert equal(one, two)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_narrow_floats_equal_their_float32(dtype: object, rng: np.random.Generator) -> None:
    narrow = rng.standard_normal((1000, 4)).astype(dtype)
    assert equal(run(ArrayPoints(narrow), 90), run(ArrayPoints(narrow.astype(np.float32)), 90))


def test_points_in_shards_give_the_same_result(rng: np.random.Generator) -> None:
    # Integer rows and weights have exact sums, in any order.
    rows = rng.integers(-50, 50, (900, 3)).astype(np.float32)
    weights = rng.integers(1, 9, 900).astype(np.float64)
    whole = run(ArrayPoints(rows, weights), 70)
    halves = Halves(ArrayPoints(rows[:400], weights[:400]), ArrayPoints(rows[400:], weights[400:]))
    split = run(halves, 70)
    assert np.array_equal(whole.centroids, split.centroids)
    np.testing.assert_allclose(whole.distortion, split.distortion, rtol=1e-12)
    assert np.array_equal(ArrayPoints(rows).assign(whole.centroids), halves.assign(split.centroids))


def test_inputs_are_not_changed(rng: np.random.Generator) -> None:
    rows, weights = rng.standard_normal((300, 3)).astype(np.float32), rng.random(300)
    copies = rows.copy(), weights.copy()
    run(ArrayPoints(rows, weights), 300)
    assert np.array_equal(rows, copies[0])
    assert np.array_equal(weights, copies[1])


@pytest.mark.parametrize("scale", [1e-20, 1e15])
def test_extreme_scales_stay_finite(scale: float, rng: np.random.Generator) -> None:
    rows = (scale * rng.standard_normal((500, 3))).astype(np.float32)
    assert np.isfinite(run(ArrayPoints(rows), 100).centroids).all()
