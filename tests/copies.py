"""Processes that are copies of one which has imported saec: they start faster."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager

# Installed packages only: before Python 3.13, the process knows no other places.
PACKAGES = ["pytest", "numpy", "safetensors.numpy", "distributed", "saec", "saec.distributed"]

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(PACKAGES)


@contextmanager
def warm_clusters() -> Iterator[None]:
    """Workers of Dask clusters, also those that replace dead ones, are such copies. They take no
    samples of their call stacks. The clusters of test_dask_cli.py start as usual."""
    import dask
    from distributed.utils import get_mp_context

    settings = {
        "distributed.worker.multiprocessing-method": "forkserver",
        "distributed.worker.profile.enabled": False,
    }
    with dask.config.set(settings):
        get_mp_context().set_forkserver_preload(PACKAGES)
        yield
