"""Codebooks: rounding by hand and within its bounds."""

from __future__ import annotations

import re
from itertools import product
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saec.errors import ArtifactError
from saec.format.codebook import Codebook, CodebookDtype, codebook_bytes
from saec.tables.loss_metric import Metric

DTYPES = get_args(CodebookDtype)
FLOAT32 = np.finfo(np.float32)


def test_int8_by_hand() -> None:
    # Axis 0 spans -1 .. 1.54 in 254 steps of 0.01 around 0.27; axis 1 is constant.
    centroids = np.array([[-1, 3], [1.54, 3], [0.27, 3], [0.284, 3]], np.float32)
    book = Codebook.round(centroids, "int8")
    assert book.stored.tolist() == [[-127, 0], [127, 0], [0, 0], [1, 0]]
    assert book.grid is not None
    np.testing.assert_allclose(book.grid, [[0.01, 1], [0.27, 3]], rtol=1e-6)
    np.testing.assert_allclose(book.values[:, 0], [-1, 1.54, 0.27, 0.28], rtol=1e-6)
    assert book.values[:, 1].tolist() == [3, 3, 3, 3]
    assert book.nbytes == 8 + 2 * 2 * 4


def test_float16_by_hand() -> None:
    # Above 2048 halves are even numbers; 65504 is the largest.
    book = Codebook.round(np.array([[2049, -1e9, 1e9, 65505, 0.5]], np.float32), "float16")
    assert book.stored.dtype == np.float16
    assert book.values.tolist() == [[2048, -65504, 65504, 65504, 0.5]]
    assert book.grid is None


def test_float32_is_exact(rng: np.random.Generator) -> None:
    centroids = rng.standard_normal((5, 3)).astype(np.float32)
    centroids[0] = FLOAT32.max
    assert np.array_equal(Codebook.round(centroids, "float32").values, centroids)


@pytest.mark.parametrize(
    ("dtype", "expected"), [("float32", 4 * 30), ("float16", 2 * 30), ("int8", 30 + 8 * 3)]
)
def test_bytes(dtype: CodebookDtype, expected: int) -> None:
    book = Codebook.round(np.ones((10, 3), np.float32), dtype)
    assert book.nbytes == codebook_bytes(10, 3, dtype) == expected
    assert (book.clusters, book.dim, book.dtype) == (10, 3, dtype)
    stored = book.stored.nbytes + (0 if book.grid is None else book.grid.nbytes)
    assert stored == expected


def line() -> np.ndarray:
    """Four centroids along (0.6, 0.8), five apart, around (1, 2)."""
    steps = np.array([[-2], [-1], [1], [2]], np.float32)
    return steps * np.float32([3, 4]) + np.float32([1, 2])


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_principal_axis_by_hand(dtype: CodebookDtype) -> None:
    book = Codebook.round(line(), dtype, rank=1)
    assert book.axes is not None
    assert (book.clusters, book.rank, book.dim) == (4, 1, 2)
    np.testing.assert_allclose(np.abs(book.axes[0]), [0.6, 0.8], rtol=1e-3)
    assert book.axes[1].tolist() == [1, 2]
    distances = np.abs(book.stored[:, 0] * (1 if book.grid is None else book.grid[0, 0]))
    np.testing.assert_allclose(distances, [10, 5, 5, 10], rtol=1e-2)
    np.testing.assert_allclose(book.values, line(), atol=0.04)  # half a step of 20 / 254
    stored = [book.stored, book.axes, *([] if book.grid is None else [book.grid])]
    assert book.nbytes == codebook_bytes(4, 2, dtype, 1) == sum(part.nbytes for part in stored)


CROSS = np.array([[-2, 0], [2, 0], [0, -1], [0, 1]], np.float32)


