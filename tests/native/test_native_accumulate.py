"""The sums of a k-means step: by hand, against numpy, and for any number of threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from saec import _native

Sums = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


def accumulate(
    rows: NDArray[np.float32],
    weights: NDArray[np.float64],
    nearest: NDArray[np.int32],
    centroids: NDArray[np.float32],
    threads: int = 1,
    into: Sums | None = None,
) -> Sums:
    clusters, dim = centroids.shape
    sums = into or (np.zeros((clusters, dim)), np.zeros(clusters), np.zeros(clusters))
    _native.accumulate(rows, weights, nearest, centroids, *sums, threads)
    return sums


# scikit-learn's four points with weights 3, 1, 1, 3, around (0, 0) and (1, 1).
ROWS = np.array([[0, 0], [0.5, 0], [0.5, 1], [1, 1]], np.float32)
WEIGHTS = np.array([3.0, 1, 1, 3])
NEAREST = np.array([0, 0, 1, 1], np.int32)
CENTROIDS = np.array([[0, 0], [1, 1]], np.float32)


def test_by_hand() -> None:
    sums, totals, distortion = accumulate(ROWS, WEIGHTS, NEAREST, CENTROIDS)
    assert sums.tolist() == [[0.5, 0], [3.5, 4]]
    assert totals.tolist() == [4, 4]
    assert distortion.tolist() == [0.25, 0.25]


def test_adds_to_existing_sums() -> None:
    first = accumulate(ROWS[:2], WEIGHTS[:2], NEAREST[:2], CENTROIDS)
    both = accumulate(ROWS[2:], WEIGHTS[2:], NEAREST[2:], CENTROIDS, into=first)
    whole = accumulate(ROWS, WEIGHTS, NEAREST, CENTROIDS)
    for a, b in zip(both, whole, strict=True):
        assert np.array_equal(a, b)


def test_clusters_without_rows_stay_zero() -> None:
    centroids = np.ones((5, 2), np.float32)
    sums, totals, distortion = accumulate(ROWS, WEIGHTS, NEAREST, centroids)
    assert not sums[2:].any()
    assert not totals[2:].any()
    assert not distortion[2:].any()


@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(0, 300),
    clusters=st.integers(1, 20),
    dim=st.integers(1, 9),
)
def test_against_numpy_with_any_number_of_threads(
    seed: int, count: int, clusters: int, dim: int
) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((count, dim)).astype(np.float32)
    centroids = rng.standard_normal((clusters, dim)).astype(np.float32)
    weights = rng.exponential(size=count)
    nearest = rng.integers(clusters, size=count).astype(np.int32)
    one = accumulate(rows, weights, nearest, centroids, threads=1)

    wide = rows.astype(np.float64)
    squared = ((wide - centroids[nearest]) ** 2).sum(axis=1)
    expected = np.zeros((clusters, dim)), np.zeros(clusters), np.zeros(clusters)
    np.add.at(expected[0], nearest, weights[:, None] * wide)
    np.add.at(expected[1], nearest, weights)
    np.add.at(expected[2], nearest, weights * squared)
    for found, wanted in zip(one, expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)
    for threads in (2, 3, 0):
        several = accumulate(rows, weights, nearest, centroids, threads)
        assert all(np.array_equal(a, b) for a, b in zip(one, several, strict=True))


def test_weights_equal_repeated_rows(rng: np.random.Generator) -> None:
    rows = rng.integers(-9, 9, (50, 3)).astype(np.float32)
    centroids = rng.integers(-9, 9, (4, 3)).astype(np.float32)
    nearest = rng.integers(4, size=50).astype(np.int32)
    times = rng.integers(0, 5, 50)
    weighted = accumulate(rows, times.astype(np.float64), nearest, centroids)
    repeated = accumulate(
        np.repeat(rows, times, axis=0),
        np.ones(times.sum()),
        np.repeat(nearest, times),
        centroids,
    )
    assert all(np.array_equal(a, b) for a, b in zip(weighted, repeated, strict=True))


@pytest.mark.parametrize("bad", [-1, 2, 2**31 - 1])
def test_assignments_outside_the_clusters_are_refused(bad: int) -> None:
    with pytest.raises(ValueError, match=f"row 2 is assigned to cluster {bad} of 2"):
        accumulate(ROWS, WEIGHTS, np.array([0, 1, bad, 0], np.int32), CENTROIDS)


def test_invalid_arguments_are_refused() -> None:
    out = np.zeros((2, 2)), np.zeros(2), np.zeros(2)
    with pytest.raises(ValueError, match="weights and rows differ in length: 3 and 4"):
        accumulate(ROWS, WEIGHTS[:3], NEAREST, CENTROIDS)
    with pytest.raises(ValueError, match="nearest and rows differ in length: 3 and 4"):
        accumulate(ROWS, WEIGHTS, NEAREST[:3], CENTROIDS)
    with pytest.raises(ValueError, match="centroids and rows differ in dim: 3 and 2"):
        accumulate(ROWS, WEIGHTS, NEAREST, np.ones((2, 3), np.float32))
    for place, short in enumerate((np.zeros((1, 2)), np.zeros(1), np.zeros(1))):
        arrays = [*out[:place], short, *out[place + 1 :]]
        with pytest.raises(ValueError, match="and centroids differ in length: 1 and 2"):
            _native.accumulate(ROWS, WEIGHTS, NEAREST, CENTROIDS, *arrays)
    with pytest.raises(TypeError, match="incompatible function arguments"):
        _native.accumulate(ROWS, WEIGHTS, NEAREST, CENTROIDS, *out[:2], np.zeros(2, np.float32))


def test_concurrent_calls_give_equal_results() -> None:
    rng = np.random.default_rng(1)
    rows, centroids = rng.standard_normal((2, 5000, 3)).astype(np.float32)
    nearest, weights = rng.integers(0, 70, 5000).astype(np.int32), rng.random(5000)
    one = accumulate(rows, weights, nearest, centroids[:70])
    with ThreadPoolExecutor(4) as callers:
        found = callers.map(
            lambda _: accumulate(rows, weights, nearest, centroids[:70], threads=3), range(8)
        )
        assert all(np.array_equal(a, b) for sums in found for a, b in zip(sums, one, strict=True))
