"""A limit of requests in progress; threads beside the event loop compute them."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from saec.serve.protocol import RefusedError, Status

__all__ = ["Work"]

T = TypeVar("T")


class Work:
    """Threads, and limits of their use.

    Args:
        threads: number of threads that compute.
        requests: largest number of requests in progress; more are rejected, not queued.
        max_bytes: largest size of a request's body.
        seconds: time limit of one request.
    """

    def __init__(self, threads: int, requests: int, max_bytes: int, seconds: float) -> None:
        self._threads = concurrent.futures.ThreadPoolExecutor(threads, "saec-serve")
        self._requests = requests
        self._seconds = seconds
        self._most_arriving = requests * max_bytes
        self._arriving = 0  # bytes of bodies that are not complete yet
        self._admitted = 0
        self._abandoned = 0  # jobs that still run after their timeout: threads cannot be stopped

    @contextmanager
    def arriving(self) -> Iterator[Callable[[int], None]]:
        """Register a body that is arriving; yields a function to call with the length of each part.

        The limit is on the bytes received and not on the number of bodies, because slow bodies
        would otherwise block other requests. This and the function raise RefusedError if the server
        is busy.
        """
        self._check_busy()
        held = 0

        def add(nbytes: int) -> None:
            nonlocal held
            if self._arriving + nbytes > self._most_arriving:
                raise RefusedError(Status.BUSY, "too many bodies are arriving")
            self._arriving += nbytes
            held += nbytes

        try:
            yield add
        finally:
            self._arriving -= held

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Register a request in progress; raises RefusedError if there are too many."""
        self._check_busy()
        self._admitted += 1
        try:
            yield
        finally:
            self._admitted -= 1

    def start(self, job: Callable[[], T]) -> concurrent.futures.Future[T]:
        """Run ``job`` in a thread."""
        return self._threads.submit(job)

    async def result(self, job_future: concurrent.futures.Future[T]) -> T:
        """Wait for what a thread computes; raises RefusedError if it takes too long."""
        try:
            async with asyncio.timeout(self._seconds):
                return await asyncio.shield(asyncio.wrap_future(job_future))
        except TimeoutError as error:
            self._abandon(job_future)
            raise RefusedError(
                Status.LATE, f"it took more than {self._seconds:g} seconds"
            ) from error
        except asyncio.CancelledError:
            self._abandon(job_future)
            raise
        finally:
            # Its error refers to this frame: otherwise, the request would be freed much later.
            del job_future

    @property
    def abandoned(self) -> int:
        """Number of jobs that still run after their timeout."""
        return self._abandoned

    def close(self) -> None:
        """Accept no more jobs; jobs that have not started are dropped."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _check_busy(self) -> None:
        if self._admitted + self._abandoned >= self._requests:
            raise RefusedError(Status.BUSY, "too many requests are under way")

    def _abandon(self, job: concurrent.futures.Future[T]) -> None:
        if job.cancel() or job.done():
            return
        loop = asyncio.get_running_loop()
        self._abandoned += 1

        def ended(_: concurrent.futures.Future[T]) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._forget)

        job.add_done_callback(ended)

    def _forget(self) -> None:
        self._abandoned -= 1