def test_weights_turn_the_principal_axis() -> None:
    for weights, axis in (([1, 1, 1, 1], 0), ([1, 1, 9, 9], 1), ([0, 0, 0, 0], 0)):
        book = Codebook.round(CROSS, "float32", 1, np.array(weights, np.float64))
        assert book.axes is not None
        assert np.abs(book.axes[0]).argmax() == axis


def test_the_metric_turns_the_principal_axis() -> None:
    for second, axis in ((1, 0), (100, 1)):
        metric = Metric(np.diag([1.0, second]))
        book = Codebook.round(CROSS, "float32", 1, metric=metric)
        assert book.axes is not None
        assert np.abs(book.axes[0]).tolist() == [1 - axis, axis], (
            "of length one, whatever the metric"
        )
        np.testing.assert_allclose(book.values, CROSS * (np.arange(2) == axis))


def test_least_squares_in_the_metric_by_hand() -> None:
    # In the metric [[1, -1], [-1, 2]] most variance lies along (0, 1); what is nearest to (2, 0)
    # there is the minimum of (2, -y) G (2, -y)' = 4 + 4 y + 2 y^2, at y = -1.
    metric = Metric(np.array([[1.0, -1], [-1, 2]]))
    centroids = np.array([[2, 0], [-2, 0], [0, 100], [0, -100]], np.float32)
    book = Codebook.round(centroids, "float32", 1, metric=metric)
    assert book.axes is not None
    np.testing.assert_allclose(np.abs(book.axes[0]), [0, 1], atol=0.02)
    error = book.values.astype(np.float64) - centroids
    np.testing.assert_allclose(
        error @ metric.matrix @ book.axes[0].astype(np.float64), 0, atol=1e-4
    )
    np.testing.assert_allclose(book.values[0], [0, -1], atol=0.05)


def positive(rng: np.random.Generator, dim: int) -> Metric:
    """With eigenvalues from 1 to 1000."""
    turn, _ = np.linalg.qr(rng.standard_normal((dim, dim)))
    return Metric((turn * np.logspace(0, 3, dim)) @ turn.T)


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_axes_in_a_metric_lose_the_least_there(rank: int, rng: np.random.Generator) -> None:
    centroids, metric = rng.standard_normal((50, 6)).astype(np.float32), positive(rng, 6)
    centred = (centroids - centroids.mean(axis=0)) @ metric.root
    singular = np.linalg.svd(centred, compute_uv=False)
    least = np.sqrt((singular[rank:] ** 2).sum())
    found, plain = (
        np.linalg.norm(
            (Codebook.round(centroids, "float32", rank, metric=m).values - centroids) @ metric.root
        )
        for m in (metric, None)
    )
    assert least * (1 - 1e-3) <= found <= least * 1.02
    assert plain > found * 1.05


def test_the_identity_metric_changes_nothing(rng: np.random.Generator) -> None:
    centroids, weights = rng.standard_normal((50, 6)).astype(np.float32), rng.random(50)
    for dtype in DTYPES:
        books = [
            Codebook.round(centroids, dtype, 3, weights, metric)
            for metric in (None, Metric.euclidean(6))
        ]
        assert np.array_equal(books[0].values, books[1].values)


@pytest.mark.parametrize("metric", [None, Metric(np.diag([1.0, 10, 100, 1000]))])
def test_axes_found_once_are_those_of_each_rank(
    metric: Metric | None, rng: np.random.Generator
) -> None:
    centroids, weights = rng.standard_normal((30, 4)).astype(np.float32), rng.random(30)
    ranks = [3, 1, 4, 2]
    books = Codebook.round_at(centroids, "int8", ranks, weights, metric)
    assert [book.rank for book in books] == ranks
    for rank, book in zip(ranks, books, strict=True):
        alone = Codebook.round(centroids, "int8", rank, weights, metric)
        assert np.array_equal(book.values, alone.values)


