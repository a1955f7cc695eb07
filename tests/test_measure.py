"""One measurement serves inspection, forecast and any number of budgets."""

from __future__ import annotations

import re

import numpy as np
import pytest

import saec
from saec import Axes, Field, LossMetrics, MetricError, OptionError, Ratio


@pytest.fixture(scope="module")
def fields() -> list[Field]:
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((500, 4), dtype=np.float32)
    return [Field("user", weights, 1000 / np.arange(1, 501))]


@pytest.fixture(scope="module")
def metrics() -> LossMetrics:
    return LossMetrics({"user": np.diag([0.1, 0.03, 0.01, 0.003])}, 1000, {"user": 0.05})


@pytest.fixture(scope="module")
def measured(fields: list[Field], metrics: LossMetrics) -> saec.Priced:
    return saec.measure(fields, metrics=metrics, seed=3, progress=False)


def test_results_equal_those_without_a_shared_measurement(
    fields: list[Field],
    metrics: LossMetrics,
    measured: saec.Priced,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = {"metrics": metrics, "seed": 3, "progress": False}
    expected = saec.compress(fields, Ratio(8), **options)  # type: ignore[arg-type]
    curve = saec.forecast(fields, **options)  # type: ignore[arg-type]
    inspection = saec.inspect(fields, ratio=8, **options)  # type: ignore[arg-type]
    monkeypatch.setattr(Axes, "options", None)  # measuring again would fail
    result = saec.compress(measured, Ratio(8))
    assert np.array_equal(result["user"].decode(), expected["user"].decode())
    assert result.predicted_loss_increase == expected.predicted_loss_increase
    assert list(saec.forecast(measured).rows()) == list(curve.rows())
    assert saec.inspect(measured, ratio=8) == inspection


def test_what_was_measured_has_its_own_codec_and_metrics(
    measured: saec.Priced, metrics: LossMetrics
) -> None:
    with pytest.raises(OptionError, match=r"measured already: give codec to saec\.measure"):
        saec.compress(measured, Ratio(8), Axes())
    with pytest.raises(OptionError, match=r"measured already: give metrics to saec\.measure"):
        saec.inspect(measured, metrics)
    with pytest.raises(OptionError, match="out needs the fields themselves"):
        saec.compress(measured, Ratio(8), out="nowhere.saec")


def test_a_forecast_needs_metrics(fields: list[Field]) -> None:
    with pytest.raises(MetricError, match=r"give the metrics to saec\.forecast"):
        saec.forecast(fields)
    plain = saec.measure(fields, progress=False)
    with pytest.raises(MetricError, match=r"give the metrics to saec\.measure"):
        saec.forecast(plain)


def test_it_prints_as_one_line(fields: list[Field], measured: saec.Priced) -> None:
    assert re.fullmatch(
        r"Priced\(1 fields, 8000 bytes, Axes\(order='keep'\), \d+ options, losses in nats\)",
        repr(measured),
    )
    assert repr(saec.measure(fields, progress=False)).endswith("losses in squared distances)")
