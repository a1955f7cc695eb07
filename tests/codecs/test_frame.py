"""A field's frame: by hand in two dimensions, orthogonality, and tables of every kind."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from saec import Field
from saec.codecs.axes.principal_axes import Frame
from saec.codecs.moments_and_samples import moments_of
from saec.tables.loss_metric import Metric


def skewed(dim: int, seed: int = 0) -> Metric:
    """A metric with rotated axes and eigenvalues from 1 to 100."""
    turn, _ = np.linalg.qr(np.random.default_rng([seed, dim]).standard_normal((dim, dim)))
    return Metric((turn * np.logspace(0, 2, dim)) @ turn.T)


def field(weights: NDArray[np.generic]) -> Field:
    return Field("f", weights, 100.0 / np.arange(1, len(weights) + 1))


def table(rows: int, dim: int, seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng([seed, rows, dim])
    spread = np.logspace(0, -1, dim)
    return (rng.standard_normal((rows, dim)) * spread + rng.standard_normal(dim)).astype(np.float32)


def frame_of(one: Field, metric: Metric) -> Frame:
    return Frame.of(moments_of(one), metric)


def all_rows(frame: Frame, one: Field) -> NDArray[np.float32]:
    assert isinstance(one.weights, np.ndarray)
    return frame.coordinates(one.weights, frame.rank)


def given_back(frame: Frame, one: Field) -> NDArray[np.float64]:
    stored = frame.stored.astype(np.float64)
    return all_rows(frame, one).astype(np.float64) @ stored[:-1] + stored[-1]


def lost(frame: Frame, one: Field, metric: Metric) -> float:
    """The loss in nats if coordinates are exact."""
    error = (given_back(frame, one) - one.weights.astype(np.float64)) @ metric.root
    shares = one.frequencies / one.frequencies.sum()
    return float(shares @ np.square(error).sum(axis=1)) / 2


def test_by_hand() -> None:
    # About (10, 20) rows lie at (+-2, 0) and (0, +-1). In the metric diag(1, 16) the second
    # direction is the longer: there the rows are (+-2, 0) and (0, +-4), variances 2 and 8.
    rows = np.array([[12, 20], [8, 20], [10, 21], [10, 19]], np.float32)
    one = Field("f", rows, np.ones(4))
    frame = frame_of(one, Metric(np.diag([1.0, 16.0])))
    assert frame.rank == 2
    assert frame.stored.dtype == np.float16
    assert frame.stored[2].tolist() == [10, 20]
    # Standard deviations sqrt(8) / 4 and sqrt(2) in the table's own units.
    assert np.abs(frame.stored[:2]) == pytest.approx(
        np.array([[0, 8**0.5 / 4], [2**0.5, 0]]), rel=1e-3, abs=1e-6
    )
    assert frame.nats == pytest.approx([4, 1], rel=1e-3)
    assert frame.rest == pytest.approx(0, abs=1e-12)
    coordinates = np.abs(all_rows(frame, one))
    assert coordinates == pytest.approx(
        np.array([[0, 2**0.5], [0, 2**0.5], [2**0.5, 0], [2**0.5, 0]]), rel=1e-3, abs=1e-6
    )


def test_weighted_frame_by_hand() -> None:
    # Mean (3 x 0 + 1 x 4) / 4 = 1, variance (3 x 1 + 1 x 9) / 4 = 3.
    frame = frame_of(Field("f", np.array([[0], [4]], np.float32), [3, 1]), Metric.euclidean(1))
    assert frame.stored[1, 0] == 1
    assert abs(frame.stored[0, 0]) == pytest.approx(3**0.5, rel=1e-3)
    assert frame.nats == pytest.approx([1.5], rel=1e-3)
    # A row that never occurs changes nothing.
    other = Field("f", np.array([[0], [4], [1000]], np.float32), [3, 1, 0])
    again = frame_of(other, Metric.euclidean(1))
    assert np.array_equal(again.stored, frame.stored)
    assert np.array_equal(again.nats, frame.nats)


@pytest.mark.parametrize("dim", [1, 2, 16, 64])
def test_axes_are_orthogonal_in_the_metric_and_reproduce_rows(dim: int) -> None:
    one, metric = field(table(400, dim)), skewed(dim)
    frame = frame_of(one, metric)
    assert frame.rank == dim
    axes = frame.stored[:-1].astype(np.float64)
    gram = axes @ metric.matrix @ axes.T
    sizes = np.sqrt(np.diag(gram))
    assert np.abs(gram / np.outer(sizes, sizes) - np.eye(dim)).max() < 3e-3  # float16
    assert np.all(np.diff(frame.nats) <= 1e-3 * frame.nats[0])
    assert frame.nats == pytest.approx(np.diag(gram) / 2)
    assert given_back(frame, one) == pytest.approx(one.weights.astype(np.float64), abs=2e-5)
    coordinates = all_rows(frame, one)
    assert coordinates.dtype == np.float32
    shares = one.frequencies / one.frequencies.sum()
    assert shares @ coordinates.astype(np.float64) ** 2 == pytest.approx(np.ones(dim), rel=0.01)


def test_coordinates_of_a_part_of_the_rows_and_axes() -> None:
    one = field(table(100, 8))
    frame = frame_of(one, skewed(8))
    every = all_rows(frame, one)
    chosen = np.array([99, 0, 5, 5])
    assert frame.coordinates(one.weights[chosen], 5) == pytest.approx(every[chosen, :5], abs=1e-6)
    assert frame.coordinates(one.weights[10:13], 1) == pytest.approx(every[10:13, :1], abs=1e-6)
    assert frame.coordinates(one.weights[3:5], 0).shape == (2, 0)
    assert frame.coordinates(one.weights[3:3], 8).shape == (0, 8)


def test_squared_errors_by_hand() -> None:
    # About (0, 0): in the metric diag(1, 4) an error of (1, 2) has a squared length of 1 + 4 * 4.
    one = Field("f", np.array([[2, 0], [-2, 0], [0, 1], [0, -1]], np.float32), np.ones(4))
    frame = frame_of(one, Metric(np.diag([1.0, 4.0])))
    rows = np.array([[1, 2], [0, 0]], np.float32)
    assert frame.squared_errors(rows, []) == pytest.approx([17, 0])
    exact = frame.coordinates(rows, 2)
    assert frame.squared_errors(rows, [exact]) == pytest.approx([0, 0], abs=1e-6)
    beside = [exact[:, :1], exact[:, 1:]]
    assert frame.squared_errors(rows, beside) == pytest.approx([0, 0], abs=1e-6)
    # Without the second axis its part of the error remains: 1 of one direction or 16 of the other.
    some = frame.squared_errors(rows, [exact[:, :1]])
    assert min(abs(some[0] - 1), abs(some[0] - 16)) < 1e-3


def test_frames_do_not_depend_on_the_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = frame_of(field(table(1000, 8)), skewed(8))
    monkeypatch.setattr(
        "saec.streaming.chunks._PART_VALUES", 8 * 30
    )  # 33 parts of 30 rows and one of 10
    one = field(table(1000, 8))
    assert len(one.parts) == 34
    parted = frame_of(one, skewed(8))
    assert np.array_equal(parted.stored, whole.stored)
    assert parted.nats == pytest.approx(whole.nats, rel=1e-12)
    assert parted.rest == pytest.approx(whole.rest, rel=1e-9, abs=1e-15)
    assert all_rows(parted, one) == pytest.approx(all_rows(whole, one), abs=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.5, 0.1, 1e-6, -1e6, 3e38])
@pytest.mark.parametrize("rows", [1, 700])
def test_constant_tables_have_no_axes(value: float, rows: int) -> None:
    one = field(np.full((rows, 5), value, np.float32))
    frame = frame_of(one, skewed(5))
    assert frame.rank == 0
    assert frame.stored[0] == pytest.approx(one.weights[0], rel=1e-6)
    assert len(frame.nats) == 0
    assert all_rows(frame, one).shape == (rows, 0)
    assert frame.rest <= 1e-13 * max(value**2, 1e-30) * 500


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 1e6, 1e15])
def test_tables_of_any_scale(scale: float) -> None:
    one, metric = field((table(300, 6) * scale).astype(np.float32)), skewed(6)
    frame = frame_of(one, metric)
    assert frame.rank == 6
    assert frame.stored.dtype == (np.float16 if scale in (1.0, 1e-3) else np.float32)
    assert given_back(frame, one) == pytest.approx(one.weights.astype(np.float64), abs=2e-5 * scale)
    assert np.abs(all_rows(frame, one)).max() < 20  # of size one, whatever the table's scale


def test_axes_of_very_different_sizes_keep_their_digits() -> None:
    # The second axis, of length 1e-6, would lose its digits in float16; the first would not.
    weights = table(300, 2) * np.array([1, 1e-6], np.float32)
    one = field(weights)
    frame = frame_of(one, Metric(np.diag([1.0, 1e9])))
    assert frame.rank == 2
    assert frame.stored.dtype == np.float32
    error = np.abs(given_back(frame, one) - weights).max(axis=0)
    assert error[1] < 1e-9


def test_a_mean_far_from_the_origin_keeps_its_digits() -> None:
    # float16 has no numbers between 1000 and 1000.5.
    one = field((table(300, 4) * 0.01 + 1000.2).astype(np.float32))
    frame = frame_of(one, Metric.euclidean(4))
    assert frame.stored.dtype == np.float32
    shares = one.frequencies / one.frequencies.sum()
    assert shares @ all_rows(frame, one).astype(np.float64) == pytest.approx(np.zeros(4), abs=0.1)


@pytest.mark.parametrize(
    ("rows", "dim", "rank"), [(1, 16, 0), (2, 16, 1), (5, 16, 4), (40, 512, 39), (600, 1, 1)]
)
def test_rank_is_that_of_the_table(rows: int, dim: int, rank: int) -> None:
    one, metric = field(table(rows, dim)), skewed(dim)
    frame = frame_of(one, metric)
    assert frame.rank == rank
    assert frame.dual.shape == (dim, rank)
    assert frame.rest == pytest.approx(lost(frame, one, metric), rel=0.05, abs=1e-12)


def test_rest_includes_the_loss_from_rounding() -> None:
    # Two rows, one axis: rounding to float16 rotates it a little and moves the mean off it.
    one, metric = field(table(2, 16)), skewed(16)
    frame = frame_of(one, metric)
    assert frame.stored.dtype == np.float16
    assert 0 < frame.rest < 1e-5 * frame.nats[0]
    assert frame.rest == pytest.approx(lost(frame, one, metric), rel=0.01)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_memory_maps_equal_arrays(dtype: type, tmp_path: Path) -> None:
    weights = table(500, 12).astype(dtype)
    weights.tofile(tmp_path / "weights")
    kind = np.uint16 if dtype is ml_dtypes.bfloat16 else dtype
    mapped = np.memmap(tmp_path / "weights", kind, "r", shape=(500, 12)).view(dtype)
    frame, direct = frame_of(field(mapped), skewed(12)), frame_of(field(weights), skewed(12))
    assert np.array_equal(frame.stored, direct.stored)
    assert np.array_equal(all_rows(frame, field(mapped)), all_rows(direct, field(weights)))
    assert given_back(frame, field(mapped)) == pytest.approx(weights.astype(np.float64), abs=2e-5)


@pytest.mark.exhaustive
def test_a_frame_of_dim_512_reproduces_rows() -> None:
    one, metric = field(table(700, 512)), skewed(512)
    frame = frame_of(one, metric)
    assert frame.rank == 512
    assert given_back(frame, one) == pytest.approx(one.weights.astype(np.float64), abs=1e-3)