@pytest.mark.parametrize("dtype", DTYPES)
def test_moved_keeps_centroids_on_axes_of_any_metric(
    dtype: CodebookDtype, rng: np.random.Generator
) -> None:
    centroids = rng.standard_normal((60, 6)).astype(np.float32)
    book = Codebook.round(centroids, dtype, 3, metric=positive(rng, 6))
    assert book.axes is not None
    axes = book.axes.astype(np.float32)
    wanted = rng.standard_normal((60, 3)).astype(np.float32) @ axes[:-1] + axes[-1]
    moved = book.moved(wanted)
    assert np.array_equal(moved.axes, book.axes)
    # float16 keeps 11 bits and int8 255 steps of coordinates of up to 3 or so.
    tolerance = {"float32": 1e-5, "float16": 0.01, "int8": 0.1}[dtype]
    np.testing.assert_allclose(moved.values, wanted, atol=tolerance)


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_more_axes_lose_less(rank: int, rng: np.random.Generator) -> None:
    # Rows of rank 3 and a mean: three axes and more lose only the rounding to float16.
    centroids = rng.standard_normal((50, 3)) @ rng.standard_normal((3, 6)) + 1
    book = Codebook.round(centroids.astype(np.float32), "float32", rank)
    singular = np.linalg.svd(centroids - centroids.mean(axis=0), compute_uv=False)
    lost = np.sqrt((singular[rank:] ** 2).sum())
    error = np.linalg.norm(book.values - centroids)
    assert lost * (1 - 1e-3) <= error <= lost + 0.05
    assert book.dim == 6


def test_all_axes_are_the_tables_own(rng: np.random.Generator) -> None:
    centroids = rng.standard_normal((9, 3)).astype(np.float32)
    for dtype in DTYPES:
        book = Codebook.round(centroids, dtype, rank=3)
        assert book.axes is None
        assert np.array_equal(book.values, Codebook.round(centroids, dtype).values)
        assert codebook_bytes(9, 3, dtype, 3) == codebook_bytes(9, 3, dtype)


def test_principal_axes_of_one_centroid() -> None:
    book = Codebook.round(np.array([[1, 2, 3]], np.float32), "int8", rank=1)
    assert book.values.tolist() == [[1, 2, 3]]


@given(
    seed=st.integers(0, 2**32 - 1),
    clusters=st.integers(1, 20),
    scale=st.sampled_from([1e-30, 1e-3, 1.0, 1e4, 1e30]),
    offset=st.sampled_from([0.0, 1.0, -100.0]),
)
def test_int8_is_off_by_half_a_step_at_most(
    seed: int, clusters: int, scale: float, offset: float
) -> None:
    rng = np.random.default_rng(seed)
    centroids = (scale * (rng.standard_normal((clusters, 4)) + offset)).astype(np.float32)
    book = Codebook.round(centroids, "int8")
    spread = np.ptp(centroids.astype(np.float64), axis=0)
    rounding = 4 * FLOAT32.eps * np.abs(centroids).max(axis=0)
    error = np.abs(book.values.astype(np.float64) - centroids).max(axis=0)
    assert (error <= spread / 254 / 2 + rounding).all()


