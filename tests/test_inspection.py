"""Properties of tables: by hand, and against the result of compression."""

from __future__ import annotations

import numpy as np
import pytest

import saec
from saec import BudgetError, Field, LossMetrics, MetricError, Ratio


def crossed(rows: int = 400) -> Field:
    """Rows (+-2, 0) and (0, +-1): variances 2 and 1/2 along the two directions."""
    corners = np.array([[2, 0], [-2, 0], [0, 1], [0, -1]], np.float32)
    return Field("crossed", np.tile(corners, (rows // 4, 1)), np.full(rows, 2))


def inspected(field: Field, metric: object = None, ratio: float = 4) -> saec.InspectedField:
    metrics = None if metric is None else {field.name: np.asarray(metric)}
    return saec.inspect([field], metrics, ratio, progress=False).fields[0]


def test_directions_by_hand() -> None:
    assert inspected(crossed()).directions == pytest.approx(2.5**2 / (2**2 + 0.5**2))
    # Stretched to equal variances, both count in full; the ridge hardly matters.
    assert inspected(crossed(), np.diag([0.1, 0.4])).directions == pytest.approx(2, rel=1e-5)
    assert inspected(crossed(), np.diag([1.0, 0.0])).directions == pytest.approx(1, rel=1e-3)


def test_frequencies_weigh_directions() -> None:
    rows = np.repeat(np.array([[2, 0], [-2, 0], [0, 1], [0, -1]], np.float32), 100, axis=0)
    field = Field("f", rows, np.repeat([1, 1, 4, 4], 100))
    # Variances 4 * 2 / 10 and 1 * 8 / 10 are equal.
    assert inspected(field).directions == pytest.approx(2)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e4])
def test_equal_rows_have_no_directions(value: float) -> None:
    field = Field("f", np.full((300, 3), value, np.float32), np.arange(1, 301))
    assert inspected(field).directions == 0


def test_features_seen_once_by_hand() -> None:
    counts = np.repeat([5, 1, 0], [100, 200, 100])
    seen = inspected(Field("crossed", crossed().weights, counts))
    assert (seen.vocab_size, seen.dim, seen.nbytes) == (400, 2, 400 * 2 * 4)
    assert seen.rows_once == 0.5
    assert seen.occurrences_once == pytest.approx(200 / 700)


@pytest.mark.parametrize("in_nats", [True, False])
def test_the_plan_is_what_compression_does(in_nats: bool) -> None:
    rng = np.random.default_rng(0)
    fields = [
        Field(name, rng.standard_normal((rows, 4), dtype=np.float32), 900 // np.arange(1, rows + 1))
        for name, rows in (("user", 700), ("item", 300))
        for rows in [rows]
    ]
    metrics = LossMetrics(
        {"user": np.diag([4e-3, 1e-3, 1e-4, 0]), "item": np.diag([1e-2, 1e-3, 0, 0])},
        100,
        {"user": 0.1, "item": 0.1},
    )
    given = metrics if in_nats else None
    plan = saec.inspect(fields, given, 10, progress=False)
    result = saec.compress(fields, Ratio(10), metrics=given, progress=False)
    assert plan.in_loss_metric is in_nats
    assert plan.nbytes == result.original_nbytes == 1000 * 4 * 4
    assert result.nbytes <= plan.planned_nbytes <= plan.nbytes / 10
    assert plan.planned_ratio == plan.nbytes / plan.planned_nbytes >= 10
    for field in plan.fields:
        # Its part of the description comes on top of the tensors.
        own = result[field.name].nbytes
        assert own * 0.95 <= field.planned_nbytes <= own + 100
        bits = 8 * field.planned_nbytes / field.vocab_size
        assert field.planned_bits_per_feature == pytest.approx(bits)
    if in_nats:
        loss = result.predicted_loss_increase
        assert plan.planned_loss_increase == pytest.approx(loss, rel=0.05)
    else:
        assert plan.planned_loss_increase is None


def test_nothing_is_changed() -> None:
    field = crossed()
    weights, counts = field.weights.copy(), field.frequencies.copy()
    inspected(field, np.eye(2))
    np.testing.assert_array_equal(field.weights, weights)
    np.testing.assert_array_equal(field.frequencies, counts)


def test_invalid_arguments_are_refused() -> None:
    with pytest.raises(BudgetError, match="a ratio must be a number of at least 1, not 0"):
        inspected(crossed(), ratio=0)
    with pytest.raises(BudgetError, match=r"Ratio\(value=5000\) allows 0 bytes; the smallest"):
        inspected(crossed(), ratio=5000)
    with pytest.raises(MetricError, match="'crossed': the metric is 3 x 3"):
        inspected(crossed(), np.eye(3))


def test_it_prints_as_a_table() -> None:
    seen = saec.inspect([crossed()], None, 4.0, progress=False)
    heading, row, *caption = str(seen).splitlines()
    assert heading.split()[:4] == ["field", "rows", "dim", "bytes"]
    assert row.split()[:4] == ["crossed", "400", "2", "3,200"]
    assert len(heading) == len(row)
    assert caption[0].startswith("3,200 bytes would become ")
    assert caption[1] == "directions: effective number in Euclidean distance"
