"""Schedulers and workers: addresses on which they listen, and errors if there are none."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator

import numpy as np
import pytest
from dask_killing import wait_until
from distributed import Client
from numpy.typing import NDArray

import saec
from saec import distributed
from saec.distributed.cluster import workers_of
from saec.errors import ClusterError
from saec.streaming.chunks import Chunk


def test_all_of_a_local_cluster_listens_on_this_machine_only(client: Client) -> None:
    info = client.scheduler_info()
    assert info["address"].startswith("tcp://127.0.0.1:")
    workers = info["workers"]
    assert len(workers) == 2
    for address, worker in workers.items():
        assert address.startswith("tcp://127.0.0.1:")
        assert worker["nthreads"] == 1
        assert worker["memory_limit"] == 1_000_000_000
    assert client.dashboard_link.startswith("http://127.0.0.1:")


def test_connecting_to_a_scheduler_that_runs(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "saec")
    address = client.scheduler_info()["address"]
    with distributed.connect(address) as other:
        field = saec.Field("user", np.ones((3, 2), np.float32), np.array([1, 5, 1]))
        field.take_census(distributed.DaskExecutor(other)(field.parts))
        assert field.census.values.tolist() == [5, 1]
    assert f"connected to {address}; dashboard: http://127.0.0.1:" in caplog.text


def test_no_scheduler() -> None:
    with (
        pytest.raises(ClusterError, match=r"no scheduler answers at tcp://127.0.0.1:9: "),
        distributed.connect("tcp://127.0.0.1:9", timeout=0.2),
    ):
        pass
    with (
        pytest.raises(ClusterError, match=r"no scheduler answers at smoke://signal: "),
        distributed.connect("smoke://signal", timeout=0.2),
    ):
        pass


def test_existing_workers_are_used(client: Client) -> None:
    assert workers_of(client) == sorted(client.run(os.getpid))
    # Between two looks of the client at it, the scheduler is taken to have no workers.
    client.sync(client._update_scheduler_info)
    assert len(workers_of(client)) == 2


def test_no_workers() -> None:
    with (
        pytest.raises(saec.OptionError, match="a cluster cannot have 0 workers"),
        distributed.local_cluster(0),
    ):
        pass


@pytest.fixture
def impatient(client: Client) -> Iterator[Client]:
    """A scheduler that gives up a task when the first worker dies while running it."""

    def allow(count: int) -> int:
        def change(dask_scheduler: object) -> int:
            before = dask_scheduler.allowed_failures
            dask_scheduler.allowed_failures = count
            return before

        return client.run_on_scheduler(change)

    before = allow(0)
    yield client
    allow(before)
    wait_until(lambda: len(client.scheduler_info()["workers"]) == 2)


def test_a_task_of_which_workers_die(impatient: Client) -> None:
    def die(part: Chunk, before: NDArray[np.int64]) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    field = saec.Field("user", np.ones((3, 2), np.float32), np.ones(3))
    passes = distributed.DaskExecutor(impatient)(field.parts)
    with pytest.raises(ClusterError, match=r"(?s)work-.*died.* They may need more memory"):
        passes.run(die, list)
