"""The head of a vocabulary, by hand, and k-means over it against k-means over an array."""

from __future__ import annotations

from itertools import pairwise

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from placed_rows import counted, in_parts, placed

from saec.clustering.headtail import HeadPoints, head_size, ranked
from saec.clustering.kmeans import kmeans
from saec.clustering.points import ArrayPoints
from saec.clustering.rowmap import RowMap
from saec.streaming.scratch import IN_MEMORY, Workspace
from saec.tables.field import Field


def head(
    frequencies: list[float], share: float, at_least: int = 1, part_rows: int = 99
) -> list[int]:
    """Ids of the rows in the head, by position."""
    field = in_parts(counted(np.array(frequencies, dtype=np.float64)), part_rows)
    size = head_size(field.census, share, at_least)
    rows = placed(field, ranked(field, size))[0]
    assert len(rows) == size
    return rows


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (0.0, [3]),
        (0.4, [3]),  # 8 of 20 reach it exactly
        (0.41, [1, 3]),
        (0.7, [1, 3]),
        (0.71, [1, 3, 4]),
        (0.95, [0, 1, 3, 4]),
        (0.96, [0, 1, 2, 3, 4]),
        (1.0, [0, 1, 2, 3, 4]),
    ],
)
def test_smallest_head_by_hand(share: float, expected: list[int]) -> None:
    assert head([2, 6, 1, 8, 3], share) == expected


def test_equal_frequencies_by_id() -> None:
    assert head([1, 1, 1, 1], 0.5) == [0, 1]
    assert head([1, 2, 1, 2], 0.8) == [0, 1, 3]
    assert head([1] * 10, 0.3) == [0, 1, 2]
    assert head([1] * 100, 0.07) == list(range(7))  # 0.07 * 100 is a bit more than 7 in binary


def test_features_never_seen_are_not_in_the_head() -> None:
    assert head([0, 5, 0, 1], 1.0) == [1, 3]
    assert head([0, 5, 0, 1], 0.5, at_least=4) == [1, 3]
    assert head([0, 0, 9], 0.0, at_least=3) == [2]


def test_at_least() -> None:
    assert head([2, 6, 1, 8, 3], 0.0, at_least=3) == [1, 3, 4]
    assert head([2, 6, 1, 8, 3], 0.7, at_least=1) == [1, 3]
    assert head([2, 6, 1, 8, 3], 0.0, at_least=99) == [0, 1, 2, 3, 4]


def test_share_1_means_all_seen_features_however_rare() -> None:
    assert head([1e15, 1, 0, 1e-3], 1.0) == [0, 1, 3]


def test_one_feature() -> None:
    assert head([3], 0.5) == [0]


@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=40).filter(any),
    st.integers(0, 100),
    st.integers(1, 50),
    st.integers(1, 12),
)
def test_covers_the_share_and_no_more(
    frequencies: list[int], per_cent: int, at_least: int, part_rows: int
) -> None:
    counts = np.array(frequencies)
    rows = np.array(head(frequencies, per_cent / 100, at_least, part_rows))
    seen = np.count_nonzero(counts)
    assert np.array_equal(rows, np.unique(rows))
    assert counts[rows].min() > 0
    assert 100 * counts[rows].sum() >= per_cent * counts.sum()
    rest = np.delete(counts, rows)
    assert rest.max(initial=0) <= counts[rows].min()
    if len(rows) > min(at_least, seen):
        smaller = np.sort(counts[rows])[1:].sum()
        assert 100 * smaller < per_cent * counts.sum()


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=40).filter(any),
    st.lists(st.integers(0, 45), max_size=4),
    st.integers(1, 12),
)
def test_ranked_cuts_where_it_should(
    frequencies: list[int], cuts: list[int], part_rows: int
) -> None:
    field = in_parts(counted(frequencies), part_rows)
    placing = ranked(field, *cuts)
    count = len(frequencies)
    bounds = sorted({0, count, *(cut for cut in cuts if cut < count)})
    assert placing.bounds.tolist() == bounds
    order = np.argsort(-np.array(frequencies), kind="stable")
    expected = [sorted(order[low:high].tolist()) for low, high in pairwise(bounds)]
    assert placed(field, placing) == expected


def table(rng: np.random.Generator, dtype: object = np.float32) -> Field:
    """A table whose head of 300 rows is spread over all ids."""
    counts = rng.permutation(np.ceil(2000 / np.arange(1, 1001)))
    return Field("f", rng.standard_normal((1000, 5)).astype(dtype), counts)


def points_of(
    field: Field,
    space: Workspace = IN_MEMORY,
    transform: NDArray[np.float64] | None = None,
    radius_share: float = 1.0,
) -> HeadPoints:
    return HeadPoints(
        field,
        300,
        weighting=0.5,
        row_map=RowMap(root=transform),
        radius_share=radius_share,
        space=space,
    )


