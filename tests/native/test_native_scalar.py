"""The kernels of scalar clustering: any number of threads, and invalid arguments."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from saec import _native

VALUES = np.array([0, 0, 1, 5, 7], np.float32)


def sums_of(values: NDArray[np.float32]) -> tuple[NDArray[np.float64], float]:
    sums = np.empty((len(values) + 1, 3))
    return sums, _native.sum_scalars(values, np.ones(len(values)), sums)


SUMS, CENTRE = sums_of(VALUES)


def test_sums_by_hand() -> None:
    # Relative to the median 1: -1, -1, 0, 4, 6.
    assert CENTRE == 1
    assert SUMS.tolist() == [
        [-2, 2, -2],
        [-1, 1, -1],
        [0, 0, 0],
        [1, 0, 0],
        [2, 4, 16],
        [3, 10, 52],
    ]


def test_runs_and_partitions_by_hand() -> None:
    borders = np.zeros(6, np.int64)
    assert _native.split_scalars(VALUES, SUMS, CENTRE, borders) == 4  # the zeros are one run
    assert borders[:5].tolist() == [0, 2, 3, 4, 5]
    assert _native.split_scalars(VALUES, SUMS, CENTRE, borders[:3]) == 2
    assert borders[:3].tolist() == [0, 3, 5]
    found = np.zeros(9, np.int64)
    whole, sizes = np.array([0, 2, 3, 4, 5]), np.array([2, 1, 3])
    _native.partition_scalars(VALUES, SUMS, CENTRE, whole, sizes, found)
    assert found.tolist() == [0, 3, 5, 0, 5, 0, 3, 4, 5]


def test_lloyd_moves_a_border_to_the_middle_of_its_centers() -> None:
    borders, centers = np.array([0, 4, 5]), np.zeros(2)
    _native.refine_scalars(VALUES, SUMS, CENTRE, borders, centers)
    assert borders.tolist() == [0, 3, 5]
    assert centers.tolist() == pytest.approx([1 / 3, 6])


@pytest.mark.parametrize("clusters", [1, 2, 3, 4, 5, 17, 256])
@pytest.mark.parametrize("count", [0, 1, 1001])
def test_threads_change_nothing(clusters: int, count: int) -> None:
    rng = np.random.default_rng(clusters)
    values = rng.normal(size=count).astype(np.float32)
    centers = np.sort(rng.normal(size=clusters).astype(np.float32))
    one, many = np.full((2, count), 9999, np.uint32)
    _native.nearest_scalars(values, centers, one, 1)
    _native.nearest_scalars(values, centers, many, 3)
    assert np.array_equal(one, many)
    assert (one < clusters).all()


def test_nan_gets_a_code_in_range() -> None:
    nearest = np.zeros(3, np.uint32)
    values = np.array([np.nan, np.inf, -np.inf], np.float32)
    _native.nearest_scalars(values, np.array([1, 2, 3], np.float32), nearest)
    assert nearest.tolist() == [0, 2, 0]


def test_lengths_must_agree() -> None:
    sums, whole = np.empty((6, 3)), np.array([0, 5])
    none = np.empty(0, np.float32)
    with pytest.raises(ValueError, match="there are no values"):
        _native.sum_scalars(none, np.empty(0), np.empty((1, 3)))
    with pytest.raises(ValueError, match="values and weights differ in length"):
        _native.sum_scalars(VALUES, np.ones(4), sums)
    with pytest.raises(ValueError, match=r"sums of 5 values are of shape \(6, 3\), not \(5, 3\)"):
        _native.sum_scalars(VALUES, np.ones(5), sums[:5])
    with pytest.raises(ValueError, match=r"sums of 5 values are of shape \(6, 3\), not \(5, 3\)"):
        _native.scalar_distortion(VALUES, SUMS[:5], CENTRE, np.ones(1))
    with pytest.raises(ValueError, match="there are no values"):
        _native.split_scalars(none, SUMS[:1], CENTRE, whole)
    with pytest.raises(ValueError, match="there must be 2 or more borders, not 1"):
        _native.split_scalars(VALUES, SUMS, CENTRE, whole[:1])
    with pytest.raises(ValueError, match="2 centers have 3 borders, not 2"):
        _native.refine_scalars(VALUES, SUMS, CENTRE, whole, np.empty(2))
    with pytest.raises(ValueError, match="of all sizes differ in length: 3 and 2"):
        _native.partition_scalars(VALUES, SUMS, CENTRE, whole, np.array([1]), np.empty(3, np.int64))
    with pytest.raises(ValueError, match="there are no sizes"):
        _native.partition_scalars(VALUES, SUMS, CENTRE, whole, whole[:0], whole[:0])
    with pytest.raises(ValueError, match="values and nearest differ in length"):
        _native.nearest_scalars(VALUES, VALUES, np.empty(4, np.uint32))
    with pytest.raises(ValueError, match="there are 0 centers"):
        _native.nearest_scalars(VALUES, none, np.empty(5, np.uint32))


@pytest.mark.parametrize("size", [0, 2, -1, 2**62])
def test_sizes_out_of_range(size: int) -> None:
    found = np.empty(3, np.int64)
    with pytest.raises(ValueError, match=rf"sizes must lie in 1\.\.1: size 0 is {size}"):
        _native.partition_scalars(VALUES, SUMS, CENTRE, np.array([0, 5]), np.array([size]), found)


@pytest.mark.parametrize(
    ("borders", "message"),
    [
        ([0], "there must be 2 or more borders, not 1"),
        ([1, 5], "borders start at 0, not at 1"),
        ([0, 3, 3, 5], "borders must ascend"),
        ([0, 9, 5], "borders must ascend"),
        ([0, 6], "the last border and the number of values differ: 6 and 5"),
        ([0, -1], "borders must ascend"),
    ],
)
def test_borders_beyond_the_values_are_refused(borders: list[int], message: str) -> None:
    given, centers = np.array(borders), np.empty(len(borders) - 1)
    with pytest.raises(ValueError, match=message):
        _native.refine_scalars(VALUES, SUMS, CENTRE, given, centers)
    with pytest.raises(ValueError, match=message):
        _native.partition_scalars(VALUES, SUMS, CENTRE, given, np.array([1]), np.empty(2, np.int64))
