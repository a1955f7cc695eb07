"""A server for each kind of model, shared by the tests that do not change it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import serving

import saec


@pytest.fixture(scope="session")
def lookups(tmp_path_factory: pytest.TempPathFactory) -> Iterator[serving.Server]:
    """Fields user (300 x 4) and item (40 x 3)."""
    path = tmp_path_factory.mktemp("lookups") / "tables.saec"
    serving.write_artifact(path, 0)
    with serving.served(path) as server:
        yield server


@pytest.fixture(scope="session")
def tables(lookups: serving.Server) -> saec.Compressed:
    """The artifact that ``lookups`` serves."""
    return saec.load(lookups.log.parent / "tables.saec")


@pytest.fixture(scope="session")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[serving.Server]:
    """A model with input user and outputs score and row."""
    path = tmp_path_factory.mktemp("scores") / "click.onnx"
    serving.write_scores(path)
    with serving.served(path) as server:
        yield server