def slow_points(field: Field, transform: NDArray[np.float64] | None = None) -> ArrayPoints:
    rows = np.sort(np.argsort(-field.frequencies, kind="stable")[:300])
    shares = field.frequencies[rows] / field.frequencies.max()
    return ArrayPoints(field.weights[rows], shares**0.5, transform=transform)


def test_a_head_by_hand() -> None:
    # The head are ids 1, 2 and 4; as shares of the largest their weights are 1/2, 1 and 1/4.
    rows = np.array([[9], [1], [2], [9], [4]], np.float32)
    for part_rows in (1, 2, 5):
        field = in_parts(Field("f", rows, [0, 4, 8, 1, 2]), part_rows)
        head_points = HeadPoints(
            field, 3, weighting=1, row_map=RowMap(), radius_share=1, space=IN_MEMORY
        )
        assert (head_points.count, head_points.dim) == (3, 1)
        found, weights = head_points.sample(9, np.random.default_rng(0))
        assert found.ravel().tolist() == [1, 2, 4]
        assert weights.tolist() == [0.5, 1, 0.25]
        step = head_points.step(np.array([[1], [4], [100]], np.float32))
        assert step.sums.ravel().tolist() == [2.5, 1, 0]
        assert step.weights.tolist() == [1.5, 0.25, 0]
        assert step.distortion.tolist() == [1, 0, 0]
        assert head_points.used(np.array([[1], [4], [100]], np.float32)).tolist() == [0, 1]


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("part_rows", [1, 33, 500, 1000])
@pytest.mark.parametrize("turned", [False, True])
def test_a_head_equals_its_rows_in_an_array(
    part_rows: int, dtype: object, turned: bool, rng: np.random.Generator
) -> None:
    field = table(rng, dtype)
    transform = rng.random((5, 5)) if turned else None
    expected = slow_points(field, transform)
    centroids = expected.sample(40, rng)[0] + np.float32(0.01)
    found = points_of(in_parts(field, part_rows), transform=transform)
    for size in (37, 300, 301):
        a, b = (each.sample(size, np.random.default_rng(5)) for each in (found, expected))
        assert np.array_equal(a[0], b[0])
        assert np.array_equal(a[1], b[1])
    step, other = found.step(centroids), expected.step(centroids)
    for one in ("sums", "weights", "distortion"):
        assert getattr(step, one) == pytest.approx(getattr(other, one), rel=1e-12, abs=1e-12)
    used = found.used(np.concatenate([centroids, np.full((1, 5), 1e6, np.float32)]))
    assert used.tolist() == np.unique(expected.assign(centroids)).tolist()
    learned = [
        kmeans(each, 20, rng=np.random.default_rng(1), iterations=8) for each in (found, expected)
    ]
    assert learned[0].centroids == pytest.approx(learned[1].centroids, rel=1e-5, abs=1e-6)


def test_the_radius_share_reaches_the_parts(rng: np.random.Generator) -> None:
    field = Field("f", rng.standard_normal((1000, 16)).astype(np.float32), np.arange(1000, 0, -1))
    centroids = rng.standard_normal((300, 16)).astype(np.float32)
    # What is only nearly nearest depends on the rows searched together, but not the exact.
    exact, loose = (points_of(in_parts(field, 90), radius_share=r) for r in (1.0, 0.0))
    expected = slow_points(field).step(centroids)
    assert exact.step(centroids).weights == pytest.approx(expected.weights, rel=1e-12)
    assert loose.step(centroids).distortion.sum() > 1.001 * expected.distortion.sum()


@pytest.mark.parametrize("held", [0, 1, 3000, 1 << 20])
def test_rows_that_cannot_be_held_are_read_again(held: int, rng: np.random.Generator) -> None:
    field = in_parts(table(rng), 64)
    whole, some = points_of(field), points_of(field, Workspace(held=held))
    centroids = whole.sample(40, rng)[0]
    a, b = whole.step(centroids), some.step(centroids)
    assert np.array_equal(a.sums, b.sums)
    assert np.array_equal(a.distortion, b.distortion)
    one, other = (each.sample(50, np.random.default_rng(2))[0] for each in (whole, some))
    assert np.array_equal(one, other)
    assert np.array_equal(whole.used(centroids), some.used(centroids))


@pytest.mark.parametrize("scale", [2.0**-600, 2.0**600])
def test_frequencies_of_any_size_have_weights(scale: float, rng: np.random.Generator) -> None:
    field = table(rng)
    scaled = Field("f", field.weights, field.frequencies * scale)
    for weighting in (0.0, 1.0, 2.0):
        weights = [
            HeadPoints(
                each,
                300,
                weighting=weighting,
                row_map=RowMap(),
                radius_share=1.0,
                space=IN_MEMORY,
            ).sample(300, rng)[1]
            for each in (field, scaled)
        ]
        assert np.array_equal(*weights)
