"""A cluster of two processes for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from distributed import Client

from saec import distributed


@pytest.fixture(scope="session")
def client() -> Iterator[Client]:
    with distributed.local_cluster(2, "1GB") as client:
        yield client


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of 1000 values: parts are cut in this process."""
    monkeypatch.setattr("saec.streaming.chunks._PART_VALUES", 1000)
