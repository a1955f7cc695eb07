"""A bounded number of requests at once, computed by threads beside the event loop."""

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
    """Threads, and who may use them.

    Args:
        threads: that compute.
        requests: that may be under way at once; more are refused, not queued.
        max_bytes: of a request's body.
        seconds: that one may take.
    """

    def __init__(self, threads: int, requests: int, max_bytes: int, seconds: float) -> None:
        self._threads = concurrent.futures.ThreadPoolExecutor(threads, "saec-serve")
        self._requests = requests
        self._seconds = seconds
        self._most_arriving = requests * max_bytes
        self._arriving = 0  # bytes of bodies that have not come to their ends
        self._admitted = 0
        self._abandoned = 0  # jobs that nobody waits for; a thread cannot be stopped

    @contextmanager
    def arriving(self) -> Iterator[Callable[[int], None]]:
        """Be a body that arrives; gives what to call with the length of each part of it.

        Bodies are bounded by the bytes that have come, not in number: those that come slowly would
        keep others out. What is given, and this, raise RefusedError if the server has enough to do.
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
        """Be one of the requests under way; raises RefusedError if there are too many."""
        self._check_busy()
        self._admitted += 1
        try:
            yield
        finally:
            self._admitted -= 1

    async def run(self, job: Callable[[], T]) -> T:
        """Do ``job`` in a thread; raises RefusedError if it takes too long."""
        job_future = self._threads.submit(job)
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
            # Its error knows this frame: with it, the request would be freed only much later.
            del job_future

    @property
    def abandoned(self) -> int:
        """Jobs that still run, though nobody waits for them."""
        return self._abandoned

    def close(self) -> None:
        """Take no more jobs; what has not begun is dropped."""
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
