"""Seeds are distinct rows of positive weight, far apart, and as many as requested if possible."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from saec.clustering.kmeans import (
    Seeding,
    draw_distant,
    seed_centroids,
    squared_distances,
)
from saec.clustering.points import ArrayPoints

SEEDINGS = get_args(Seeding)


def different(rows: NDArray[np.float32]) -> int:
    return len(np.unique(rows, axis=0))


def column(values: object) -> NDArray[np.float32]:
    return np.asarray(values, dtype=np.float32)[:, None]


def test_squared_distances_by_hand() -> None:
    rows = np.array([[0, 0], [3, 4], [9, 0]], np.float32)
    centroids = np.array([[0, 0], [10, 0]], np.float32)
    assert squared_distances(rows, centroids).tolist() == [0, 25, 1]


@pytest.mark.parametrize("seeding", SEEDINGS)
def test_seeds_are_rows(seeding: Seeding, rng: np.random.Generator) -> None:
    rows = rng.standard_normal((300, 3)).astype(np.float32)
    seeds = seed_centroids(ArrayPoints(rows), 20, seeding, rng)
    assert seeds.shape == (20, 3)
    assert seeds.dtype == np.float32
    assert different(seeds) == 20
    assert different(np.concatenate([rows, seeds])) == 300


@pytest.mark.parametrize("seeding", SEEDINGS)
@pytest.mark.parametrize("asked", [3, 4, 200])
def test_fewer_different_rows_than_asked(
    seeding: Seeding, asked: int, rng: np.random.Generator
) -> None:
    rows = column([5, 1, 5, 5, 1, 9] * 10)
    seeds = seed_centroids(ArrayPoints(rows), asked, seeding, rng)
    assert sorted(seeds.ravel()) == [1, 5, 9]


@pytest.mark.parametrize("seeding", SEEDINGS)
def test_rows_without_weight_are_no_seeds(seeding: Seeding, rng: np.random.Generator) -> None:
    rows = column(np.arange(300))
    weights = (np.arange(300) % 2).astype(np.float64)
    seeds = seed_centroids(ArrayPoints(rows, weights), 200, seeding, rng)
    assert sorted(seeds.ravel()) == list(range(1, 300, 2))


@pytest.mark.parametrize("seeding", SEEDINGS)
def test_rare_rows_are_found_beyond_the_sample(seeding: Seeding, rng: np.random.Generator) -> None:
    # 4,096 rows are looked at first; the four rare ones may not be among them.
    rows = np.zeros((20_000, 1), np.float32)
    rows[[10, 9_999, 15_000, 19_999], 0] = [1, 2, 3, 4]
    seeds = seed_centroids(ArrayPoints(rows), 5, seeding, rng)
    assert sorted(seeds.ravel()) == [0, 1, 2, 3, 4]


def test_random_seeding_takes_rows_alike_whatever_their_weight() -> None:
    rows = column([0, 1, 2])
    points = ArrayPoints(rows, np.array([1.0, 1000.0, 1.0]))
    times = np.zeros(3)
    for seed in range(900):
        times[int(seed_centroids(points, 1, "random", np.random.default_rng(seed))[0, 0])] += 1
    assert np.abs(times - 300).max() < 60  # standard deviation 14


def test_distant_seeds_follow_weight_and_distance() -> None:
    # Rows 0 and 1 lie together, 100 far off: two seeds nearly always hold 100.
    rows, weights = column([0, 1, 100]), np.array([50.0, 50.0, 1.0])
    with_far = [
        100 in draw_distant(rows, weights, 2, np.random.default_rng(seed)) for seed in range(200)
    ]
    # From 0: mass of 100 is 10,000 against 50; from 1: 9,801 against 50.
    assert sum(with_far) >= 195


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 400),
    values=st.integers(2, 400),
    count=st.integers(1, 450),
    near=st.booleans(),
)
def test_as_many_different_seeds_as_there_are(
    seed: int, rows: int, values: int, count: int, near: bool
) -> None:
    # More than 64 seeds are drawn many at a time. Near rows differ by less than float32 scores can
    # tell, and yet each is drawn once.
    rng = np.random.default_rng(seed)
    table = rng.integers(0, values, (rows, 2)).astype(np.float32)
    if near:
        table[::3] = table[0] + rng.integers(0, 3, (len(table[::3]), 2)) * np.float32(2e-5)
    seeds = draw_distant(table, np.ones(rows), count, rng)
    assert len(seeds) == different(seeds) == min(count, different(table))
    assert different(np.concatenate([table, seeds])) == different(table)


def test_k_means_plus_plus_is_better_than_random(rng: np.random.Generator) -> None:
    # Thirty groups far apart, each a fifth smaller than the last: random seeds miss small ones.
    centres = 100 * rng.standard_normal((30, 4))
    group = np.minimum(rng.geometric(0.2, 3000), 30) - 1
    rows = (centres[group] + rng.standard_normal((3000, 4))).astype(np.float32)
    apart, random = (
        squared_distances(rows, seed_centroids(ArrayPoints(rows), 100, seeding, rng)).sum()
        for seeding in ("k-means++", "random")
    )
    assert apart < random / 2


@pytest.mark.parametrize("seeding", SEEDINGS)
def test_the_generator_decides(seeding: Seeding, rng: np.random.Generator) -> None:
    points = ArrayPoints(rng.standard_normal((5000, 2)).astype(np.float32))
    one, again, other = (
        seed_centroids(points, 100, seeding, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
