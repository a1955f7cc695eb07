"""Forecasts for rows to which bits are fitted: by hand, and as compress_ makes them."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import saec
import saec.torch
from saec import DataError
from saec.codecs.protocol import Option
from saec.torch import MeasuredIncrease, loss_metrics, measure_loss_increase
from saec.torch.measure.calibration import Shares
from saec.torch.measure.judging_rows import JudgingRows


class Told:
    """Rows on which 0.004 nats are measured, whatever the tables."""

    def __init__(self, divergence: float) -> None:
        self._divergence = divergence

    def of(self, _: object) -> MeasuredIncrease:
        return MeasuredIncrease(0.004, 0.001, 1000, divergence=self._divergence)


@pytest.mark.parametrize(
    ("forecast", "value", "believed"),
    [
        (-0.002, 0.003 + (0.001 - 0.002) / 2, 0.0025),
        (-0.011, 0.003 + (0.001 - 0.011) / 2, 0.1 * 0.003),  # more than there is
    ],
)
def test_the_first_order_part_is_the_mean_of_shown_and_forecast(
    forecast: float, value: float, believed: float
) -> None:
    chosen = [
        Option(8, 0.002, None),
        Option(8, 0.0005 + forecast, None, by_slopes=forecast, first_order=forecast),
    ]
    told: Any = Told(0.003)
    nothing = saec.Compressed([])
    rows = JudgingRows(told, fitted=True)
    found = rows.increase(nothing, chosen)
    assert found.value == pytest.approx(value)
    assert rows.believed(found) == pytest.approx(believed)
    assert (found.explained, found.explained_error) == (0.003, 0.0)
    assert found.standard_error == 0.001
    others = JudgingRows(told)
    assert others.believed(others.increase(nothing, chosen)) == 0.004


def test_a_tenth_of_the_divergence_is_left_where_other_sizes_tell_the_rest() -> None:
    # Noise hides the increases, and first-order parts of all sizes take more than there is.
    rows, shares = JudgingRows(Told(0.0), fitted=True), Shares()  # type: ignore[arg-type]
    for forecast, divergence in ((1e-5, 1.2e-5), (3e-5, 9e-5), (9e-5, 40e-5)):
        seen = MeasuredIncrease(-0.2 * divergence, 2e-5, 1000, explained=divergence)
        shares.add(forecast, seen)
    expected = shares.expected(1e-5)
    assert expected.value < 0
    assert rows.believed(expected) == pytest.approx(0.1 * 1.2e-5)


class Clicks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        self.user = nn.Embedding(400, 4, _weight=0.5 * torch.randn(400, 4, generator=generator))

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.user(ids).sum(1)
        return logits


def batches_of(count: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Labels by logits 15 % smaller than the model's: rows were learned by heart."""
    generator = torch.Generator().manual_seed(seed)
    ids = (400 * torch.rand(count, generator=generator) ** 2).long()
    with torch.no_grad():
        truth = torch.sigmoid(0.85 * Clicks()(ids))
    labels = torch.bernoulli(truth, generator=generator)
    return list(zip(ids.split(1000), labels.split(1000), strict=True))


@pytest.mark.parametrize("keys", [None, {"user": 7 * np.arange(400)}])
def test_an_increase_is_predicted_from_what_unseen_rows_show_and_their_slopes(keys: Any) -> None:
    model, train, unseen = Clicks(), batches_of(8000, 3), batches_of(8000, 4)
    counts = {"user": np.bincount(torch.cat([ids for ids, _ in train]), minlength=400)}
    metrics = loss_metrics(model, train, unseen=unseen, progress=False)
    fields = saec.torch.fields(model, counts, keys=keys)
    chosen = saec.measure(fields, metrics=metrics, progress=False).chosen(saec.Ratio(12))
    first = sum(option.first_order for option in chosen)
    result = saec.torch.compress_(
        copy.deepcopy(model),
        train,
        budget=saec.Ratio(12),
        frequencies=counts,
        unseen=unseen,
        keys=keys,
        progress=False,
    )
    labelled, without = (
        measure_loss_increase(model, result, unseen, labelled=own, keys=keys)
        for own in (True, False)
    )
    assert labelled.divergence == without.divergence == pytest.approx(without.value)
    divergence, shown = without.value, labelled.value - without.value
    assert first < 0
    assert shown < 0
    assert divergence + (first + shown) / 2 > 0.1 * divergence
    assert result.predicted_loss_increase == pytest.approx(
        divergence + (first + shown) / 2, rel=1e-6
    )


