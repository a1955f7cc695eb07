"""A small log with the fields of ml-1m that matter here, and the builders of the benchmark."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from saec.reference.encode import encode
from saec.reference.log import Log

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))


@pytest.fixture(scope="module", autouse=True)
def _one_thread(one_thread: None) -> None:
    """Sums of several threads differ in their last bits."""


@pytest.fixture(scope="session")
def log() -> Log:
    """4000 ratings of 200 users and 150 movies, which depend on both."""
    rng = np.random.default_rng(6)
    users = rng.zipf(1.3, 4000) % 200
    movies = rng.zipf(1.3, 4000) % 150
    tastes = rng.standard_normal(200)[users] + rng.standard_normal(150)[movies]
    labels = (tastes + rng.standard_normal(4000) > 0).astype(np.float32)
    columns = {"user": users, "movie": movies, "gender": users % 2, "genres": movies % 9}
    split = rng.choice(np.array([0, 0, 0, 1, 2], dtype=np.int8), 4000)
    return encode(columns, labels, split, "small")
