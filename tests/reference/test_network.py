"""A network that is trained on while its tables stay."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from saec.codecs.axes.codec import Axes
from saec.compression.budget import Ratio
from saec.reference.evaluate import evaluate
from saec.reference.job import Job, Method
from saec.reference.network import kept_network, train_network
from saec.reference.simulated import simulate
from saec.reference.trial import Trial


@pytest.fixture(scope="module")
def trial() -> Trial:
    return Trial.start(simulate(2000, seed=1), "deepfm", 4, 0, False)


def state(trial: Trial) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trial.model.state_dict().items()}


def test_the_network_learns_and_tables_stay(trial: Trial) -> None:
    before = state(trial)
    with kept_network(trial.model):
        with torch.no_grad():
            for name, value in trial.model.named_parameters():
                if not name.startswith("embeddings."):
                    value.normal_(std=0.1)
        spoilt = evaluate(trial.model, trial.log, "validation", progress=False).logloss
        train_network(trial.model, trial.log, trial.log.ids, seed=0, progress=False)
        learned = evaluate(trial.model, trial.log, "validation", progress=False).logloss
        for name, value in trial.model.embeddings.named_parameters():
            assert torch.equal(value, before[f"embeddings.{name}"])
    assert learned < spoilt - 0.01
    after = state(trial)
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_the_state_before_is_kept_if_no_later_one_is_better(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saec.reference.network.LEARNING_RATE", 1e3)
    before = state(trial)
    train_network(trial.model, trial.log, trial.log.ids, seed=0, progress=False)
    after = state(trial)
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_it_is_measured_with_the_tables_of_the_job(trial: Trial) -> None:
    job = Job("axes", Method(Axes(), metric=True), Ratio(12))
    (plain,) = trial.rows([job])
    before = state(trial)
    fresh = replace(trial)  # which has predicted nothing yet
    result, _ = fresh.compress(job)
    with fresh.holding(result):
        row = fresh.with_network_trained(result)
    assert row["divergence"] > 0
    assert row["nbytes"] == plain["nbytes"]
    assert row["validation_logloss"] <= plain["validation_logloss"]
    assert np.isfinite(row["auc"])
    after = state(trial)
    assert all(torch.equal(after[name], value) for name, value in before.items())
