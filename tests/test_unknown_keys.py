"""Unknown keys whose wrong rows cost more, or less, than those of known ones."""

from __future__ import annotations

import numpy as np
import pytest
from daily_tables import DIM, METRIC, METRICS, Day
from keyed_example import keyed, random_keys
from numpy.typing import NDArray

import saec

DAY = Day.first(3000)
SHARE = 0.5

pytestmark = pytest.mark.usefixtures("coarse_prices")


def compressed(unknown: NDArray[np.float64] | None) -> saec.Compressed:
    known = {} if unknown is None else {"user": unknown}
    metrics = saec.LossMetrics(METRICS, 100, {"user": 0.1}, unknown=known)
    field = DAY.field(unseen_share=SHARE)
    return saec.compress([field], saec.Ratio(20), metrics=metrics, progress=False)


def harm(result: saec.Compressed, matrix: NDArray[np.float64]) -> float:
    """Nats that a lookup of an unknown key loses."""
    rows = result["user"].lookup(random_keys(400_000)).astype(np.float64)
    return float(np.einsum("nd,de,ne->n", rows, matrix, rows).mean() / 2)


@pytest.mark.parametrize(
    "unknown", [None, METRIC, 30 * METRIC, np.diag([1e-3, 1e-2, 4e-2, 5e-3]) + 1e-3]
)
def test_the_loss_of_unknown_keys_is_that_of_their_own_metric(
    unknown: NDArray[np.float64] | None,
) -> None:
    result = compressed(unknown)
    own = METRIC if unknown is None else unknown
    lost = (1 - SHARE) * DAY.nats(result["user"]) + SHARE * harm(result, own)
    assert result.predicted_loss_increase == pytest.approx(lost, rel=0.1)


def test_wrong_rows_get_rarer_where_they_cost_more() -> None:
    plain, same, dear = (compressed(own) for own in (None, METRIC, 30 * METRIC))
    assert keyed(same).false_positive_rate == pytest.approx(keyed(plain).false_positive_rate)
    assert keyed(dear).false_positive_rate < 0.3 * keyed(plain).false_positive_rate
    assert harm(dear, METRIC) < 0.5 * harm(plain, METRIC)


def test_a_matrix_for_unknown_keys_is_checked() -> None:
    with pytest.raises(saec.MetricError, match="unknown keys: field 'user': the metric is 2 x 2"):
        compressed(np.eye(2))
    with pytest.raises(
        saec.MetricError, match="unknown keys: field 'user': the metric is not positive"
    ):
        compressed(-METRIC)
    with pytest.raises(saec.MetricError, match="unknown keys of 'usre', which has no metric"):
        saec.LossMetrics(METRICS, 100, {"user": 0.1}, unknown={"usre": METRIC})
    with pytest.raises(saec.MetricError, match="the metric is <U1, not real numbers"):
        saec.LossMetrics(METRICS, 100, {"user": 0.1}, unknown={"user": [["a"]]})
    listed = saec.LossMetrics(METRICS, 100, {"user": 0.1}, unknown={"user": [[1, 2], [2, 5]]})
    assert listed.unknown["user"].dtype == np.float64
    # One that is all zero says nothing.
    nothing, plain = compressed(np.zeros((DIM, DIM))), compressed(None)
    assert nothing.predicted_loss_increase == plain.predicted_loss_increase
