"""The loss metric: accepted matrices, their roots, and names."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saec import Field, MetricError, MetricWarning
from saec.tables.loss_metric import LossMetrics, Metric, check_metrics


def _field(name: str, dim: int) -> Field:
    return Field(name, np.zeros((3, dim), np.float32), np.ones(3))


def test_a_metric_by_hand() -> None:
    # The ridge is 1e-3 times the mean eigenvalue, 5.
    metric = Metric.of([[8.995, 0], [0, 0.995]], "user", 2)
    ridge = 1e-3 * 4.995
    np.testing.assert_allclose(metric.matrix, np.diag([8.995 + ridge, 0.995 + ridge]))
    np.testing.assert_allclose(metric.root, np.diag([3, 1]), rtol=1e-4)
    row = np.array([1.0, 2.0])
    moved = row @ metric.root
    assert 0.5 * moved @ moved == pytest.approx(0.5 * (9 + 4), rel=1e-4)


def test_a_rank_one_metric_by_hand() -> None:
    # g = (3, 4): G = g g' has the root g g' / 5 and, with its ridge, an inverse.
    metric = Metric.of(np.outer([3.0, 4.0], [3.0, 4.0]), "user", 2)
    ridge = 1e-3 * 25 / 2
    unit, other = np.array([0.6, 0.8]), np.array([-0.8, 0.6])
    np.testing.assert_allclose(unit @ metric.root, unit * np.sqrt(25 + ridge))
    np.testing.assert_allclose(other @ metric.root, other * np.sqrt(ridge), atol=1e-12)
    np.testing.assert_allclose(metric.root @ metric.inverse_root, np.eye(2), atol=1e-12)


@given(st.integers(1, 20), st.integers(0, 1000), st.floats(1e-12, 1e12))
def test_roots_fit_the_matrix(dim: int, seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    factor = rng.standard_normal((dim, rng.integers(1, dim + 1)))
    metric = Metric.of(scale * factor @ factor.T, "f", dim)
    assert metric.dim == dim
    assert metric.root.dtype == np.float64
    np.testing.assert_allclose(metric.root, metric.root.T, atol=1e-12 * metric.root.max())
    square = metric.root @ metric.root
    np.testing.assert_allclose(square, metric.matrix, atol=1e-9 * metric.matrix.max())
    np.testing.assert_allclose(metric.inverse_root @ metric.root, np.eye(dim), atol=1e-8)


def test_the_euclidean_metric_changes_nothing() -> None:
    metric = Metric.euclidean(3)
    for matrix in (metric.matrix, metric.root, metric.inverse_root):
        np.testing.assert_array_equal(matrix, np.eye(3))


def test_rounding_is_forgiven_and_the_input_is_not_changed() -> None:
    matrix = np.diag([1.0, 1.0, -1e-8])
    matrix[0, 1] = 1e-9
    before = matrix.copy()
    metric = Metric.of(matrix, "f", 3)
    np.testing.assert_array_equal(matrix, before)
    np.testing.assert_array_equal(metric.matrix, metric.matrix.T)
    assert np.linalg.eigvalsh(metric.matrix)[0] > 0


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.eye(3), "the metric is 3 x 3; the table of dim 2 needs 2 x 2"),
        (np.ones((2, 3)), "the metric is 2 x 3; the table of dim 2 needs 2 x 2"),
        (np.ones(2), "the metric is 2; the table of dim 2"),
        (1.0, "the metric is a number; the table of dim 2"),
        ([[1, 0], [0, np.nan]], "the metric holds nan at row 1, column 1"),
        ([[1, np.inf], [np.inf, 1]], "the metric holds inf at row 0, column 1"),
        ([[1, 2], [0, 1]], "not symmetric: entries of up to 2 differ .* by 2"),
        ([[1, 0], [0, -0.5]], "not positive semi-definite: its eigenvalues reach from -0.5 to 1"),
        ([[-1, 0], [0, -2]], "its eigenvalues reach from -2 to -1"),
        ([[0, 0], [0, 0]], "the metric is all zero"),
        ([[1j, 0], [0, 1]], "the metric is complex128, not real numbers"),
        ([["a", "b"], ["c", "d"]], "the metric is <U1, not real numbers"),
    ],
)
def test_what_is_no_metric_is_refused_with_the_fields_name(matrix: object, message: str) -> None:
    with pytest.raises(MetricError, match=f"field 'user': .*{message}"):
        Metric.of(matrix, "user", 2)  # type: ignore[arg-type]


def test_check_metrics_keeps_the_order_of_the_fields() -> None:
    metrics = check_metrics(
        [_field("user", 2), _field("item", 3)], {"item": np.eye(3), "user": 2 * np.eye(2)}
    )
    assert list(metrics) == ["user", "item"]
    np.testing.assert_allclose(metrics["user"].matrix, 2.002 * np.eye(2))
    np.testing.assert_allclose(metrics["item"].matrix, 1.001 * np.eye(3))


def test_names_must_be_those_of_the_fields() -> None:
    fields = [_field("user", 2), _field("item", 2), _field("city", 2)]
    with pytest.raises(MetricError, match="no metric for 'city', 'item'"):
        check_metrics(fields, {"user": np.eye(2)})
    extra = {name: np.eye(2) for name in ("user", "item", "city", "day")}
    with pytest.raises(MetricError, match=re.escape("what is not compressed: 'day'")):
        check_metrics(fields, extra)
    with pytest.raises(MetricError, match="field 'city': the metric is 3 x 3"):
        check_metrics(fields[2:], {"city": np.zeros((3, 3))})


def test_a_zero_metric_falls_back_to_the_smallest_of_the_others() -> None:
    fields = [_field("user", 2), _field("item", 4), _field("city", 3)]
    given = {"user": 5 * np.eye(2), "item": np.zeros((4, 4)), "city": np.eye(3)}
    with pytest.warns(MetricWarning, match="field 'item': the metric is all zero.*Euclidean"):
        metrics = check_metrics(fields, given)
    assert list(metrics) == ["user", "item", "city"]
    # The trace of the city's, with its ridge, spread over four directions.
    np.testing.assert_allclose(metrics["item"].matrix, 3 * 1.001 / 4 * np.eye(4))


def test_zero_metrics_alone_have_trace_one() -> None:
    with pytest.warns(MetricWarning) as caught:
        metrics = check_metrics(
            [_field("a", 2), _field("b", 4)], {"a": np.zeros((2, 2)), "b": np.zeros((4, 4))}
        )
    assert len(caught) == 2
    np.testing.assert_allclose(metrics["a"].matrix, np.eye(2) / 2)
    np.testing.assert_allclose(metrics["b"].matrix, np.eye(4) / 4)


def test_loss_metrics_are_a_mapping_that_prints_a_line_for_each_field() -> None:
    metrics = LossMetrics(
        {"user": np.eye(2), "item": np.zeros((3, 3))}, 4096, {"user": 0.0123, "item": float("inf")}
    )
    assert (list(metrics), len(metrics), metrics.examples) == (["user", "item"], 2, 4096)
    assert repr(metrics) == (
        "LossMetrics(2 fields, 4096 examples)\n"
        "  user: dim 2, trace 2 +- 1.2 %\n"
        "  item: dim 3, trace 0 +- inf %"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MetricWarning)
        check_metrics([_field("user", 2), _field("item", 3)], metrics)
