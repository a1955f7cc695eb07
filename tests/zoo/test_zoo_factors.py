"""Factors of matrix factorisations: implicit's, which are arrays, and those of a module."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch.nn import functional
from zoo_factors import evaluate, learned, measured, other_side
from zoo_models import Factors

import saec
from saec.reference.log import Log
from saec.torch import fields, loss_metrics

implicit = pytest.mark.skipif(
    find_spec("implicit") is None,
    reason="implicit is not installed: make test-zoo",
)


def test_the_metric_of_one_side_by_hand() -> None:
    # Items (1, 0) and (1, 2): the mean square of d . v is (d0^2 + (d0 + 2 d1)^2) / 2.
    metric = other_side(np.array([[1, 0], [1, 2]], dtype=np.float32))
    np.testing.assert_allclose(metric, [[2, 2], [2, 4]])
    delta = np.array([3.0, 1.0])
    assert delta @ metric @ delta / 2 == pytest.approx((9 + 25) / 2)


def test_the_metric_of_a_module_in_squared_error_is_the_same_by_gradients() -> None:
    torch.manual_seed(0)
    model = Factors(users=6, movies=5, dim=3)
    users, movies = torch.cartesian_prod(torch.arange(6), torch.arange(5)).unbind(1)
    batches = [((users, movies), None)]
    for loss_fn in (functional.mse_loss, torch.nn.MSELoss()):
        metrics = loss_metrics(model, batches, loss_fn, progress=False)
        expected = other_side(model.movie.weight.detach().numpy())
        np.testing.assert_allclose(metrics["user"], expected, rtol=1e-5)
        np.testing.assert_allclose(metrics["bias.user"], [[2.0]], rtol=1e-6)


def test_the_predicted_increase_is_that_of_the_squared_error() -> None:
    torch.manual_seed(0)
    model = Factors(users=300, movies=200, dim=8)
    users, movies = torch.cartesian_prod(torch.arange(300), torch.arange(200)).unbind(1)
    counts = {"user": np.ones(300)}
    metrics = loss_metrics(
        model, [((users, movies), None)], functional.mse_loss, names=counts, progress=False
    )
    with torch.no_grad():
        labels = model(users, movies)  # the residuals are those of compression alone
        result = saec.compress(
            fields(model, counts), saec.Ratio(5), metrics=metrics, progress=False
        )
        saec.torch.replace_embeddings_(model, result)
        increase = float(functional.mse_loss(model(users, movies), labels))
    assert result.predicted_loss_increase == pytest.approx(increase, rel=0.02)


@implicit
@pytest.mark.filterwarnings("ignore")
def test_factors_of_alternating_least_squares(log: Log) -> None:
    factors = learned(log, dim=16, seed=0)
    assert 0.5 < evaluate(factors, log)["auc"] < 1
    (row,) = measured(log, [5.0], 16, 0)
    assert row["ratio"] >= 5
    assert abs(row["d_auc"]) < 0.1
    assert row["restores"]
