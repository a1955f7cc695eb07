"""Fixtures that all tests share."""

from __future__ import annotations

import os
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
