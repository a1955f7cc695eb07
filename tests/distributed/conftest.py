"""A cluster of two processes for all tests of this folder."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from copies import warm_clusters
from distributed import Client

from saec import distributed


@pytest.fixture(scope="session")
def client() -> Iterator[Client]:
    levels = {handler: handler.level for handler in logging.root.handlers}
    with warm_clusters(), distributed.local_cluster(2, "1GB") as client:
        # The cluster silences all handlers, also pytest's, which tests of other folders need.
        for handler, level in levels.items():
            handler.setLevel(level)
        yield client


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of 1000 values: parts are cut in this process."""
    monkeypatch.setattr("saec.streaming.chunks._PART_VALUES", 1000)
