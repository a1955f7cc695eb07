"""Weighted k-means of scalars: by hand, against brute force, near the optimum on many values."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from saec import _native
from saec.clustering.scalar import Scalars, cluster_scalars, nearest_scalars, scalar_codebooks
from saec.errors import FieldError, OptionError


def scalars_of(values: list[float], weights: list[float] | None = None) -> Scalars:
    shares = np.ones(len(values)) if weights is None else np.array(weights, np.float64)
    return Scalars.of(np.array(values, np.float32), shares)


def plain_distortion(
    values: NDArray[np.float32], weights: NDArray[np.float64], centers: NDArray[np.float64]
) -> float:
    squared = (values.astype(np.float64)[:, None] - centers) ** 2
    return float(weights @ squared.min(axis=1))


def best_distortion(
    values: NDArray[np.float32], weights: NDArray[np.float64], clusters: int
) -> float:
    """The smallest distortion over all ways to cut the sorted values into runs."""
    order = np.argsort(values)
    values, weights = values[order].astype(np.float64), weights[order]
    best = np.inf
    for cuts in itertools.combinations(range(1, len(values)), min(clusters, len(values)) - 1):
        total = 0.0
        for first, last in itertools.pairwise((0, *cuts, len(values))):
            x, w = values[first:last], weights[first:last]
            total += float(w @ (x - w @ x / w.sum()) ** 2)
        best = min(best, total)
    return best


class TestByHand:
    def test_two_clusters(self) -> None:
        # 0, 0, 1 and 5, 7: means 1/3 and 6; squared errors 2/9 + 4/9 and 1 + 1.
        scalars = scalars_of([5, 0, 7, 1, 0])
        assert cluster_scalars(scalars, 2).tolist() == pytest.approx([1 / 3, 6])
        assert scalars.distortion(np.array([1 / 3, 6])) == pytest.approx(2 / 3 + 2)

    def test_one_cluster_is_the_mean(self) -> None:
        scalars = scalars_of([0, 4], [3, 1])
        assert (scalars.mean, scalars.count, scalars.total_weight) == (1, 2, 4)
        assert cluster_scalars(scalars, 1).tolist() == [1]
        assert scalars.distortion(np.array([1.0])) == 3 * 1 + 9

    def test_weights_move_the_border(self) -> None:
        assert cluster_scalars(scalars_of([0, 4, 9]), 2).tolist() == [2, 9]
        assert cluster_scalars(scalars_of([0, 4, 9], [100, 1, 1]), 2).tolist() == [0, 6.5]

    def test_no_more_centers_than_distinct_values(self) -> None:
        scalars = scalars_of([3, 1, 3, 2, 1, 8], [1, 2, 1, 1, 1, 0])
        assert [c.tolist() for c in scalar_codebooks(scalars, [2, 64, 3])] == [
            pytest.approx([1, 2 + 2 / 3]),
            [1, 2, 3],
            [1, 2, 3],
        ]
        assert cluster_scalars(scalars_of([5, 5, 5]), 4).tolist() == [5]

    def test_ties_go_to_the_lower_center(self) -> None:
        assert nearest_scalars(
            np.array([1, 0.99, 1.01, -9, 9, 3], np.float32), np.array([0, 2, 4], np.float32)
        ).tolist() == [0, 0, 1, 0, 2, 1]
        assert nearest_scalars(np.ones(3, np.float32), np.ones(1, np.float32)).tolist() == [0] * 3

    def test_values_without_weight(self) -> None:
        scalars = scalars_of([1, 2], [0, 0])
        assert (scalars.count, scalars.total_weight) == (0, 0)
        assert np.isnan(scalars.mean)
        assert [len(centers) for centers in scalar_codebooks(scalars, [2, 4])] == [0, 0]
        assert scalars.distortion(np.array([7.0])) == 0


WEIGHTED = st.lists(
    st.tuples(st.integers(-20, 20), st.sampled_from([0.5, 1.0, 3.0, 40.0])), min_size=1, max_size=9
)


@given(rows=WEIGHTED, clusters=st.integers(1, 5))
def test_few_values_are_clustered_exactly(rows: list[tuple[int, float]], clusters: int) -> None:
    values = np.array([x for x, _ in rows], np.float32) / 4
    weights = np.array([w for _, w in rows])
    scalars = Scalars.of(values, weights)
    centers = cluster_scalars(scalars, clusters)
    assert (np.diff(centers) > 0).all()
    assert len(centers) == min(clusters, len(np.unique(values)))
    found = plain_distortion(values, weights, centers)
    assert found == pytest.approx(best_distortion(values, weights, clusters), abs=1e-12)
    assert scalars.distortion(centers) == pytest.approx(found, abs=1e-12)


@given(rows=WEIGHTED)
def test_weights_are_repeated_rows(rows: list[tuple[int, float]]) -> None:
    values = np.array([x for x, _ in rows], np.float32)
    times = np.array([int(2 * w) for _, w in rows])
    once = scalar_codebooks(Scalars.of(values, times.astype(np.float64)), [1, 2, 3])
    repeated = np.repeat(values, times)
    often = scalar_codebooks(Scalars.of(repeated, np.ones(len(repeated))), [1, 2, 3])
    for a, b in zip(once, often, strict=True):
        assert a == pytest.approx(b)


def test_rows_of_no_weight_change_nothing_and_inputs_are_kept() -> None:
    rng = np.random.default_rng(0)
    values, weights = rng.normal(size=500).astype(np.float32), rng.random(500)
    weights[::3] = 0
    before = values.copy(), weights.copy()
    with_zeros = Scalars.of(values, weights)
    without = Scalars.of(values[weights > 0], weights[weights > 0])
    assert np.array_equal(with_zeros.sums, without.sums)
    assert np.array_equal(cluster_scalars(with_zeros, 8), cluster_scalars(without, 8))
    assert np.array_equal(values, before[0])
    assert np.array_equal(weights, before[1])


def draw(kind: str, count: int) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    rng = np.random.default_rng(count)
    zipf = 1 / (1.0 + rng.permutation(count))
    values, weights = {
        "normal": (rng.normal(size=count), np.ones(count)),
        "normal, Zipf": (rng.normal(size=count), zipf),
        "Laplace, Zipf": (rng.laplace(size=count), zipf),
        "uniform": (rng.random(count), rng.random(count)),
        "mixture": (rng.choice([-9, 0, 2, 30], count) + rng.normal(0, 0.1, count), zipf),
        "t(2), Zipf": (rng.standard_t(2, count), zipf),
        "log-normal": (rng.lognormal(0, 2, count), np.ones(count)),
        "duplicates": (np.round(rng.normal(0, 100, count)), zipf),
        "half at zero": (rng.normal(size=count) * (rng.random(count) < 0.5), np.ones(count)),
        "far away": (1e4 + rng.normal(size=count), zipf),
    }[kind]
    return values.astype(np.float32), weights


def optimum(scalars: Scalars, sizes: list[int]) -> list[float]:
    """The optimum by dynamic programming over all values; other tests check it by brute force."""
    borders = np.arange(scalars.count + 1)
    found = np.empty(sum(sizes) + len(sizes), np.int64)
    parts = (scalars.values, scalars.sums, scalars.centre)
    _native.partition_scalars(*parts, borders, np.array(sizes), found)
    result = []
    for partition in np.split(found, np.cumsum(np.array(sizes) + 1)[:-1]):
        weight, first, second = np.diff(scalars.sums[partition], axis=0).T
        with np.errstate(invalid="ignore"):  # far from the centre weights may cancel
            result.append(float(np.nansum(np.maximum(second - first**2 / weight, 0))))
    return result


@pytest.mark.parametrize("count", [300, 5000, 12_000])
@pytest.mark.parametrize(
    "kind",
    [
        "normal",
        "normal, Zipf",
        "Laplace, Zipf",
        "uniform",
        "mixture",
        "t(2), Zipf",
        "log-normal",
        "duplicates",
        "half at zero",
        "far away",
    ],
)
def test_within_a_percent_of_the_optimum(kind: str, count: int) -> None:
    values, weights = draw(kind, count)
    scalars = Scalars.of(values, weights)
    sizes = [2, 3, 4, 8, 16, 32, 64, 128]
    together = scalar_codebooks(scalars, sizes)
    for size, centers, least in zip(sizes, together, optimum(scalars, sizes), strict=True):
        assert (np.diff(centers) > 0).all()
        for found in (centers, cluster_scalars(scalars, size)):
            assert len(found) == size
            plain = plain_distortion(values, weights, found)
            assert least * 0.999999 <= plain <= least * 1.01
            assert scalars.distortion(found) == pytest.approx(plain, rel=1e-6)


@pytest.mark.parametrize("clusters", [1, 2, 3, 4, 5, 16, 100])
def test_nearest_is_the_first_of_the_nearest(clusters: int) -> None:
    rng = np.random.default_rng(clusters)
    centers = np.unique(rng.integers(-50, 50, clusters)).astype(np.float32)
    values = (rng.integers(-120, 120, 3000) / 2).astype(np.float32)  # many in the middle of two
    slow = np.abs(values[:, None] - centers).argmin(axis=1)
    assert np.array_equal(nearest_scalars(values, centers), slow)


def test_distortion_is_that_of_the_nearest_codes() -> None:
    values, weights = draw("t(2), Zipf", 3000)
    centers = np.sort(np.random.default_rng(0).normal(size=12)).astype(np.float32)
    codes = nearest_scalars(values, centers)
    error = values.astype(np.float64) - centers[codes]
    found = Scalars.of(values, weights).distortion(centers)
    assert found == pytest.approx(float(weights @ error**2), rel=1e-9)


def test_outliers_do_not_hide_small_differences() -> None:
    # One value 10^7 times as far as the others are wide: its square has no digit for theirs.
    values = np.append(np.random.default_rng(0).normal(size=999), -1e7).astype(np.float32)
    weights = np.ones(1000)
    scalars = Scalars.of(values, weights)
    centers = cluster_scalars(scalars, 16)
    assert centers[0] == -1e7
    rest = cluster_scalars(Scalars.of(values[:-1], weights[:-1]), 15)
    assert centers[1:] == pytest.approx(rest)
    plain = plain_distortion(values, weights, centers)
    assert scalars.distortion(centers) == pytest.approx(plain, rel=1e-9)


@pytest.mark.parametrize(
    ("values", "weights", "message"),
    [
        ([1, 2], [1], r"values have shape \(2,\), weights \(1,\)"),
        ([1, 2], [1, -1], "weights of scalars must be finite and not negative"),
        ([1, 2], [1, np.inf], "weights of scalars must be finite and not negative"),
        ([1, 2], [np.nan, 1], "weights of scalars must be finite and not negative"),
        ([1, np.nan], [1, 1], "scalars must be finite"),
        ([-np.inf, 1], [1, 1], "scalars must be finite"),
    ],
)
def test_invalid_arguments_are_refused(
    values: list[float], weights: list[float], message: str
) -> None:
    with pytest.raises(FieldError, match=message):
        scalars_of(values, weights)


def test_options_out_of_range() -> None:
    scalars = scalars_of([1, 2])
    with pytest.raises(OptionError, match="0 clusters are asked for; there must be at least one"):
        scalar_codebooks(scalars, [2, 0])
    with pytest.raises(OptionError, match="no centers"):
        scalars.distortion(np.empty(0))
    assert scalar_codebooks(scalars, []) == []
