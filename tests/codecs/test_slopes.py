"""Slopes on unseen rows: estimates by hand, first-order changes, and the allocation of bits."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sloped_tables import tables

import saec
from saec.artifact import entry_bytes
from saec.codecs.axes.lagrangian import Layered, Way
from saec.codecs.axes.quantizer import Coder, Offer, TierOffers
from saec.codecs.axes.slope_costs import FieldSlopes, share_of
from saec.codecs.axes.tier_slopes import AxisFunctions, Estimate, Moves
from saec.codecs.protocol import Option
from saec.codecs.slope_noise import squared_error_between
from saec.format.tiered_field import TieredField
from saec.tables.loss_metric import LossMetrics
from saec.tables.unseen_gradients import RowSums, SlopeShare, UnseenGradients

Floats = NDArray[np.float64]


def test_an_estimate_by_hand() -> None:
    # Two features, of which the halves say 3 and 1, and 2 and 4.
    found = Estimate.of(np.array([[3.0, 2.0], [1.0, 4.0]]))
    assert found.halves.tolist() == [5, 5]
    assert (found.value, found.variance) == (5, (2**2 + 2**2) / 4)
    # Of a square of 25, 2 are noise; from one half, of twice the variance, 4.
    assert found.believed() == pytest.approx(5 * 23 / 25)
    assert found.believed(0) == pytest.approx(5 * 21 / 25)
    noise = Estimate.of(np.array([[2.0], [-1.0]]))
    assert (noise.value, noise.variance, noise.believed()) == (0.5, 9 / 4, 0)


def test_the_variance_is_that_of_repeated_estimates() -> None:
    rng = np.random.default_rng(0)
    drawn = [Estimate.of(rng.normal(0.1, 1.0, (2, 50))) for _ in range(2000)]
    spread = np.var([one.value for one in drawn])
    assert np.mean([one.variance for one in drawn]) == pytest.approx(spread, rel=0.1)


@pytest.fixture(scope="module")
def tier() -> tuple[NDArray[np.float32], Floats]:
    rng = np.random.default_rng(1)
    coordinates = rng.laplace(0.3, 1.0, (2000, 2)).astype(np.float32) * np.float32([1, 1e-3])
    weights = rng.random(2000)
    return coordinates, weights / weights.sum()


def test_axis_functions_are_orthonormal(tier: tuple[NDArray[np.float32], Floats]) -> None:
    coordinates, weights = tier
    found = AxisFunctions.of(coordinates, weights).at(coordinates)
    products = np.einsum("m,mak,maj->akj", weights, found, found)
    np.testing.assert_allclose(products, np.broadcast_to(np.eye(3), (2, 3, 3)), atol=1e-9)
    # The first is the coordinate in units of its root mean square.
    width = np.sqrt(weights @ np.square(coordinates, dtype=np.float64))
    np.testing.assert_allclose(found[:, :, 0], coordinates / width, rtol=1e-6)


def test_axis_functions_of_few_values() -> None:
    for values in ([[0.0], [0.0]], [[1.0], [1.0]], [[1.0], [2.0]]):
        found = AxisFunctions.of(np.array(values, np.float32), np.full(2, 0.5))
        products = np.einsum("mak,maj->akj", *[found.at(np.array(values, np.float32))] * 2) / 2
        kept = np.diag(products[0])
        assert np.isfinite(kept).all()
        assert kept == pytest.approx(np.round(kept))  # a function is normal, or left out


def test_first_order_change_of_the_loss_by_codes(tier: tuple[NDArray[np.float32], Floats]) -> None:
    # A gradient of that form: of every code the sum of its products is the change of the loss.
    coordinates, weights = tier
    shapes = AxisFunctions.of(coordinates, weights)
    moves = Moves.of(shapes, coordinates, weights)
    x = coordinates[:, 0].astype(np.float64)
    gradients = 0.2 + 0.7 * x - 0.4 * x.clip(-shapes.widths[0], shapes.widths[0])
    slopes = ((weights * gradients)[:, None, None] * shapes.at(coordinates)).sum(axis=0)
    one = np.ones(1)
    for coder in (
        Coder.none(),
        Coder.table(np.array([0.5]), 0),
        Coder.table(np.array([-1.0, 0.1, 2.0, 4.0]), 2),
    ):
        code = coder.assign(coordinates[:, :1], one)
        added = coder.decode(code)[:, 0].astype(np.float64) - x
        told = (moves.by(coder, one, 0) * slopes[:1]).sum()
        assert told == pytest.approx((weights * gradients * added).sum(), rel=1e-6)


def share(halves: Floats, variance: float) -> SlopeShare:
    count = halves.shape[1]
    tier = Estimate(halves[:, :, None] * np.ones(3), np.full((count, 3), variance))
    return share_of([tier], [np.ones(count)])


def test_the_share_is_confirmed_by_the_other_half() -> None:
    same = share(np.array([[3.0, -2.0], [3.0, -2.0]]), 0.0)
    assert (same.value, same.measured, same.error) == (1, 1, 0)
    # From the first half 4, of which 1 comes true; from the second 1, of which 4 does.
    other = share(np.array([[4.0], [1.0]]), 0.0)
    assert other.measured == pytest.approx((4 * 1 + 1 * 4) / (16 + 1))
    assert other.value == other.measured
    opposite = share(np.array([[3.0], [-3.0]]), 0.0)
    assert (opposite.value, opposite.measured) == (0, -1)
    rng = np.random.default_rng(0)
    noise = share(rng.normal(size=(2, 500)), 0.5)
    assert noise.value < 0.1
    assert share(np.zeros((2, 3)), 0.0).value == 0


@pytest.mark.parametrize("spread", [0.3, 1.0, 4.0])
def test_the_expected_error_of_slopes_as_used(spread: float) -> None:
    # Slopes of this spread, measured +- 1: drawn anew, their sums are off as far as told.
    rng, told, came = np.random.default_rng(7), 0.0, 0.0
    for _ in range(40):
        true = spread * rng.normal(size=(300, 3))
        halves = Estimate(true + 2**0.5 * rng.normal(size=(2, 300, 3)), np.ones((300, 3)))
        found = share_of([halves], [np.ones(300)])
        came += float(np.square(found.value * halves.believed() - true).mean()) / 40
        told += found.of_variance / 40
    assert 0.7 * came < told < 1.1 * came


def test_a_share_of_zero_is_known_to_its_error_only() -> None:
    assert SlopeShare(0.25, 0.25, 0.1).of_variance == 0.25
    assert SlopeShare(0.0, 0.1, 0.2).of_variance == 0.2
    assert SlopeShare(0.0, 0.0, np.inf).of_variance == 1
    assert SlopeShare(1.0, 1.5, 1.2).of_variance == 1


def test_errors_of_layouts_by_hand() -> None:
    # Two axes and tiers. A slope of variance 4 of which a quarter is taken is off by 1.
    share = SlopeShare(0.25, 0.25, 0.1)
    tiers = tuple(Estimate(np.zeros((2, 2, 3)), np.full((2, 3), 4.0)) for _ in range(2))
    slopes = FieldSlopes(tiers, (), share)

    def option(*moves: list[list[float]]) -> Option:
        ways = tuple(way(np.array(own)) for own in moves)
        return slopes.on(Option(1, 1.0, None), Layered(ways, 0, 0.0))

    one = option([[3, 0, 0], [0, 0, 0]], [[0, 0, 0], [0, 4, 0]])
    assert one.error == pytest.approx(5)
    other = option([[3, 0, 0], [0, 0, 0]], [[0, 0, 2], [0, 4, 0]])
    assert squared_error_between(one.noise, other.noise) == pytest.approx(2**2)
    # Both tiers joined move as they do alone: (axes, 3 of the first tier and 3 of the second).
    joined = option([[3, 0, 0, 0, 0, 0], [0, 0, 0, 0, 4, 0]])
    assert squared_error_between(one.noise, joined.noise) == 0


def way(moves: Floats) -> Way:
    """Of a tier whose axes are not coded; ``moves`` as of :class:`Way`."""
    unused = tuple((Offer(0, 0.0, (Coder.none(),), own[None]),) for own in moves)
    return Way(0, 0.0, 0, 0, 0, 0, 0, TierOffers(unused, {}), None, np.zeros(0, np.int64))


def test_bits_go_where_rows_generalise() -> None:
    fields, metrics = tables({"keeps": -1.0, "by heart": 0.4})
    plain = LossMetrics(dict(metrics), 1000, metrics.relative_errors)
    alike = saec.compress(fields, saec.Ratio(20), metrics=plain, progress=False)
    result = saec.compress(fields, saec.Ratio(20), metrics=metrics, progress=False)
    sizes = {name: field.entry for name, field in result.items()}
    assert alike.slope_shares == {}
    assert {name: own.value for name, own in result.slope_shares.items()} == {
        "keeps": pytest.approx(1),
        "by heart": pytest.approx(1),
    }
    nbytes = {name: entry_bytes(entry) for name, entry in sizes.items()}
    before = {name: entry_bytes(field.entry) for name, field in alike.items()}
    assert before["keeps"] == pytest.approx(before["by heart"], rel=0.15)
    assert nbytes["keeps"] > 1.2 * nbytes["by heart"]


@pytest.mark.parametrize(("direction", "factor"), [(-1.0, 3.0), (0.25, 0.5), (4.0, 0.1)])
def test_the_forecast_contains_slopes(direction: float, factor: float) -> None:
    fields, metrics = tables({"only": direction})
    plain = LossMetrics(dict(metrics), 1000, metrics.relative_errors)
    curves = [saec.forecast(fields, known, progress=False) for known in (plain, metrics)]
    assert [curve.labelled for curve in curves] == [False, True]
    assert "is not known" in repr(curves[0])
    assert "is not known" in curves[0]._repr_html_()
    assert "is not known" not in repr(curves[1])
    # Where all coordinates are given up, the first order is twice the second, times direction.
    largest = [float(curve.loss_increases.max()) for curve in curves]
    assert largest[1] / largest[0] == pytest.approx(factor, rel=0.02)
    result = saec.compress(fields, saec.Ratio(10), metrics=metrics, progress=False)
    rows, counts = fields[0].rows.read(0, 1000), fields[0].frequencies
    moved = result.lookup({"only": np.arange(1000)}) - rows.astype(np.float64)
    shares = counts / counts.sum()
    second = (shares @ np.square(moved)).sum() * 1e-3 / 2
    first = direction * (shares @ (rows * moved)).sum() * 1e-3
    # A tenth of the second order is left at least.
    expected = max(second + first, second / 10)
    assert result.predicted_loss_increase == pytest.approx(expected, rel=0.05)


def test_slopes_of_joined_tiers() -> None:
    # Ids in no order: the last tier may take the rows of several. What is told is what comes.
    fields, metrics = tables({"only": -1.0})
    order = np.random.default_rng(3).permutation(1000)
    rows, counts = fields[0].rows.read(0, 1000)[order], fields[0].frequencies[order]
    half = metrics.unseen["only"].halves[0]
    mixed = RowSums(np.arange(1000), half.sums[order])
    known = LossMetrics(
        dict(metrics),
        1000,
        metrics.relative_errors,
        {"only": UnseenGradients((mixed, mixed), 1000)},
    )
    measured = saec.measure([saec.Field("only", rows, counts)], metrics=known, progress=False)
    cut = set()
    for ratio in (8, 12, 20):
        result = saec.compress(measured, saec.Ratio(ratio), progress=False)
        field = result["only"]
        assert isinstance(field, TieredField)
        cut.add(len(field.layout.tiers))
        moved = result.lookup({"only": np.arange(1000)}) - rows.astype(np.float64)
        second = (counts @ np.square(moved)).sum() * 1e-3 / 2 / counts.sum()
        first = -(counts @ (rows * moved)).sum() * 1e-3 / counts.sum()
        assert result.predicted_loss_increase == pytest.approx(second + first, rel=0.1)
    assert min(cut) < 3  # of three tiers


def test_rows_that_never_occurred_say_nothing_of_others() -> None:
    fields, metrics = tables({"only": -1.0})
    rows, counts = fields[0].rows.read(0, 1000), fields[0].frequencies
    field = saec.Field(
        "only", np.append(rows, np.float32([[0.5, 0.5]]), axis=0), np.append(counts, 0)
    )
    half = metrics.unseen["only"].halves[0]
    more = RowSums(np.arange(1001), np.append(half.sums, np.float32([[99.0, 99.0]]), axis=0))
    known = LossMetrics(
        dict(metrics),
        1000,
        metrics.relative_errors,
        {"only": UnseenGradients((more, more), 1000)},
    )
    told = [
        saec.measure(own, saec.Axes(order="frequency"), metrics=each, progress=False)
        for own, each in ((fields, metrics), ([field], known))
    ]
    losses = [saec.compress(each, saec.Ratio(15), progress=False) for each in told]
    first, second = (each.predicted_loss_increase for each in losses)
    assert second == pytest.approx(first, rel=0.02)
