"""Connections to running schedulers, and clusters of processes on this machine."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import dask
from distributed import Client, LocalCluster

from saec.errors import ClusterError, OptionError

__all__ = ["connect", "local_cluster", "workers_of"]

_log = logging.getLogger(__name__)

# A task is given up after this many workers died with it. If a machine is short of memory, its
# workers die together, and the task is not the cause.
_ALLOWED_FAILURES = 10

# If workers die, their nannies start new ones. After this time a local cluster checks whether
# they are there; if they die again, for want of memory, it gives them up for good.
_LOST_AFTER = "1000 days"


@contextmanager
def local_cluster(workers: int, memory: str | int | None = None) -> Iterator[Client]:
    """A cluster of processes on this machine, for as long as the context lasts.

    Processes import the main module again: a script must guard its start by
    ``if __name__ == "__main__"``.

    Args:
        workers: number of processes, one thread each.
        memory: memory limit of a worker, ``"2GB"`` or bytes; close to it, workers spill to disk,
            and beyond it they are restarted. None: an equal share of the machine's memory.

    Yields:
        The client. Scheduler, workers and dashboard listen on 127.0.0.1 only.

    Raises:
        OptionError: ``workers`` is less than 1.
    """
    if workers < 1:
        raise OptionError(f"a cluster cannot have {workers} workers")
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": _LOST_AFTER}),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            memory_limit="auto" if memory is None else memory,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"allowed_failures": _ALLOWED_FAILURES},
            silence_logs=logging.CRITICAL,  # workers log errors while all ends
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        _log.info("%d workers; dashboard: %s", workers, client.dashboard_link)
        yield client


@contextmanager
def connect(address: str, timeout: float = 10.0) -> Iterator[Client]:
    """The client of a running scheduler, for as long as the context lasts.

    Scheduler and workers need the same version of saec.

    Args:
        address: ``"tcp://host:port"``.
        timeout: seconds to wait for an answer.

    Raises:
        ClusterError: no scheduler answers there.
    """
    try:
        client = Client(address, timeout=timeout, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ClusterError(f"no scheduler answers at {address}: {error}") from error
    with client:
        _log.info("connected to %s; dashboard: %s", address, client.dashboard_link)
        yield client


def workers_of(client: Client) -> list[str]:
    """Addresses of the present workers, sorted; waits until there is one.

    Asks the scheduler: another thread of the client replaces ``scheduler_info`` every two seconds
    by one without workers, and some versions list at most five.
    """
    while not (found := sorted(client.nthreads())):
        client.wait_for_workers(1)
    return found
