"""Distortion curves: interpolation, extrapolation, and the rows on which they are measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from saec.clustering.kmeans import Clustering
from saec.clustering.rowmap import RowMap
from saec.codecs.clusters import judged_rows as judging
from saec.codecs.clusters.distortion_curve import DistortionCurve, measure_curves
from saec.codecs.clusters.judged_rows import judged_rows, surveyed
from saec.format.codebook import Codebook
from saec.streaming.scratch import IN_MEMORY
from saec.tables.field import Field


def at(
    clusters: list[int], distortion: list[float], wanted: list[int], rows: int = 1 << 40
) -> list[float]:
    far = np.zeros(len(clusters))
    known = DistortionCurve(rows, np.array(clusters), np.array(distortion, np.float64), far)
    return known.at(np.array(wanted)).tolist()


def test_a_power_of_the_number_of_clusters_by_hand() -> None:
    # D = 100 / k, known at 1, 4 and 16.
    found = at([1, 4, 16], [100, 25, 6.25], [1, 2, 4, 8, 16, 64])
    assert found == pytest.approx([100, 50, 25, 12.5, 6.25, 100 / 64])


def test_extrapolation_continues_the_last_slope() -> None:
    assert at([1, 2, 4], [8, 8, 4], [8, 16]) == pytest.approx([2, 1])
    assert at([1, 4], [5, 5], [16]) == pytest.approx([5])


def test_as_many_clusters_as_rows_lose_nothing() -> None:
    # Beyond 4 of 11 clusters, the eight rows from the fourth on lose less, as fewer share one.
    found = at([1, 2, 4], [8, 8, 8], [4, 5, 8, 11], rows=11)
    assert found == pytest.approx([8, 7, 4, 1])


def test_a_codebook_on_half_of_the_axes_gains_half_as_much() -> None:
    whole = DistortionCurve(11, np.array([1, 4]), np.array([8.0, 8.0]), np.zeros(2))
    half = DistortionCurve(11, np.array([4]), np.array([9.0]), np.zeros(1), 0.5, whole)
    assert half.at(np.array([4, 8, 11])) == pytest.approx([9, 7, 5.5])  # of 8, 4 and 1


def test_the_loss_of_far_rows_is_separate() -> None:
    sizes, far = np.array([1, 2, 4, 16]), np.array([3.0, 1.0])
    known = DistortionCurve(1 << 40, np.array([1, 4]), np.array([16.0, 4.0]), far)
    assert known.at(sizes) == pytest.approx([16, 8, 4, 1])
    assert known.far_at(sizes) == pytest.approx([3, 2, 1, 1])


def test_a_curve_of_one_point_is_flat() -> None:
    assert at([1], [3], [1, 2, 50]) == pytest.approx([3, 3, 3])


def test_curves_with_zero_distortion() -> None:
    assert at([1, 2], [0, 0], [1, 2, 8]) == pytest.approx([0, 0, 0], abs=1e-300)
    high, *rest = at([1, 4], [1, 0], [1, 4, 16])
    assert high == pytest.approx(1)
    assert rest == pytest.approx([0, 0], abs=1e-300)


# Rows 0, 0, 10, 10 seen 1, 1, 1, 3 times. One cluster at 5: 6 * 25; two: 0.
FIELD = Field("x", np.array([[0], [0], [10], [10]], np.float32), np.array([1, 1, 1, 3]))
CENTROIDS = {1: [[5]], 2: [[0], [10]]}


def learn(clusters: int) -> Clustering:
    centroids = np.array(CENTROIDS[min(clusters, 2)], np.float32)
    return Clustering(centroids, np.ones(len(centroids)), (), True)


def store(clustering: Clustering, ranks: Sequence[int]) -> list[Codebook]:
    return Codebook.round_at(clustering.centroids, "float32", ranks)


def measured_curves(
    field: Field,
    learned: Callable[[int], Clustering],
    ranks: Sequence[int],
    most: int,
    rng: np.random.Generator,
    root: np.ndarray | None = None,
) -> dict[int, DistortionCurve]:
    row_map = RowMap(root=root)
    judged = judged_rows(surveyed(field, rng, IN_MEMORY), row_map)
    return measure_curves("x", learned, store, lambda _: ranks, most, judged, row_map, IN_MEMORY)


def test_measured_by_hand(rng: np.random.Generator) -> None:
    measured = measured_curves(FIELD, learn, [1], 1, rng, None)[1]
    assert measured.clusters.tolist() == [1]
    assert measured.distortion.tolist() == [150]
    measured = measured_curves(FIELD, learn, [1], 4, rng, None)[1]
    assert measured.clusters.tolist() == [1, 2]
    assert measured.distortion.tolist() == [150, 0]


def test_measured_in_a_metric_by_hand(rng: np.random.Generator) -> None:
    # Rows (1, 0) and (0, 1) are nearer to the centroid (0, 3), and all of it counts twice or once.
    field = Field("x", np.array([[1, 0], [0, 1]], np.float32), np.array([1.0, 10]))

    def one(clusters: int) -> Clustering:
        return Clustering(np.array([[0, 3]], np.float32), np.ones(1), (), True)

    for root, expected in ((None, 10 + 10 * 4), (np.diag([2.0, 1]), 13 + 10 * 4)):
        measured = measured_curves(field, one, [2], 1, rng, root)[2]
        assert measured.distortion.tolist() == [expected]


def test_measuring_stops_when_there_are_fewer_clusters_than_requested(
    rng: np.random.Generator,
) -> None:
    measured = measured_curves(FIELD, learn, [1], 4000, rng, None)[1]
    assert measured.clusters.tolist() == [1, 2, 8], "only two clusters came back for eight"


def test_distortion_is_that_of_rounded_codebooks(rng: np.random.Generator) -> None:
    # A codebook on one axis loses the difference between its two centroids on the other axis.
    field = Field("x", np.array([[1, 0], [-1, 0], [0, 3], [0, -3]], np.float32), np.ones(4))
    centroids = field.weights[[2, 3]]

    def two(clusters: int) -> Clustering:
        return Clustering(centroids[:clusters], np.ones(clusters), (), True)

    curves = measured_curves(field, two, [1, 2], 2, rng, None)
    assert set(curves) == {1, 2}
    assert curves[1].distortion[1] == pytest.approx(2 * (1 + 9), rel=1e-2)
    assert curves[2].distortion[1] == 2 * (1 + 9)


def test_measured_distortion_never_rises_with_clusters(rng: np.random.Generator) -> None:
    def worse(clusters: int) -> Clustering:
        return Clustering(
            np.full((clusters, 1), clusters - 1, np.float32), np.ones(clusters), (), True
        )

    measured = measured_curves(FIELD, worse, [1], 3, rng, None)[1]
    # One cluster at 0: 4 * 100; two at 1: 2 * 1 + 4 * 81.
    assert measured.distortion.tolist() == [400, 326]
    flat = Field("x", np.zeros((4, 1), np.float32), np.ones(4))
    assert measured_curves(flat, worse, [1], 3, rng, None)[1].distortion.tolist() == [0, 0]


def test_sampled_rare_rows_count_for_all(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "_JUDGED", 100)
    frequencies = np.r_[np.ones(900), np.full(100, 50.0)]
    rows = np.r_[np.full(900, 3.0), np.full(100, 1.0)].astype(np.float32)[:, None]
    field = Field("x", rows, frequencies)

    def zero(clusters: int) -> Clustering:
        return Clustering(np.zeros((clusters, 1), np.float32), np.ones(clusters), (), True)

    # 900 rare rows of distance 3, 100 frequent ones of distance 1, all of those judged.
    measured = measured_curves(field, zero, [1], 1, rng, None)[1]
    assert measured.distortion.tolist() == pytest.approx([900 * 9 + 100 * 50])
