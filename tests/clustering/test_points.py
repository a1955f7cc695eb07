"""ArrayPoints: one step by hand, then that blocks, dtypes, strides and maps change nothing."""

from __future__ import annotations

import pickle
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from saec.clustering import points
from saec.clustering.points import ArrayPoints, Search, StepSums, mapped

# scikit-learn's four points with weights 3, 1, 1, 3.
ROWS = np.array([[0, 0], [0.5, 0], [0.5, 1], [1, 1]], np.float32)
WEIGHTS = np.array([3.0, 1, 1, 3])
CENTROIDS = np.array([[0, 0], [1, 1]], np.float32)


def same(a: StepSums, b: StepSums) -> bool:
    return (
        np.array_equal(a.sums, b.sums)
        and np.array_equal(a.weights, b.weights)
        and np.array_equal(a.distortion, b.distortion)
    )


def table(rng: np.random.Generator, count: int = 500, dim: int = 5) -> NDArray[np.float32]:
    return rng.standard_normal((count, dim)).astype(np.float32)


def test_step_by_hand() -> None:
    step = ArrayPoints(ROWS, WEIGHTS).step(CENTROIDS)
    assert step.sums.tolist() == [[0.5, 0], [3.5, 4]]
    assert step.weights.tolist() == [4, 4]
    assert step.distortion.tolist() == [0.25, 0.25]


def test_without_weights_every_row_counts_once() -> None:
    step = ArrayPoints(ROWS).step(CENTROIDS)
    assert step.sums.tolist() == [[0.5, 0], [1.5, 2]]
    assert step.weights.tolist() == [2, 2]
    assert same(step, ArrayPoints(ROWS, np.ones(4)).step(CENTROIDS))


def test_assign_by_hand() -> None:
    assigned = ArrayPoints(ROWS, WEIGHTS).assign(CENTROIDS)
    assert assigned.dtype == np.int32
    assert assigned.tolist() == [0, 0, 1, 1]
    # (0.5, 0.5) is as far from both.
    assert ArrayPoints(np.full((1, 2), 0.5, np.float32)).assign(CENTROIDS).tolist() == [0]


# Swaps the axes and doubles the second, so that rows @ TURN is not rows @ TURN.T.
TURN = np.array([[0.0, 2], [1, 0]])


def test_transform_by_hand() -> None:
    # The four points become (0, 0), (0, 1), (1, 1), (1, 2).
    turned = ArrayPoints(ROWS, WEIGHTS, transform=TURN)
    assert turned.mapped(ROWS).tolist() == [[0, 0], [0, 1], [1, 1], [1, 2]]
    centroids = np.array([[0, 0], [1, 2]], np.float32)
    step = turned.step(centroids)
    assert step.sums.tolist() == [[0, 1], [4, 7]]
    assert step.weights.tolist() == [4, 4]
    assert step.distortion.tolist() == [1, 1]
    assert turned.assign(centroids).tolist() == [0, 0, 1, 1]
    rows, weights = turned.sample(4, np.random.default_rng(0))
    assert rows.tolist() == [[0, 0], [0, 1], [1, 1], [1, 2]]
    assert weights.tolist() == [3, 1, 1, 3]
    some = ArrayPoints(ROWS[2:], WEIGHTS[2:], transform=TURN)
    assert some.step(centroids).sums.tolist() == [[0, 0], [4, 7]]


