"""Clusters with slopes on unseen rows: first-order terms by hand, and where bytes go."""

from __future__ import annotations

import numpy as np
import pytest
from sloped_tables import tables

import saec
from saec.clustering.rowmap import RowMap
from saec.codecs.clusters.choice import ClustersChoice
from saec.codecs.clusters.distortion_curve import DistortionCurve, offered
from saec.codecs.clusters.judged_rows import surveyed
from saec.codecs.clusters.judged_slopes import JudgedSlopes
from saec.format.clustered_field import ClusteredField
from saec.streaming.scratch import IN_MEMORY
from saec.tables.loss_metric import LossMetrics, Metric, check_metrics
from saec.tables.unseen_gradients import RowSums, UnseenGradients


@pytest.fixture(scope="module")
def slopes() -> JudgedSlopes:
    fields, metrics = tables({"only": -0.5})
    survey = surveyed(fields[0], np.random.default_rng(1), IN_MEMORY)
    metric = check_metrics(fields, metrics)["only"]
    found = JudgedSlopes.of(fields[0], metric, survey, RowMap(), IN_MEMORY)
    assert found is not None
    return found


def test_first_order_of_judged_rows(slopes: JudgedSlopes, rng: np.random.Generator) -> None:
    fields, metrics = tables({"only": -0.5})
    field, metric = fields[0], check_metrics(fields, metrics)["only"]
    survey = surveyed(field, rng, IN_MEMORY)
    assert [len(tier.places) for tier in slopes.tiers] == [64, 192, 744]
    assert slopes.share.value == pytest.approx(1)
    # The loss changes by -0.5 x metric x row . change: half of it if all rows are halved.
    rows, shares = survey.samples[0].rows, field.frequencies / field.frequencies.sum()
    whole = 0.5 * (shares @ np.square(rows, dtype=np.float64)).sum() * 1e-3
    added, expected, errors = slopes.added(rows / 2)
    assert (added, expected) == pytest.approx((whole / 2, whole / 2), rel=1e-2)
    assert errors == pytest.approx(np.zeros(slopes.errors), abs=1e-6 * whole)
    assert slopes.added(rows)[0] == pytest.approx(0, abs=1e-5 * whole)
    assert JudgedSlopes.of(field, Metric(metric.matrix), survey, RowMap(), IN_MEMORY) is None


def test_errors_of_judged_rows() -> None:
    # Halves that say 0.9 and 1.1 times the same: what a row adds is known +- a tenth of it.
    fields, metrics = tables({"only": -0.5})
    half = metrics.unseen["only"].halves[0]
    one, other = (RowSums(half.ids, half.sums * np.float32(factor)) for factor in (0.9, 1.1))
    unseen = {"only": UnseenGradients((one, other), 1000)}
    known = LossMetrics(dict(metrics), 1000, metrics.relative_errors, unseen)
    survey = surveyed(fields[0], np.random.default_rng(1), IN_MEMORY)
    metric = check_metrics(fields, known)["only"]
    slopes = JudgedSlopes.of(fields[0], metric, survey, RowMap(), IN_MEMORY)
    assert slopes is not None
    # All rows become their mean: a row adds minus its gradient times its coordinate on each axis.
    rows, counts = survey.samples[0].rows.astype(np.float64), fields[0].frequencies
    mean = (counts @ rows / counts.sum()).astype(np.float32)
    _, _, errors = slopes.added(np.tile(mean, (1000, 1)))
    axes = slopes.frame.stored[:-1].astype(np.float64)
    gradients = 2 * half.sums.astype(np.float64) @ axes.T / 1000
    expected = [
        0.1 * np.linalg.norm(gradients[tier.places] * tier.coordinates, axis=0)
        for tier in slopes.tiers
    ]
    share = slopes.share.of_variance
    assert 0.9 < share <= 1
    np.testing.assert_allclose(errors, share**0.5 * np.concatenate(expected), rtol=1e-3)


def test_a_curve_with_slopes_by_hand(slopes: JudgedSlopes) -> None:
    sizes, far = np.array([1, 4]), np.zeros(2)
    curve = DistortionCurve(
        4,
        sizes,
        np.array([16.0, 4.0]),
        far,
        slopes=np.array([[-0.5, -0.1], [-1.0, -0.2], [0.2, 0.4], [0.8, 0]]),
    )
    # At 2, halfway between 1 and 4 in logarithms.
    np.testing.assert_allclose(
        curve.slopes_at(np.array([1, 2, 4])),
        [[-0.5, -0.3, -0.1], [-1.0, -0.6, -0.2], [0.2, 0.3, 0.4], [0.8, 0.4, 0]],
    )
    two = next(one for one in offered({1: curve}, lambda _: [1]) if one.clusters == 2)
    assert (two.added, two.first, *two.errors) == pytest.approx((-0.3, -0.6, 0.3, 0.4))
    # The distortion is 8, halfway in logarithms; a unit of it costs 2 nats.
    whole = ClustersChoice(4, 1, None, 2.0, RowMap())
    option = two.option(5, two.chosen(whole), 1.0, slopes)
    assert option.loss == pytest.approx(2 * (8 * (1 - 0.3) + 1))
    assert (option.second_order, option.first_order) == pytest.approx((2 * 9, 2 * 8 * -0.6))
    assert option.error == pytest.approx(2 * 8 * 0.5)
    assert option.share is slopes.share


def test_bytes_go_where_rows_generalise() -> None:
    fields, metrics = tables({"keeps": -1.0, "by heart": 0.4})
    codec = saec.Clusters(iterations=3)
    result = saec.compress(fields, saec.Ratio(8), codec, metrics=metrics, progress=False)
    assert {name: own.value for name, own in result.slope_shares.items()} == {
        "keeps": pytest.approx(1),
        "by heart": pytest.approx(1),
    }
    clusters = {}
    for name, field in result.items():
        assert isinstance(field, ClusteredField)
        clusters[name] = field.codebook.clusters
    assert clusters["keeps"] > 1.3 * clusters["by heart"]


@pytest.mark.parametrize("direction", [-1.0, 0.25])
def test_the_forecast_of_clusters_contains_slopes(direction: float) -> None:
    fields, metrics = tables({"only": direction})
    codec = saec.Clusters(iterations=3)
    result = saec.compress(fields, saec.Ratio(8), codec, metrics=metrics, progress=False)
    rows, counts = fields[0].rows.read(0, 1000), fields[0].frequencies
    moved = result.lookup({"only": np.arange(1000)}) - rows.astype(np.float64)
    second = (counts @ np.square(moved)).sum() * 1e-3 / 2 / counts.sum()
    first = direction * (counts @ (rows * moved)).sum() * 1e-3 / counts.sum()
    assert result.predicted_loss_increase == pytest.approx(second + first, rel=0.1)
