"""Losses whose curvature needs no labels, for logits, probabilities and other outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import saec
from saec.errors import ModuleError
from saec.format.compressed import Compressed
from saec.torch import compress_, loss_metrics, measure_loss_increase

Make = Callable[..., Any]


def increase(*arguments: Any, **options: Any) -> float:
    """The value of the measured increase."""
    return measure_loss_increase(*arguments, **options).value


class Probabilities(nn.Module):
    """A model that ends with a sigmoid, as published click models do; its inputs have names."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return torch.sigmoid(self.model(inputs["user"], inputs["tags"]))[:, None]


@pytest.fixture
def named(click_inputs: Make) -> Make:
    """Makes labelled batches by name for the click model."""

    def make(count: int = 4) -> list[tuple[dict[str, Tensor], Tensor]]:
        return [
            (dict(zip(("user", "tags"), click_inputs(64, seed), strict=True)), torch.ones(64))
            for seed in range(count)
        ]

    return make


@pytest.mark.parametrize("loss_fn", [functional.binary_cross_entropy, nn.BCELoss()])
def test_probabilities_are_measured_as_their_logits(
    loss_fn: Any, click_model: Make, named: Make
) -> None:
    plain = [((inputs["user"], inputs["tags"]), None) for inputs, _ in named()]
    expected = loss_metrics(click_model(), plain, progress=False)
    unlabelled = [(inputs, None) for inputs, _ in named()]
    found = loss_metrics(Probabilities(click_model()), unlabelled, loss_fn, progress=False)
    for name in expected:
        np.testing.assert_allclose(found[f"model.{name}"], expected[name], rtol=1e-4, atol=1e-9)


def test_weighted_probabilities_are_not(click_model: Make, named: Make) -> None:
    model = Probabilities(click_model())
    weighted = nn.BCELoss(weight=torch.full((64, 1), 2.0))
    batches = [(inputs, labels[:, None]) for inputs, labels in named()]
    by_labels = loss_metrics(model, batches, weighted, progress=False)
    expected = loss_metrics(model, batches, nn.BCELoss(), progress=False)
    assert not np.allclose(by_labels["model.user"], expected["model.user"], rtol=0.1)


@pytest.mark.parametrize("labelled", [False, True])
def test_increases_by_probabilities_are_those_by_logits(
    labelled: bool, click_model: Make, clustered: Make, named: Make
) -> None:
    plain = [((inputs["user"], inputs["tags"]), labels) for inputs, labels in named()]
    result = Compressed([clustered("user", 30)])
    expected = increase(click_model(), result, plain, labelled=labelled)
    renamed = Compressed([clustered("model.user", 30)])
    model, loss_fn = Probabilities(click_model()), functional.binary_cross_entropy
    found = increase(model, renamed, named(), loss_fn, labelled=labelled)
    assert found == pytest.approx(expected, rel=1e-4)


def test_a_probability_of_one_gives_a_finite_loss() -> None:
    class Certain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.user = nn.Embedding(4, 2)

        def forward(self, ids: Tensor) -> Tensor:
            return torch.sigmoid(100 + self.user(ids).sum(1))

    batches = [(torch.arange(4), None)]
    metrics = loss_metrics(Certain(), batches, functional.binary_cross_entropy, progress=False)
    assert np.isfinite(metrics["user"]).all()


def test_a_model_fed_by_names_is_compressed_in_one_call(click_model: Make, named: Make) -> None:
    model = Probabilities(click_model())
    result = compress_(
        model, named(), nn.BCELoss(), saec.LossIncrease(1e-2), calibration=None, progress=False
    )
    assert set(result) == {"model.user", "model.tags"}


def test_the_squared_error_needs_no_labels_by_hand() -> None:
    # 1/2 delta' (2 a a') delta is the square of a . delta.
    class Score(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.user = nn.Embedding(4, 2)

        def forward(self, ids: Tensor) -> Tensor:
            return self.user(ids) @ torch.tensor([1.0, 3.0])

    for loss_fn in (functional.mse_loss, nn.MSELoss()):
        metrics = loss_metrics(Score(), [(torch.arange(4), None)], loss_fn, progress=False)
        np.testing.assert_allclose(metrics["user"], [[2, 6], [6, 18]], rtol=1e-6)
    # The sum is not the mean over a batch that is expected of a loss, so it uses labels.
    labelled = [(torch.arange(4), torch.ones(4))]
    summed = loss_metrics(Score(), labelled, nn.MSELoss(reduction="sum"), progress=False)
    assert not np.allclose(summed["user"], [[2, 6], [6, 18]], rtol=0.1)


class Wasteful(nn.Module):
    """Looks up rows twice, and uses them once or never."""

    def __init__(self, uses: bool) -> None:
        super().__init__()
        self.user = nn.Embedding(4, 2)
        self.out = nn.Linear(2, 1)
        self.uses = uses

    def forward(self, ids: Tensor) -> Tensor:
        self.user(ids)
        rows = self.user(ids) if self.uses else torch.ones(len(ids), 2)
        logits: Tensor = self.out(rows).squeeze(1)
        return logits


def test_a_lookup_that_is_not_used_is_left_out() -> None:
    metrics = loss_metrics(Wasteful(uses=True), [(torch.arange(4), None)], progress=False)
    assert np.linalg.matrix_rank(metrics["user"]) > 0
    with pytest.raises(ModuleError, match="no gradient reaches the output of embedding 'user'"):
        loss_metrics(Wasteful(uses=False), [(torch.arange(4), None)], progress=False)