@pytest.mark.parametrize("block_rows", [1, 7, 200, 500])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_transformed_in_blocks_equals_transformed_before(
    block_rows: int, dtype: object, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, weights, transform = table(rng).astype(dtype), rng.random(500), rng.random((5, 5))
    there = (rows.astype(np.float64) @ transform).astype(np.float32)
    expected = ArrayPoints(there, weights)
    centroids = there[:80] + np.float32(0.01)
    monkeypatch.setattr(points, "_BLOCK_VALUES", block_rows * 5)  # 200: two blocks and a half
    found = ArrayPoints(rows, weights, transform=transform)
    assert same(found.step(centroids), expected.step(centroids))
    assert np.array_equal(found.assign(centroids), expected.assign(centroids))
    a, b = (each.sample(40, np.random.default_rng(0))[0] for each in (found, expected))
    assert np.array_equal(a, b)


def test_count_and_dim() -> None:
    assert (ArrayPoints(ROWS).count, ArrayPoints(ROWS).dim) == (4, 2)


@pytest.mark.parametrize("block_rows", [1, 7, 100, 499, 500])
def test_blocks_change_nothing(
    block_rows: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, weights = table(rng), rng.random(500)
    whole = ArrayPoints(rows, weights)
    step, assigned = whole.step(rows[:80]), whole.assign(rows[:80])
    monkeypatch.setattr(points, "_BLOCK_VALUES", block_rows * 5)
    assert same(whole.step(rows[:80]), step)
    assert np.array_equal(whole.assign(rows[:80]), assigned)
    assert np.array_equal(ArrayPoints(rows).assign(rows[:80]), assigned)


def test_a_row_wider_than_a_block(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(points, "_BLOCK_VALUES", 3)
    rows = table(rng, 9)
    assert ArrayPoints(rows).assign(rows).tolist() == list(range(9))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_narrow_floats_equal_their_float32(dtype: object, rng: np.random.Generator) -> None:
    narrow, weights = table(rng).astype(dtype), rng.random(500)
    wide = narrow.astype(np.float32)
    a, b = ArrayPoints(narrow, weights), ArrayPoints(wide, weights)
    centroids = table(rng, 90)
    assert same(a.step(centroids), b.step(centroids))
    assert np.array_equal(a.assign(centroids), b.assign(centroids))
    one, other = (each.sample(40, np.random.default_rng(0))[0] for each in (a, b))
    assert one.dtype == np.float32
    assert np.array_equal(one, other)


def test_strides_and_maps_equal_the_array(tmp_path: Path, rng: np.random.Generator) -> None:
    rows, weights, centroids = table(rng), rng.random(500), table(rng, 90)
    expected = ArrayPoints(rows, weights).step(centroids)
    np.save(tmp_path / "rows.npy", rows)
    spaced = np.zeros((1000, 10), np.float32)
    spaced[::-2, 1::2] = rows
    for other in (
        np.asfortranarray(rows),
        spaced[::-2, 1::2],
        np.load(tmp_path / "rows.npy", mmap_mode="r"),
    ):
        assert same(ArrayPoints(other, weights).step(centroids), expected)
    assert same(ArrayPoints(rows, np.repeat(weights, 2)[::2]).step(centroids), expected)


def test_threads_change_nothing(rng: np.random.Generator) -> None:
    rows, weights, centroids = table(rng), rng.random(500), table(rng, 90)
    one = ArrayPoints(rows, weights, threads=1).step(centroids)
    assert same(ArrayPoints(rows, weights, threads=2).step(centroids), one)


def test_a_search_keeps_its_radius_share_where_it_is_sent(rng: np.random.Generator) -> None:
    rows, centroids = table(rng, 500, 16), table(rng, 300, 16)
    exact, loose = Search(centroids), Search(centroids, 0.0, 1)
    assert np.array_equal(exact.nearest(rows), ArrayPoints(rows).assign(centroids))
    assert not np.array_equal(loose.nearest(rows), exact.nearest(rows))
    points_alike = ArrayPoints(rows, radius_share=0.0)
    assert np.array_equal(loose.nearest(rows), points_alike.assign(centroids))
    sent = pickle.loads(pickle.dumps(loose))
    assert np.array_equal(sent.nearest(rows), loose.nearest(rows))
    assert (sent.radius_share, sent.threads) == (0.0, 1)


def test_mapped_by_hand() -> None:
    assert mapped(ROWS, TURN).tolist() == [[0, 0], [0, 1], [1, 1], [1, 2]]
    assert mapped(ROWS.astype(np.float16)[::2], None).tolist() == [[0, 0], [0.5, 1]]
    assert mapped(ROWS, TURN).dtype == mapped(ROWS.astype(np.float16), None).dtype == np.float32


def test_joined_steps_are_those_of_all_rows() -> None:
    parts = [ArrayPoints(ROWS[a:b], WEIGHTS[a:b]).step(CENTROIDS) for a, b in ((0, 1), (1, 4))]
    first = parts[0].sums.copy()
    assert same(StepSums.join(parts), ArrayPoints(ROWS, WEIGHTS).step(CENTROIDS))
    assert np.array_equal(parts[0].sums, first), "the parts stay as they are"
    assert same(StepSums.join(parts[:1]), parts[0])


def test_sample_of_all_rows() -> None:
    for size in (4, 5):
        rows, weights = ArrayPoints(ROWS, WEIGHTS).sample(size, np.random.default_rng(0))
        assert np.array_equal(rows, ROWS)
        assert np.array_equal(weights, WEIGHTS)


def test_sample_holds_different_rows_with_their_weights(rng: np.random.Generator) -> None:
    rows = np.arange(1000, dtype=np.float32)[:, None]
    drawn, weights = ArrayPoints(rows, np.arange(1000.0)).sample(300, rng)
    assert drawn.shape == (300, 1)
    assert np.array_equal(drawn[:, 0], weights)
    assert len(np.unique(drawn)) == 300
    assert ArrayPoints(rows).sample(300, rng)[1].tolist() == [1.0] * 300


def test_sample_takes_all_rows_alike(rng: np.random.Generator) -> None:
    rows = np.arange(10, dtype=np.float32)[:, None]
    points_of_ten = ArrayPoints(rows)
    times = np.zeros(10)
    for _ in range(2000):
        times[points_of_ten.sample(3, rng)[0][:, 0].astype(int)] += 1
    # 600 expected each, with a standard deviation of 20.5
    assert np.abs(times - 600).max() < 90
