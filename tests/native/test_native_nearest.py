"""Nearest-centroid search: by hand, against numpy, and one instruction set against another."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from saec._native import NearestCentroid

Floats = NDArray[np.float32]

EVERYTHING = 1e9  # a radius share
TILE = 32  # rows of a tile; sets of up to 64 centroids are one leaf
LARGEST = float(np.finfo(np.float32).max)


def runs_here(isa: str) -> bool:
    try:
        NearestCentroid(np.ones((1, 1), np.float32), isa)
    except ValueError:
        return False
    return True


HERE = [isa for isa in ("scalar", "avx2", "avx512") if runs_here(isa)]


@pytest.fixture(params=["scalar", "avx2", "avx512"])
def isa(request: pytest.FixtureRequest) -> str:
    if request.param not in HERE:
        pytest.skip(f"this processor has no {request.param}")
    return str(request.param)


def matrix(values: object) -> Floats:
    array = np.asarray(values, dtype=np.float32)
    return array if array.ndim == 2 else array[:, None]


def search(
    rows: Floats, centroids: Floats, isa: str = "auto", share: float = 1.0, threads: int = 1
) -> NDArray[np.int32]:
    nearest = np.full(len(rows), -7, dtype=np.int32)
    NearestCentroid(centroids, isa).search(rows, nearest, share, threads)
    assert nearest.min(initial=0) >= 0
    assert nearest.max(initial=0) < len(centroids)
    return nearest


def squared_distances(rows: Floats, centroids: Floats) -> NDArray[np.float64]:
    """(n, k) float64, by brute force."""
    blocks = np.array_split(rows.astype(np.float64), max(1, rows.size * len(centroids) >> 20))
    wide = centroids.astype(np.float64)
    return np.concatenate([((block[:, None] - wide) ** 2).sum(axis=2) for block in blocks])


def lowest_nearest(rows: Floats, centroids: Floats) -> NDArray[np.intp]:
    return np.argmin(squared_distances(rows, centroids), axis=1)


def check_nearest(nearest: NDArray[np.int32], rows: Floats, centroids: Floats) -> None:
    """Check that chosen centroids are as near as the nearest, up to rounding of float32 scores."""
    squared = squared_distances(rows, centroids)
    middle = (centroids.min(axis=0).astype(np.float64) + centroids.max(axis=0)) / 2
    sizes = ((rows - middle) ** 2).sum(axis=1) + ((centroids - middle) ** 2).sum(axis=1).max()
    rounding = 8 * (rows.shape[1] + 8) * 2.0**-24 * sizes
    chosen = squared[np.arange(len(rows)), nearest]
    assert np.all(chosen <= squared.min(axis=1) + rounding)


def integers(rng: np.random.Generator, count: int, dim: int, most: int = 8) -> Floats:
    return rng.integers(-most, most, (count, dim), endpoint=True).astype(np.float32)


def test_by_hand(isa: str) -> None:
    centroids = matrix([[0, 0], [4, 0], [0, 3]])
    rows = matrix([[1, 1], [3, 1], [0, 2], [9, 9], [-5, -5]])
    # squared distances to the row (9, 9): 162, 106, 117
    assert search(rows, centroids, isa).tolist() == [0, 1, 2, 1, 0]


def test_ties_go_to_the_lowest_index(isa: str) -> None:
    assert search(matrix([1.0]), matrix([2, 0]), isa).tolist() == [0]
    assert search(matrix([1.0]), matrix([0, 2]), isa).tolist() == [0]
    assert search(matrix([5, 1]), matrix([9, 5, 5, 1, 1]), isa).tolist() == [1, 3]
    # Duplicates in different leaves: a hundred of each of three values.
    repeated = matrix(np.tile([0.0, 10.0, 20.0], 100))
    assert search(matrix([19, 1, 11, 5, 15]), repeated, isa).tolist() == [2, 0, 1, 0, 1]


def test_equal_centroids(isa: str) -> None:
    alike = np.tile(matrix([[3.5, -2]]), (200, 1))
    assert search(matrix([[0, 0], [3.5, -2]]), alike, isa).tolist() == [0, 0]


@pytest.mark.parametrize("rows", [1, TILE, 3 * TILE + 5])
@pytest.mark.parametrize(
    ("clusters", "dim"),
    [(1, 3), (7, 1), (64, 16), (65, 17), (100, 3), (129, 130), (1000, 16), (90, 512), (80, 1030)],
)
def test_equals_brute_force_on_integers(isa: str, rows: int, clusters: int, dim: int) -> None:
    # Small integers make every sum exact, so that ties are ties.
    rng = np.random.default_rng(clusters + dim)
    x, c = integers(rng, rows, dim), integers(rng, clusters, dim)
    assert np.array_equal(search(x, c, isa), lowest_nearest(x, c))


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(0, 4 * TILE),
    clusters=st.integers(1, 700),
    dim=st.integers(1, 20),
    most=st.sampled_from([1, 3, 100]),
    offset=st.sampled_from([0, 2**10, -(2**20)]),
)
def test_ties_and_offsets(
    seed: int, rows: int, clusters: int, dim: int, most: int, offset: int
) -> None:
    rng = np.random.default_rng(seed)
    x, c = integers(rng, rows, dim, most), integers(rng, clusters, dim, most)
    expected = lowest_nearest(x, c)
    for isa in HERE:
        assert np.array_equal(search(x + np.float32(offset), c + np.float32(offset), isa), expected)


def inputs(seed: int) -> Iterator[tuple[str, Floats, Floats]]:
    """Rows and centroids of many kinds; four tiles and a ragged one, several leaves."""
    rng = np.random.default_rng(seed)
    n, k = 4 * TILE + 9, 400
    for dim in (1, 2, 16, 33):
        x = rng.standard_normal((n, dim)).astype(np.float32)
        c = rng.standard_normal((k, dim)).astype(np.float32)
        tight = c[:20][rng.integers(20, size=k)] + 1e-3 * rng.standard_normal((k, dim))
        near = tight[rng.integers(k, size=n)] + 1e-3 * rng.standard_normal((n, dim))
        tails = rng.standard_t(1.5, (n, dim)), rng.standard_t(1.5, (k, dim))
        yield f"normal {dim}", x, c
        yield f"rows far outside {dim}", 50 * x, c
        yield f"one side {dim}", x + np.float32(30), c
        yield f"rows within {dim}", x / 50, c
        yield f"rows are centroids {dim}", c[:n].copy(), c
        yield f"clustered {dim}", matrix(near), matrix(tight)
        yield f"heavy tails {dim}", matrix(tails[0]), matrix(tails[1])
        # Rows with nearly equal distances: the last bits decide which centroid is nearest.
        sphere = c / np.linalg.norm(c, axis=1, keepdims=True)
        yield f"sphere {dim}", 1e-6 * x, matrix(np.r_[sphere, -sphere])
        yield f"far sphere {dim}", x + np.float32(1000), matrix(sphere)
        edge = np.r_[-3 + np.zeros((8, dim)), 3 + 1e-6 * rng.standard_normal((k, dim))]
        yield f"edge {dim}", np.abs(300 * x) + np.float32(9), matrix(edge)
        yield f"flat {dim}", x * np.float32([1] + [0] * (dim - 1)), c
        yield f"offset {dim}", x + np.float32(1e4), c + np.float32(1e4)


INPUTS = {name: (rows, centroids) for name, rows, centroids in inputs(3)}


@pytest.mark.parametrize("name", INPUTS)
def test_floats_against_brute_force(name: str) -> None:
    rows, centroids = INPUTS[name]
    copies = rows.copy(), centroids.copy()
    found = [search(rows, centroids, isa) for isa in HERE]
    check_nearest(found[0], rows, centroids)
    for other in found[1:]:
        assert np.array_equal(found[0], other), "instruction sets round alike"
    # With very large leaves nothing is ruled out; the same centroids must be found.
    assert np.array_equal(found[0], search(rows, centroids, "scalar", EVERYTHING))
    assert np.array_equal(rows, copies[0])
    assert np.array_equal(centroids, copies[1])


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 70),
    clusters=st.integers(1, 500),
    dim=st.integers(1, 40),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
    spread=st.sampled_from([0.01, 1.0, 10.0, 1000.0]),
)
def test_any_sizes(
    seed: int, rows: int, clusters: int, dim: int, scale: float, spread: float
) -> None:
    rng = np.random.default_rng(seed)
    x = matrix(scale * spread * rng.standard_normal((rows, dim)))
    c = matrix(scale * rng.standard_normal((clusters, dim)))
    found = [search(x, c, isa) for isa in HERE]
    check_nearest(found[0], x, c)
    for other in found[1:]:
        assert np.array_equal(found[0], other)


@pytest.mark.parametrize("clusters", [300, 3000])  # a few leaves, and more than 64
def test_threads_change_nothing(isa: str, clusters: int) -> None:
    rng = np.random.default_rng(5)
    x, c = integers(rng, 2500, 3), integers(rng, clusters, 3)
    one = search(x, c, isa, threads=1)
    for threads in (2, 3, 0):
        assert np.array_equal(search(x, c, isa, threads=threads), one)


def test_row_order_does_not_matter(isa: str) -> None:
    rows, centroids = INPUTS["normal 16"]
    order = np.random.default_rng(0).permutation(len(rows))
    assert np.array_equal(search(rows[order], centroids, isa), search(rows, centroids, isa)[order])


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
@pytest.mark.parametrize("name", ["normal 16", "clustered 33", "heavy tails 2"])
def test_a_smaller_radius_share_is_valid_and_never_better(
    isa: str, name: str, share: float
) -> None:
    rows, centroids = INPUTS[name]
    squared = squared_distances(rows, centroids)
    lanes = np.arange(len(rows))
    exact = squared[lanes, search(rows, centroids, isa)].sum()
    found = search(rows, centroids, isa, share)
    assert np.array_equal(found, search(rows, centroids, "scalar", share))
    shared = squared[lanes, found].sum()
    assert exact * (1 - 1e-5) <= shared
    # At least the leaf with the nearest centre was searched.
    assert shared < squared.mean(axis=1).sum()


def test_a_smaller_radius_share_is_approximate() -> None:
    rows, centroids = INPUTS["normal 16"]
    assert not np.array_equal(search(rows, centroids), search(rows, centroids, share=0.0))


@pytest.mark.parametrize("scale", [1e-45, 1e-38, 1e-30, 1e-19, 1e19, 1e30, LARGEST])
@pytest.mark.parametrize("clusters", [3, 300])
def test_squares_that_over_or_underflow(isa: str, scale: float, clusters: int) -> None:
    rng = np.random.default_rng(1)
    x = matrix(scale * rng.uniform(-1, 1, (TILE + 3, 5)))
    c = matrix(scale * rng.uniform(-1, 1, (clusters, 5)))
    search(x, c, isa)
    search(np.ones_like(x), c, isa)
    search(x, np.ones_like(c), isa)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("clusters", [3, 300])
def test_values_that_are_not_finite_change_no_other_row(
    isa: str, bad: float, clusters: int
) -> None:
    rng = np.random.default_rng(2)
    x, c = integers(rng, TILE + 3, 2), integers(rng, clusters, 2)
    c[::2] = bad
    search(x, c, isa)
    x[::3, 0] = bad
    search(x, c, isa)
    finite = integers(rng, clusters, 2)
    found = search(x, finite, isa)
    good = np.isfinite(x).all(axis=1)
    assert np.array_equal(found[good], lowest_nearest(x[good], finite))


def test_centroids_near_the_largest_float(isa: str) -> None:
    c = matrix(np.linspace(0.99999 * LARGEST, LARGEST, 300).reshape(150, 2))
    search(c, c, isa)
    search(-c, c, isa)


def test_no_rows(isa: str) -> None:
    assert search(np.empty((0, 3), np.float32), np.ones((100, 3), np.float32), isa).size == 0


def test_invalid_arguments_are_refused() -> None:
    ones = np.ones((5, 3), np.float32)
    with pytest.raises(ValueError, match=r"centroids of shape \(0, 3\) are empty"):
        NearestCentroid(ones[:0])
    with pytest.raises(ValueError, match=r"centroids of shape \(5, 0\) are empty"):
        NearestCentroid(ones[:, :0])
    with pytest.raises(ValueError, match="this processor has no instruction set mmx"):
        NearestCentroid(ones, "mmx")
    searcher = NearestCentroid(ones)
    with pytest.raises(ValueError, match="rows and centroids differ in dim"):
        searcher.search(np.ones((5, 2), np.float32), np.empty(5, np.int32))
    with pytest.raises(ValueError, match="rows and nearest differ in length"):
        searcher.search(ones, np.empty(4, np.int32))
    # Output buffers are never converted, since the result would go to a copy.
    for out in (np.empty(5, np.int64), np.empty(10, np.int32)[::2]):
        with pytest.raises(TypeError, match="incompatible function arguments"):
            searcher.search(ones, out)  # type: ignore[arg-type]


def in_groups(
    rows: Floats, centroids: Floats, groups: int, isa: str, threads: int = 1
) -> NDArray[np.int32]:
    nearest = np.full(len(rows), -7, dtype=np.int32)
    NearestCentroid(centroids, isa, groups).search(rows, nearest, 1.0, threads)
    return nearest


def test_one_group_suffices_for_distant_clusters(isa: str, rng: np.random.Generator) -> None:
    # 32 clumps of 16 centroids: no row has its nearest centroid in another clump.
    middles = 1000 * np.arange(32)[:, None] + rng.standard_normal((32, 3))
    centroids = matrix(np.repeat(middles, 16, axis=0) + rng.standard_normal((512, 3)))
    rows = matrix(centroids[rng.integers(512, size=9000)] + 0.3 * rng.standard_normal((9000, 3)))
    check_nearest(in_groups(rows, centroids, 1, isa), rows, centroids)


@pytest.fixture(scope="module")
def many() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, centroids, and their squared distances."""
    rng = np.random.default_rng(2020)
    rows = rng.standard_normal((1500, 8)).astype(np.float32)
    centroids = rng.standard_normal((3000, 8)).astype(np.float32)
    return rows, centroids, squared_distances(rows, centroids)


@pytest.mark.exhaustive(keep=1)
def test_few_groups_find_nearly_nearest_centroids(
    isa: str, many: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> None:
    rows, centroids, squared = many
    least = squared.min(axis=1).sum()
    excess = [
        squared[np.arange(len(rows)), in_groups(rows, centroids, groups, isa)].sum() / least - 1
        for groups in (1, 8, 32, 1000)
    ]
    assert excess == sorted(excess, reverse=True)
    assert excess[0] > 0.02  # so that the other groups matter
    assert excess[2] < 0.002
    assert excess[3] < 1e-6


def test_groups_agree_on_all_instruction_sets_and_threads(rng: np.random.Generator) -> None:
    rows = rng.standard_normal((9001, 16)).astype(np.float32)
    centroids = rng.standard_normal((700, 16)).astype(np.float32)
    expected = in_groups(rows, centroids, 6, "scalar")
    for isa in HERE:
        for threads in (1, 2, 3):
            assert np.array_equal(in_groups(rows, centroids, 6, isa, threads), expected)