def test_a_budget_in_loss_is_met_by_that_prediction() -> None:
    model, train, unseen = Clicks(), batches_of(8000, 3), batches_of(8000, 4)
    wanted = 2e-3
    counts = {"user": np.bincount(torch.cat([ids for ids, _ in train]), minlength=400)}
    given: Any = {"frequencies": counts, "unseen": unseen, "progress": False}
    metrics = loss_metrics(model, train, unseen=unseen, progress=False)
    priced = saec.measure(saec.torch.fields(model, counts), metrics=metrics, progress=False)
    plan = saec.compress(priced, saec.LossIncrease(wanted), progress=False)
    result = saec.torch.compress_(
        copy.deepcopy(model), train, budget=saec.LossIncrease(wanted), **given
    )
    again = saec.torch.compress_(
        copy.deepcopy(model), train, budget=saec.MaxBytes(result.nbytes), **given
    )
    assert again.nbytes == result.nbytes
    assert again.predicted_loss_increase == pytest.approx(wanted, rel=0.05)
    # The plan meets the budget by its own forecast, which is another one.
    assert plan.predicted_loss_increase is not None
    assert plan.predicted_loss_increase <= wanted
    assert abs(plan.nbytes - result.nbytes) > 0.05 * result.nbytes


@pytest.mark.parametrize("kind", ["shuffled", "squared error"])
def test_without_a_divergence_the_plan_predicts(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr("saec.torch.compress.JudgingRows", None)  # is not called
    model, train, unseen = Clicks(), batches_of(8000, 3), batches_of(8000, 4)
    loss_fn = functional.mse_loss if kind == "squared error" else None
    counts = {"user": np.bincount(torch.cat([ids for ids, _ in train]), minlength=400)}
    data = torch.utils.data.TensorDataset(*(torch.cat(part) for part in zip(*unseen, strict=True)))
    rows = torch.utils.data.DataLoader(data, 1000, shuffle=kind == "shuffled")
    result = saec.torch.compress_(
        copy.deepcopy(model),
        train,
        loss_fn,
        saec.Ratio(12),
        frequencies=counts,
        unseen=rows,
        progress=False,
    )
    metrics = loss_metrics(model, train, loss_fn, unseen=rows, progress=False)
    plan = saec.compress(
        saec.torch.fields(model, counts), saec.Ratio(12), metrics=metrics, progress=False
    )
    assert result.predicted_loss_increase == pytest.approx(plan.predicted_loss_increase, rel=0.5)


def test_unseen_rows_are_needed_more_than_once() -> None:
    with pytest.raises(DataError, match="unseen must be iterable more than once"):
        saec.torch.compress_(
            Clicks(), batches_of(1000, 3), budget=saec.Ratio(4), unseen=iter(batches_of(1000, 4))
        )


def test_rows_in_another_order_each_time_have_no_divergence() -> None:
    model, train = Clicks(), batches_of(3000, 3)
    data = torch.utils.data.TensorDataset(*(torch.cat(part) for part in zip(*train, strict=True)))
    shuffled = torch.utils.data.DataLoader(data, 500, shuffle=True)
    result = saec.compress(
        saec.torch.fields(model, {"user": np.ones(400)}), saec.Ratio(8), progress=False
    )
    found, fixed = (
        measure_loss_increase(model, result, own, labelled=True) for own in (shuffled, train)
    )
    assert found.value == pytest.approx(fixed.value, rel=1e-5)
    assert found.divergence is None
    assert fixed.divergence is not None
    assert math.isfinite(fixed.divergence)
