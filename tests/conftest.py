"""Fixtures that all tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

# Machines differ in speed; a slow example is no failure.
settings.register_profile("saec", deadline=None)
settings.load_profile("saec")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The real data sets: the directory in SAEC_DATA, else shared/data beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    path = Path(os.environ.get("SAEC_DATA", beside))
    if not path.is_dir():
        pytest.skip(f"no real data sets in {path}; set SAEC_DATA to their directory")
    return path


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator with a fixed seed, fresh for every test."""
    return np.random.default_rng(2020)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """PyTorch computes with one thread meanwhile: tables this small only wait for others."""
    import torch  # not for tests that do without

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
