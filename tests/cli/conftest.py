"""Small files in every format, and the command line to run on them."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

import saec
from saec.cli import main

ROWS, DIM = 600, 4
RNG = np.random.default_rng(7)
USER = RNG.normal(size=(ROWS, DIM)).astype(np.float32)
ITEM = RNG.normal(size=(ROWS // 2, DIM)).astype(np.float32)
USER_COUNTS = 1000 // np.arange(1, ROWS + 1)
ITEM_COUNTS = 1000 / np.arange(1, ROWS // 2 + 1)
METRICS = {"user": np.diag([4e-3, 1e-3, 2e-4, 0]), "item": np.diag([0, 1e-3, 1e-3, 2e-3])}

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _logging() -> Iterator[None]:
    yield
    logging.getLogger("saec").setLevel(logging.NOTSET)  # --quiet raises it


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line here: exit code, stdout, stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        code = main([str(word) for word in words])
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables and frequencies in every kind of file, and two compressed fields."""
    path = tmp_path_factory.mktemp("files")
    np.save(path / "user.npy", USER)
    np.savez(path / "both.npz", user=USER, item=ITEM)
    safetensors.numpy.save_file({"user": USER, "item": ITEM}, path / "both.safetensors")
    state = {
        "user.weight": torch.from_numpy(USER),
        "item.weight": torch.from_numpy(ITEM),
        "mlp.0.weight": torch.ones(3, 2 * DIM),
        "mlp.0.bias": torch.ones(3),
    }
    torch.save(state, path / "model.pt")
    np.save(path / "counts.npy", USER_COUNTS)
    np.savez(path / "counts.npz", user=USER_COUNTS, item=ITEM_COUNTS)
    metrics = saec.LossMetrics(METRICS, 5000, {"user": 0.02, "item": 0.03})
    saec.save_metrics(metrics, path / "metrics.safetensors")
    fields = [saec.Field("user", USER, USER_COUNTS), saec.Field("item", ITEM, ITEM_COUNTS)]
    compressed = saec.compress(fields, saec.Ratio(4), saec.Clusters(), progress=False)
    compressed.save(path / "both.saec")
    return path


@pytest.fixture
def folder(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a copy of the files; of the artifact with :func:`artifact`."""
    monkeypatch.chdir(tmp_path)
    ignored = shutil.ignore_patterns("*.saec")
    shutil.copytree(files, tmp_path, ignore=ignored, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def artifact(files: Path, folder: Path) -> Path:
    """Two compressed fields, saved."""
    return Path(shutil.copy(files / "both.saec", folder))
