"""Rivals in ``saec bench``: a model gets their rows and then its own again."""

from __future__ import annotations

import pytest
import torch

import saec
from saec.reference.job import Job
from saec.reference.methods import method_of
from saec.reference.simulated import simulate
from saec.reference.trial import Trial


@pytest.mark.exhaustive
def test_the_model_holds_decoded_rows_and_then_its_own() -> None:
    trial = Trial.start(simulate(2000, seed=1), "deepfm", 4, 0, False)
    before = {name: value.clone() for name, value in trial.model.state_dict().items()}
    jobs = [
        Job("int2", method_of("int2"), None),
        Job("svd", method_of("svd"), saec.Ratio(3)),
    ]
    for job, row in zip(jobs, trial.rows(jobs), strict=True):
        result = trial.compress(job)[0]
        assert row["nbytes"] == result.nbytes
        features = sum(field.vocab_size for field in result.values())
        assert row["bytes_all_in"] == result.nbytes + 8 * features
        assert row["ratio"] >= (job.budget.value if isinstance(job.budget, saec.Ratio) else 1.5)
        assert row["divergence"] > 0
        name = "embeddings.user"
        with trial.holding(result):
            rows = trial.model.state_dict()[f"{name}.weight"].numpy()
            assert (rows == result[name].decode()).all()
    after = trial.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_rivals_are_not_tuned() -> None:
    with pytest.raises(saec.OptionError, match="int4 has nothing to tune"):
        method_of("int4+finetune")
