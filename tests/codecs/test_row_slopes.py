"""Slopes of single rows: gradients by hand, and which rows of fields with keys are stored."""

from __future__ import annotations

import numpy as np
import pytest
from sloped_tables import tables

import saec
from saec.codecs.axes.row_slopes import RowGradient, RowNats
from saec.codecs.axes.tier_slopes import AxisFunctions, Estimate
from saec.compression.day_plan import metrics_of
from saec.tables.unseen_gradients import SlopeShare

TWO = np.array([[1.0], [-1.0]], np.float32)  # rows on one axis
NATS = np.array([2.0])


def gradient(slope: float, variance: float = 0.0, share: float = 1.0) -> RowGradient:
    """Of two equal rows that have half of all occurrences."""
    shapes = AxisFunctions.of(TWO, np.full(2, 0.5))
    told = np.array([[slope, 0.0, 0.0]])
    halves = Estimate(np.stack([told, told]), np.array([[variance, 0.0, 0.0]]))
    return RowGradient.of(shapes, halves, SlopeShare(share, share, 0.1), NATS, 0.5)


@pytest.mark.parametrize(
    # If both go to 0: second order 2 x 0.5 = 1, first order -slope.
    ("slope", "first"),
    [(-0.3, 0.3), (0.3, -0.15), (3.0, -0.9)],  # of gains a half counts, and a tenth is left
)
def test_a_gradient_by_hand(slope: float, first: float) -> None:
    found = gradient(slope)
    assert found.widths == pytest.approx([1])
    assert found.factors == pytest.approx([1 + first])
    # Each row has a quarter of all occurrences.
    assert 0.25 * found.added(TWO, -TWO) == pytest.approx([first / 2] * 2)
    # Half of the way to 0 is half of the first order, and a quarter of the second.
    nats = RowNats(NATS, found)
    assert 0.25 * nats.losses(TWO, TWO / 2).lost == pytest.approx([0.125 + first / 4] * 2)
    assert nats.of_codes == pytest.approx([2 * (1 + first)])
    # Rows at 1.5 and 0.5 coded by their mean: as if squared errors cost so many times more.
    pair = np.array([[1.5], [0.5]], np.float32)
    lost = nats.losses(pair, np.ones((2, 1))).lost.sum()
    clipped = found.coefficients[0, 2]
    assert clipped == 0
    assert lost == pytest.approx(2 * 0.25 * nats.of_codes[0])


def test_errors_of_gradients() -> None:
    # Of a slope of 0.5 +- 0.3 the share 1 - 0.09 / 0.25 is not noise.
    found = gradient(-0.5, 0.09)
    assert found.factors == pytest.approx([1 + 0.5 * 0.64])
    assert found.errors == pytest.approx([0.3])
    doubt = RowNats(NATS, found).losses(TWO, np.zeros((2, 1))).doubt
    assert 0.25 * doubt == pytest.approx([0.15] * 2)
    half = gradient(-0.5, 0.09, share=0.5)
    assert half.factors == pytest.approx([1 + 0.25 * 0.64])
    assert half.errors == pytest.approx([0.3 * 0.5**0.5])


def test_rows_of_which_nothing_is_known() -> None:
    nothing = RowNats(NATS, RowGradient.none(1))
    assert nothing.of_codes.tolist() == [2]
    assert nothing.losses(TWO, np.zeros((2, 1))).lost.tolist() == [2, 2]
    assert nothing.losses(TWO, np.zeros((2, 1))).doubt.tolist() == [0, 0]
    shapes = AxisFunctions.of(TWO, np.full(2, 0.5))
    slopes = Estimate(np.ones((2, 1, 3)), np.zeros((1, 3)))
    never = RowGradient.of(shapes, slopes, SlopeShare(1.0, 1.0, 0.0), NATS, 0.0)
    assert (never.factors.tolist(), never.coefficients.any()) == ([1], False)


@pytest.mark.exhaustive(keep=1)
@pytest.mark.parametrize("codec", [saec.Axes(), saec.Clusters(iterations=2)])
def test_bytes_of_fields_with_keys_go_where_rows_generalise(codec: saec.Axes) -> None:
    fields, metrics = tables({"keeps": -1.0, "by heart": 0.4}, keyed=True)
    result = saec.compress(fields, saec.Ratio(12), codec, metrics=metrics, progress=False)
    assert {name: own.value for name, own in result.slope_shares.items()} == {
        "keeps": pytest.approx(1),
        "by heart": pytest.approx(1),
    }
    assert result["keeps"].nbytes > 1.3 * result["by heart"].nbytes


@pytest.mark.exhaustive(keep=1)
@pytest.mark.parametrize("direction", [-1.0, 0.2])
def test_the_forecast_of_fields_with_keys_contains_slopes(direction: float) -> None:
    fields, metrics = tables({"only": direction}, keyed=True)
    measured = saec.measure(fields, metrics=metrics, progress=False)
    curve = saec.forecast(measured)
    assert curve.labelled
    rows, counts = fields[0].rows.read(0, 1000), fields[0].frequencies
    for ratio in (8, 15, 40):
        result = saec.compress(measured, saec.Ratio(ratio), progress=False)
        moved = result.lookup({"only": np.arange(1000)}) - rows.astype(np.float64)
        second = (counts @ np.square(moved)).sum() * 1e-3 / 2 / counts.sum()
        first = direction * (counts @ (rows * moved)).sum() * 1e-3 / counts.sum()
        # Harm of strings that are read by keys left out is in the forecast, not in first.
        assert result.predicted_loss_increase == pytest.approx(second + first, rel=0.1)


@pytest.mark.exhaustive
def test_a_tenth_of_the_second_order_always_remains() -> None:
    # So strong slopes would make errors of the rows that are chosen to be stored a gain.
    fields, metrics = tables({"only": 1.5}, keyed=True)
    measured = saec.measure(fields, metrics=metrics, progress=False)
    rows, counts = fields[0].rows.read(0, 1000), fields[0].frequencies
    for ratio in (8, 15, 40):
        result = saec.compress(measured, saec.Ratio(ratio), progress=False)
        moved = result.lookup({"only": np.arange(1000)}) - rows.astype(np.float64)
        second = (counts @ np.square(moved)).sum() * 1e-3 / 2 / counts.sum()
        assert result.predicted_loss_increase >= 0.09 * second


def test_patches_hold_rows_by_the_second_order() -> None:
    fields, metrics = tables({"only": -1.0}, keyed=True)
    base = saec.compress(fields, saec.Ratio(20), metrics=metrics, progress=False)
    assert metrics_of(base, fields, metrics)["only"].unseen is None
