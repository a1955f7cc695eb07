"""Measured shares of a forecast: by hand, and the effect of noise on a budget in log loss."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

import saec
from saec.compression.plan import Priced
from saec.errors import BudgetError
from saec.torch import MeasuredIncrease
from saec.torch.measure.calibration import Shares, calibrated


def test_one_measurement_by_hand() -> None:
    shares = Shares()
    shares.add(0.01, MeasuredIncrease(0.005, 0.001, 1000))
    found = shares.expected(0.01)
    assert (found.value, found.standard_error) == pytest.approx((0.005, 0.001))


def test_measurements_are_weighted_by_their_variances() -> None:
    shares = Shares()
    shares.add(0.001, MeasuredIncrease(0.001, 0.0006, 1000))  # all of it, ± 0.6
    shares.add(0.004, MeasuredIncrease(0.002, 0.0, 1000))  # half of it; two doublings away, ± 0.2
    weights = 1 / 0.6**2, 1 / 0.2**2
    found = shares.expected(0.001)
    assert found.value == pytest.approx(0.001 * (weights[0] + 0.5 * weights[1]) / sum(weights))
    assert found.standard_error == pytest.approx(0.001 / sum(weights) ** 0.5)
    # At that size the value is certain, and the measurement at a quarter of it has no weight.
    assert shares.expected(0.004).value == pytest.approx(0.002, rel=1e-6)


def test_measurements_that_differ_significantly_are_not_averaged() -> None:
    """Small increases may be of first order: here 30 times the forecast, then twice."""
    shares = Shares()
    shares.add(1e-6, MeasuredIncrease(30e-6, 5e-6, 1000))
    shares.add(9e-6, MeasuredIncrease(18e-6, 2e-6, 1000))
    assert shares.expected(1e-6).value == pytest.approx(30e-6, rel=0.05)


def test_repeated_measurements_count_once() -> None:
    found = []
    for times in (1, 3):
        shares = Shares()
        for _ in range(times):
            shares.add(0.001, MeasuredIncrease(0.001, 0.0006, 1000))
        shares.add(0.004, MeasuredIncrease(0.002, 0.0, 1000))
        found.append(shares.expected(0.001))
    assert found[0] == found[1]


class Rows:
    """Stands for a model on some rows: the measured increase is half the forecast, plus noise."""

    def __init__(self, rng: np.random.Generator, error: float) -> None:
        self._noise = rng.normal(0, error)
        self._error = error

    def believed(self, increase: MeasuredIncrease) -> float:
        return increase.value

    def increase(self, result: saec.Compressed, _: object) -> MeasuredIncrease:
        forecast = result.predicted_loss_increase
        assert forecast is not None
        # The errors of the same rows are similar at all sizes, and smaller if little changes.
        scale = min(forecast / 2e-3, 1.0) ** 0.5
        return MeasuredIncrease(0.5 * forecast + scale * self._noise, scale * self._error, 1000)


def a_table() -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((2000, 8)).astype(np.float32), 1e6 / np.arange(1, 2001)


@pytest.mark.exhaustive
def test_a_budget_below_the_noise_is_met_from_larger_losses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table, counts = a_table()
    field = saec.Field("user", table, counts)
    priced = Priced.of([field], None, {"user": 0.01 * np.eye(8)}, seed=0, progress=False)

    def off() -> float:
        """The median factor by which a budget of 3e-4 is missed in 40 cases."""
        rng = np.random.default_rng(1)
        results = [calibrated(priced, 3e-4, Rows(rng, 3e-4)) for _ in range(40)]  # type: ignore[arg-type]
        lost = 0.5 * np.array([lost_by(field, result) for result in results])
        return float(np.exp(np.median(np.abs(np.log(lost / 3e-4)))))

    helped = off()
    monkeypatch.setattr("saec.torch.measure.calibration._LARGER", ())
    assert helped < 1.3 < off()


def lost_by(field: saec.Field, result: saec.Compressed) -> float:
    """1/2 delta' G delta, by frequency, with G = 0.01."""
    error = np.asarray(field.weights, np.float64) - result["user"].decode()
    shares = field.frequencies / field.frequencies.sum()
    return float(0.5 * 0.01 * (shares * np.square(error).sum(1)).sum())


def test_a_loss_budget_that_is_never_met_is_an_error() -> None:
    class Always:
        def believed(self, increase: MeasuredIncrease) -> float:
            return increase.value

        def increase(self, result: saec.Compressed, _: object) -> MeasuredIncrease:
            return MeasuredIncrease(5.0, 0.0, 1000)

    table, counts = a_table()
    field = saec.Field("user", table, counts)
    priced = Priced.of([field], None, {"user": np.eye(8)}, seed=0, progress=False)
    with pytest.raises(BudgetError, match=r"0\.01 was not met in 8 attempts: the last one gave 5"):
        calibrated(priced, 0.01, Always())  # type: ignore[arg-type]
