"""benchmarks/dqrm_gradients.py: two processes train as one would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.exhaustive

# Forks from a process without threads; the parent of the tests has some.
SCRIPT = """
import sys, torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from dqrm_gradients import MODES, SharedTraining, shared
from saec.reference.simulated import simulate
from saec.reference.small.training import SmallTraining
from saec.reference.training_settings import Training
small = SmallTraining.of(simulate(1000, seed=1, keys=True), "deepfm", 4, 0)
settings = Training(batch_size=100)
torch.save({mode: shared(SharedTraining(small, mode, 1, settings)) for mode in MODES}, sys.argv[2])
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """What each of two processes measured, by how they exchanged gradients."""
    out = tmp_path_factory.mktemp("shared") / "found"
    folder = Path(__file__).parents[2] / "benchmarks"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if sys.platform == "linux":
        environment["GLOO_SOCKET_IFNAME"] = "lo"
    subprocess.run([sys.executable, "-c", SCRIPT, folder, out], env=environment, check=True)
    loaded: dict[str, list[dict[str, Any]]] = torch.load(out)
    return loaded


def test_all_processes_end_with_the_same_model(found: dict[str, list[dict[str, Any]]]) -> None:
    for one, other in found.values():
        assert one["logloss"] == other["logloss"]
        assert one["steps"] == 8  # of 100 of 720 training rows


def test_int8_changes_little(found: dict[str, list[dict[str, Any]]]) -> None:
    losses = {mode: rows[0]["logloss"] for mode, rows in found.items()}
    assert losses["int8-rows"] != losses["rows"]
    assert losses["int8-rows"] == pytest.approx(losses["rows"], abs=0.01)


def test_int8_rows_take_the_fewest_bytes(found: dict[str, list[dict[str, Any]]]) -> None:
    sent = {mode: rows[0]["bytes_a_step"] for mode, rows in found.items()}
    assert sent["int8-rows"] < sent["rows"] / 2  # (4 + 4) bytes a row against 4 + 16
