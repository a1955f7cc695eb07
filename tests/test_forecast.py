"""The forecast: by hand, and compared with the prediction of compression."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import saec
from saec import (
    Axes,
    BudgetError,
    Clusters,
    Field,
    FieldError,
    Forecast,
    LossIncrease,
    LossMetrics,
    MetricError,
    Ratio,
    forecast,
)


def curve_of(ratios: list[float], losses: list[float]) -> Forecast:
    heights = np.array(losses)
    nbytes = np.round(1000 / np.array(ratios)).astype(np.int64)
    return Forecast(np.array(ratios), nbytes, heights, heights / 2, heights * 2, {"user": nbytes})


def steep(rng: np.random.Generator, dim: int, scale: float) -> NDArray[np.float64]:
    """A metric with few important directions."""
    gradients = rng.standard_normal((4, dim)) * np.geomspace(1.0, 0.05, 4)[:, None]
    return scale * gradients.T @ gradients


@pytest.fixture(scope="module")
def fields() -> list[Field]:
    """Two fields that are measured on all of their rows."""
    rng = np.random.default_rng(3)
    return [
        Field(name, rng.standard_normal((rows, 8), dtype=np.float32), 1000 / np.arange(1, rows + 1))
        for name, rows in (("user", 2500), ("item", 500))
    ]


@pytest.fixture(scope="module")
def metrics() -> LossMetrics:
    rng = np.random.default_rng(4)
    matrices = {"user": steep(rng, 8, 1e-3), "item": steep(rng, 8, 4e-3)}
    return LossMetrics(matrices, 10_000, {"user": 0.03, "item": 0.04})


@pytest.fixture(scope="module")
def measured(fields: list[Field], metrics: LossMetrics) -> saec.Priced:
    return saec.measure(fields, metrics=metrics, progress=False)


@pytest.fixture(scope="module")
def curve(measured: saec.Priced) -> Forecast:
    return forecast(measured)


def test_between_points_by_hand() -> None:
    curve = curve_of([100, 10, 1], [1e-2, 1e-4, 1e-6])
    assert curve.loss_at(10) == pytest.approx(1e-4)
    assert curve.loss_at(math.sqrt(1000)) == pytest.approx(1e-3)
    assert curve.ratio_at(1e-3) == pytest.approx(math.sqrt(1000))
    assert curve.ratio_at(1e-5) == pytest.approx(math.sqrt(10))


def test_beyond_the_ends() -> None:
    curve = curve_of([100, 10, 1], [1e-2, 1e-4, 0.0])
    assert curve.ratio_at(0.5) == pytest.approx(100)  # as small as it gets
    assert curve.ratio_at(1e-13) == pytest.approx(1)
    with pytest.raises(BudgetError, match=r"ratio 101 is outside what can be reached, 1.00 to 100"):
        curve.loss_at(101)
    with pytest.raises(BudgetError, match=r"ratio 0\.9 is outside"):
        curve.loss_at(0.9)
    for wrong in (0.0, -1.0, math.nan):
        with pytest.raises(BudgetError, match="a loss increase must be above 0, not"):
            curve.ratio_at(wrong)


def test_rows_and_text() -> None:
    curve = curve_of([100, 10], [1e-2, 1e-4])
    first, last = curve.rows()
    assert first == {
        "ratio": 100.0,
        "nbytes": 10,
        "predicted_loss_increase": 0.01,
        "low": 0.005,
        "high": 0.02,
    }
    assert last["nbytes"] == 100
    assert "100.0" in repr(curve)
    assert "+1.00e-02 (5.0e-03 to 2.0e-02)" in repr(curve)


def test_two_fields_by_hand() -> None:
    signs = np.tile([1.0, -1.0], 200)[:, None]
    fields = [
        Field("a", (signs * [1, 0]).astype(np.float32), np.full(400, 3)),
        Field("b", (signs * [0, 2]).astype(np.float32), np.full(400, 5)),
    ]
    errors = {"a": 0.3, "b": 0.1}
    metrics = LossMetrics({"a": np.diag([0.02, 0.02]), "b": np.diag([0, 0.01])}, 100, errors)
    curve = forecast(fields, metrics, progress=False)
    # Each row at the field's mean; the ridge is 1e-3 times the mean eigenvalue.
    a, b = 0.5 * (0.02 + 2e-5) * 1**2, 0.5 * (0.01 + 5e-6) * 2**2
    assert curve.loss_increases[0] == pytest.approx(a + b, rel=1e-3)
    error = math.hypot(a * 0.3, b * 0.1)
    assert curve.high[0] == pytest.approx(a + b + 2 * error, rel=1e-3)
    assert curve.low[0] == pytest.approx(a + b - 2 * error, rel=1e-3)
    # A bit per row tells the two rows of each field apart; there is nothing to gain beyond.
    assert curve.loss_increases[-1] < 1e-9
    for name in ("a", "b"):
        assert 400 / 8 < curve.fields[name][-1] < 400 / 8 + 150


def test_smaller_sizes_lose_more(curve: Forecast) -> None:
    assert len(curve.ratios) > 30
    assert np.all(np.diff(curve.ratios) < 0)
    assert np.all(np.diff(curve.nbytes) > 0)
    assert np.all(np.diff(curve.loss_increases) < 0)
    assert np.all(curve.low <= curve.loss_increases)
    assert np.all(curve.loss_increases[:-1] < curve.high[:-1])
    parts = sum(curve.fields.values())
    assert np.all(parts < curve.nbytes)
    assert np.all(curve.nbytes < parts + 600)  # for the header
    assert curve.loss_increases[-1] == 0  # the tables as they are
    assert curve.nbytes[-1] > (2500 + 500) * 8 * 4


@pytest.mark.exhaustive
@settings(max_examples=15)
@given(st.integers(0, 1000), st.lists(st.integers(100, 400), min_size=1, max_size=4))
def test_curves_of_any_tables_fall(seed: int, sizes: list[int]) -> None:
    rng = np.random.default_rng(seed)
    fields, metrics = [], {}
    for place, rows in enumerate(sizes):
        name, dim = f"f{place}", int(rng.integers(1, 6))
        weights = rng.standard_normal((rows, dim), dtype=np.float32)
        fields.append(Field(name, weights, rng.zipf(1.5, rows)))
        metrics[name] = steep(rng, dim, 1e-3)
    curve = forecast(fields, metrics, progress=False)
    assert np.all(np.diff(curve.nbytes) > 0)
    assert np.all(np.diff(curve.loss_increases) < 0)
    assert curve.loss_at(curve.ratios[0]) == pytest.approx(curve.loss_increases[0], abs=2e-12)


def test_a_ratio_and_its_loss_are_inverse(curve: Forecast) -> None:
    for ratio in np.geomspace(2, curve.ratios[0], 20):
        assert curve.ratio_at(curve.loss_at(ratio)) == pytest.approx(ratio)


@pytest.mark.exhaustive(keep=2)
@pytest.mark.parametrize(
    ("codec", "tolerance"),
    # What lies between the numbers of clusters that were measured is interpolated.
    [
        (Axes(), 0.05),
        (Axes(order="frequency"), 0.05),
        (Axes(order="code"), 0.1),
        (Clusters(), 0.2),
    ],
)
def test_compression_predicts_the_same(
    fields: list[Field], metrics: LossMetrics, codec: Axes | Clusters, tolerance: float
) -> None:
    measured = saec.measure(fields, codec, metrics=metrics, progress=False)
    curve = forecast(measured)
    for ratio in (10, 20):
        result = saec.compress(measured, Ratio(ratio))
        assert result.predicted_loss_increase is not None
        expected = curve.loss_at(result.compression_ratio)
        assert result.predicted_loss_increase == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize("limit", [3e-5, 3e-4, 1e-3])
def test_a_budget_of_loss_is_kept_in_about_the_forecast_bytes(
    measured: saec.Priced, curve: Forecast, limit: float
) -> None:
    result = saec.compress(measured, LossIncrease(limit))
    assert result.predicted_loss_increase is not None
    assert 0.9 * limit < result.predicted_loss_increase <= limit * (1 + 1e-3)
    assert result.compression_ratio == pytest.approx(curve.ratio_at(limit), rel=0.1)


def test_twice_the_metric_is_twice_the_loss(
    fields: list[Field], metrics: LossMetrics, curve: Forecast
) -> None:
    twice = forecast(fields, {n: 2 * m for n, m in metrics.items()}, progress=False)
    np.testing.assert_array_equal(twice.nbytes, curve.nbytes)
    np.testing.assert_allclose(twice.loss_increases, 2 * curve.loss_increases, rtol=1e-6)


def test_without_standard_errors_the_band_is_narrower(
    fields: list[Field], metrics: LossMetrics, curve: Forecast
) -> None:
    plain = forecast(fields, dict(metrics), progress=False)
    np.testing.assert_array_equal(plain.loss_increases, curve.loss_increases)
    assert np.all(plain.high[:-1] < curve.high[:-1])
    assert np.all(plain.low[:-1] > curve.low[:-1])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"user": np.eye(8)}, "no metric for 'item'"),
        ({"user": np.eye(8), "item": np.eye(3)}, "'item': the metric is 3 x 3"),
        ({"user": np.eye(8), "item": -np.eye(8)}, "'item': the metric is not positive semi-def"),
    ],
)
def test_metrics_that_do_not_fit(
    fields: list[Field], wrong: Mapping[str, NDArray[np.float64]], message: str
) -> None:
    with pytest.raises(MetricError, match=message):
        forecast(fields, wrong, progress=False)


def test_fields_without_a_curve_are_refused(fields: list[Field], metrics: LossMetrics) -> None:
    with pytest.raises(BudgetError, match="has one size only; there is no curve to forecast"):
        forecast(fields, metrics, Clusters(clusters=8), progress=False)
    with pytest.raises(FieldError, match="no fields were given"):
        forecast([], {}, progress=False)


def test_measurements_bend_the_curve() -> None:
    curve = Forecast(
        ratios=np.array([100.0, 10.0, 1.0]),
        nbytes=np.array([10, 100, 1000]),
        loss_increases=np.array([0.1, 0.01, 0.001]),
        low=np.zeros(3),
        high=np.ones(3),
        fields={},
    )
    bent = curve.corrected(np.array([100.0, 10.0]), np.array([0.05, 0.01]), np.array([0.01, 0.002]))
    # Half came true at ratio 100, all of it at 10; below, no more than at 10 is known to be lost.
    np.testing.assert_allclose(bent.loss_increases, [0.05, 0.01, 0.001])
    np.testing.assert_allclose(bent.high, [0.07, 0.014, 0.014])
    np.testing.assert_allclose(bent.low, [0.03, 0.006, 0.0])
    assert bent.loss_at(100) == pytest.approx(0.05)


def test_a_larger_ratio_never_costs_less_whatever_was_measured() -> None:
    curve = Forecast(
        ratios=np.array([100.0, 10.0]),
        nbytes=np.array([10, 100]),
        loss_increases=np.array([0.1, 0.01]),
        low=np.zeros(2),
        high=np.ones(2),
        fields={},
    )
    bent = curve.corrected(np.array([100.0, 10.0]), np.array([-0.05, 0.008]), np.zeros(2))
    np.testing.assert_allclose(bent.loss_increases, [0.008, 0.008])
    np.testing.assert_allclose(bent.low, [-0.05, 0.008])  # as measured: the loss fell


def test_points_show_where_the_curve_bends() -> None:
    """The loss is almost zero at all sizes but the smallest, where it is 1,000 times larger."""
    ratios = np.array([12.0, 11.9, 11.8, 11.7, 11.6, 11.5, *np.geomspace(11, 1, 50)])
    losses = np.array([1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, *np.geomspace(1e-5, 9e-6, 50)])
    shown = curve_of(ratios.tolist(), losses.tolist()).told_apart(9)
    assert (shown[0], shown[-1]) == (0, 55)
    assert len(shown) <= 9
    assert len([place for place in shown if losses[place] > 2e-5]) >= 4
    assert len([place for place in shown if losses[place] < 2e-5]) >= 4


def test_a_curve_of_one_point() -> None:
    assert curve_of([3.0], [1e-3]).told_apart(9) == [0]