@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([1e-3, 1.0, 1e4]))
def test_float16_is_off_by_half_a_unit_at_most(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    centroids = (scale * rng.uniform(-6, 6, (9, 4))).astype(np.float32)
    values = Codebook.round(centroids, "float16").values
    # 11 significant bits; below 2^-14 the unit is 2^-24.
    assert (np.abs(values - centroids) <= np.maximum(np.abs(centroids) / 2**11, 2**-25)).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_rounding_again_changes_nothing(dtype: CodebookDtype, rng: np.random.Generator) -> None:
    once = Codebook.round(rng.standard_normal((300, 4)).astype(np.float32), dtype)
    twice = Codebook.round(once.values, dtype)
    np.testing.assert_allclose(twice.values, once.values, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "values",
    [
        [-FLOAT32.max, FLOAT32.max],
        [0, FLOAT32.max],
        [FLOAT32.max, FLOAT32.max],
        [-FLOAT32.max / 2, FLOAT32.max / 2, FLOAT32.max / 3],
        [0, FLOAT32.smallest_subnormal],
        [FLOAT32.tiny, 2 * FLOAT32.tiny],
        [1e30, 1e30],
    ],
)
def test_extreme_values_stay_finite(dtype: CodebookDtype, values: list[float]) -> None:
    book = Codebook.round(np.array(values, np.float32)[:, None], dtype)
    assert np.isfinite(book.values).all()
    if dtype == "int8":  # clipped to half the range, no more
        limit = FLOAT32.max / 2
        wanted = np.clip(np.array(values), -limit, limit)
        np.testing.assert_allclose(book.values[:, 0], wanted, rtol=1e-6, atol=limit / 250)


def test_keep_selects_centroids() -> None:
    centroids = np.array([[0, 9], [5, 3], [10, 6]], np.float32)
    for dtype, rank in product(DTYPES, (None, 1)):
        book = Codebook.round(centroids, dtype, rank)
        kept = book.keep(np.array([2, 0]))
        assert kept.dtype == dtype
        assert np.array_equal(kept.values, book.values[[2, 0]])


def test_input_is_not_changed() -> None:
    centroids = np.array([[FLOAT32.max, 1], [0, 2]], np.float32)
    copy = centroids.copy()
    for dtype in DTYPES:
        Codebook.round(centroids, dtype)
    assert np.array_equal(centroids, copy)


GRID = np.ones((2, 2), np.float32)


@pytest.mark.parametrize(
    ("stored", "grid", "message"),
    [
        (np.zeros(4, np.float32), None, "a codebook has shape (clusters, rank), not (4,)"),
        (np.zeros((0, 2), np.float32), None, "not (0, 2)"),
        (np.zeros((2, 0), np.float32), None, "not (2, 0)"),
        (np.zeros((2, 2)), None, "a codebook is float32 or float16 or int8, not float64"),
        (np.zeros((2, 2), np.uint8), None, "not uint8"),
        (np.zeros((2, 2), np.int8), None, "the grid of a int8 codebook is (2, 2), not None"),
        (np.zeros((2, 2), np.int8), np.ones((2, 3), np.float32), "is (2, 2), not (2, 3)"),
        (np.zeros((2, 2), np.int8), np.ones((2, 2), np.float16), "the grid of a int8 codebook"),
        (np.zeros((2, 2), np.float32), GRID, "the grid of a float32 codebook is None"),
        (np.zeros((2, 2), np.int8), GRID * np.float32("nan"), "holds values that are not finite"),
        (np.zeros((2, 2), np.int8), GRID * np.float32("inf"), "holds values that are not finite"),
    ],
)
def test_invalid_arguments_are_refused(
    stored: np.ndarray, grid: np.ndarray | None, message: str
) -> None:
    with pytest.raises(ArtifactError, match=re.escape(message)):
        Codebook(stored, grid)


@pytest.mark.parametrize(
    "axes",
    [
        np.ones((1, 3), np.float16),
        np.ones((3, 3), np.float16),
        np.ones((2, 1), np.float16),
        np.ones((2, 3), np.float32),
        np.ones(3, np.float16),
    ],
)
def test_axes_that_do_not_fit(axes: np.ndarray) -> None:
    message = "axes for rank 1 are (2, dim) float16 with dim above the rank, not "
    with pytest.raises(ArtifactError, match=re.escape(message)):
        Codebook(np.zeros((4, 1), np.float32), None, axes)


@pytest.mark.parametrize("bad", ["nan", "inf"])
def test_axes_that_are_not_finite(bad: str) -> None:
    axes = np.array([[1, 0], [0, bad]], np.float16)
    with pytest.raises(ArtifactError, match="the axes of a codebook hold values that are not fin"):
        Codebook(np.zeros((4, 1), np.float32), None, axes)
