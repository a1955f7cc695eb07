"""Trained uncompressed models that are kept in a file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from saec.errors import DataError
from saec.reference import kept_model, training_settings
from saec.reference.kept_model import trained_or_kept
from saec.reference.simulated import simulate

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_kept_model_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = simulate(1000, seed=0)

    def train(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    first, seconds = trained_or_kept(log, "deepfm", 2, 0, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["simulated-deepfm-2-0.pt"]
    monkeypatch.setattr(kept_model, "train", train)
    again, same_seconds = trained_or_kept(log, "deepfm", 2, 0, tmp_path)
    assert same_seconds == seconds > 0
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    for seed, folder in ((1, tmp_path), (0, None)):
        with pytest.raises(AssertionError, match="trained again"):
            trained_or_kept(log, "deepfm", 2, seed, folder)


def test_models_of_other_logs_and_damaged_files_are_refused(tmp_path: Path) -> None:
    log = simulate(1000, seed=0)
    trained_or_kept(log, "deepfm", 2, 0, tmp_path)
    path = tmp_path / "simulated-deepfm-2-0.pt"
    with pytest.raises(DataError, match=re.escape(f"the model in {path} has another log")):
        trained_or_kept(simulate(1000, seed=1), "deepfm", 2, 0, tmp_path)
    whole = path.read_bytes()
    for damaged in (whole[:-100], whole.replace(b"vocab_sizes", b"\xf0ocab_sizes"), b""):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=re.escape(f"cannot read the model in {path}")):
            trained_or_kept(log, "deepfm", 2, 0, tmp_path)
    with pytest.raises(DataError, match="cannot write"):
        trained_or_kept(log, "deepfm", 2, 0, tmp_path / "none")


def test_models_trained_by_other_defaults_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task's own learning rate may change from version to version."""
    log = simulate(1000, seed=0)
    trained_or_kept(log, "deepfm", 2, 0, tmp_path)
    monkeypatch.setitem(training_settings.TABLE_SETTINGS, log.name, (0.5, 1e-3))
    with pytest.raises(
        DataError, match=r"simulated-deepfm-2-0\.pt has another rate and decay of its"
    ):
        trained_or_kept(log, "deepfm", 2, 0, tmp_path)
