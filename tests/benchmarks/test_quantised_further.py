"""benchmarks/quantised_further.py: small tables, decoded and compressed again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import quantised_further as further
import torch
from recorded_runs import RecordedRuns

from saec.reference.log import Log
from saec.reference.simulated import simulate
from saec.reference.small import SMALL
from saec.reference.small.training import SmallTraining
from saec.reference.training_settings import Training

pytestmark = pytest.mark.usefixtures("one_thread")

SHORT = Training(batch_size=100, max_epochs=1, evaluations_per_epoch=1)


@pytest.fixture(scope="module")
def log() -> Log:
    return simulate(1000, seed=1, keys=True)


@pytest.mark.exhaustive
@pytest.mark.parametrize("start", further.STARTS)
def test_decoded_models_predict_the_same(log: Log, start: str) -> None:
    small = SmallTraining.of(log, "deepfm", 4, 0)
    net, _ = small.trained(SMALL[start](), 2000, SHORT)
    plain = further.decoded(net, "deepfm", replace(log, keys=None))
    assert isinstance(plain.embeddings["user"], torch.nn.Embedding)
    ids = torch.from_numpy(log.ids[:200])
    with torch.no_grad():
        assert torch.allclose(plain(ids), net.eval()(ids), atol=1e-5)


def test_other_models_and_ratios_are_not_taken_for_recorded_ones(tmp_path: Path) -> None:
    runs = RecordedRuns(tmp_path / "runs.jsonl")
    key = {"task": "ml-1m", "model": "deepfm", "dim": 16, "seed": 0, "start": "dqrm"}
    runs.add({**key, "method": "axes", "target_ratio": 10.0})
    assert further.missing(runs, key, [10.0, 30.0]) == [10.0, 30.0]
    runs.add({**key, "method": "axes-remapped", "target_ratio": 10.0})
    assert further.missing(runs, key, [10.0, 30.0]) == [30.0]
    assert further.missing(runs, {**key, "dim": 32}, [10.0]) == [10.0]


@pytest.mark.exhaustive
def test_sizes_are_those_of_each_form(log: Log) -> None:
    first, *others = further.measured(log, "deepfm", 4, "dqrm", [14.0], 0, SHORT, False)
    assert (first["method"], 5 < first["ratio"] < 8) == ("none", True)
    assert [(row["method"], row["target_ratio"]) for row in others] == [
        ("axes", 14.0),
        ("axes-remapped", 14.0),
    ]
    for row in others:
        assert row["ratio"] >= 14
        assert abs(row["auc"] - first["auc"]) < 0.2
    lines = [{"start": "dqrm", "seed": 0, **row} for row in (first, *others)]
    assert further.table(lines).count("\n| `dqrm` |") == 3
