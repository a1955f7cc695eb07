"""Submit the tasks of a pass: on the worker of each part, merged in a tree, cancelled on errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from types import TracebackType
from typing import Any, Self
from weakref import WeakSet

import dask
import numpy as np
from dask.typing import Key
from distributed import Client, Future, KilledWorker, as_completed
from numpy.typing import NDArray

from saec.distributed import worker_functions as jobs
from saec.errors import ClusterError
from saec.streaming.chunks import Chunk, RunningCounts, merged
from saec.streaming.map_reduce import Advance

__all__ = ["Home", "Submitting"]

Home = tuple[tuple[str, ...], bool]  # addresses of workers, and whether other workers may help

_NOTHING = np.zeros(0, dtype=np.int64)


class Submitting:
    """Tasks in progress; leaving the context with an error cancels them.

    Args:
        client: of the scheduler.
        parts: as they are passed to tasks.
        homes: workers of each part.
    """

    def __init__(
        self, client: Client, parts: Sequence[Chunk | Future[Chunk]], homes: Sequence[Home]
    ) -> None:
        self._client = client
        self._parts = parts
        self._homes = homes
        # Among them are futures that the frames of an error's traceback keep.
        self._alive: WeakSet[Future[Any]] = WeakSet()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            # Not cancelled: the scheduler of 2026.8 closes the connection of a client that cancels
            # an input of a task that no client waits for. Such a task does not run anyway.
            for future in list(self._alive):
                future.release()
        if isinstance(error, KilledWorker):
            raise ClusterError(
                f"{error} They may need more memory, or the task ends its process."
            ) from error

    def every(
        self, job: Callable[..., Any], task: object, counter: RunningCounts | None, *rest: object
    ) -> list[Future[Any]]:
        """``job(task, part, before, *rest)`` for every part."""
        return list(self.in_turn(job, task, counter, *rest))

    def in_turn(
        self, job: Callable[..., Any], task: object, counter: RunningCounts | None, *rest: object
    ) -> Iterator[Future[Any]]:
        """As :meth:`every`, but a part is submitted when its future is asked for."""
        sent = self.send(task)
        for part, home, before in zip(self._parts, self._homes, self._before(counter), strict=True):
            yield self.submit(job, sent, part, before, *rest, home=home)

    def send(self, value: object, home: Home | None = None) -> Future[Any]:
        """``value`` on the cluster, sent once.

        Submitted and not scattered: scattered data are lost with the workers that hold them, while
        the scheduler keeps submitted data.
        """
        return self.ship(jobs.give, value, home=home)

    def ship(
        self, job: Callable[..., Any], *given: object, home: Home | None = None
    ) -> Future[Any]:
        """As :meth:`submit`, but the arguments may be large."""
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 TiB"}):
            return self.submit(job, *given, home=home)

    def submit(
        self, job: Callable[..., Any], *given: object, home: Home | None = None, urgent: int = 0
    ) -> Future[Any]:
        """Submit ``job(*given)``; more ``urgent`` jobs, which free memory, go first."""
        where: Mapping[str, Any] = {}
        if home is not None and home[0]:
            where = {"workers": list(home[0]), "allow_other_workers": home[1]}
        # In order, because otherwise neighbours would wait long to be merged: tasks submitted
        # within fifo_timeout run in any order.
        future = self._client.submit(
            job, *given, pure=False, priority=urgent, fifo_timeout="0 s", **where
        )
        self._alive.add(future)
        return future

    def tree(self, results: Sequence[Future[Any]], merge: Callable[..., Any]) -> Future[Any]:
        """All ``results`` merged on the workers, as :func:`~saec.streaming.chunks.merged` would."""
        sent = self.send(merge)
        return merged(
            results, lambda group: self.submit(jobs.merge_all, sent, list(group), urgent=1)
        )

    def finish(
        self, results: Sequence[Future[Any]], shares: Sequence[float], advance: Advance
    ) -> Iterator[Future[Any]]:
        """Yield ``results`` as they arrive, each once, and count their ``shares``.

        The client releases each result after it was yielded.

        Raises:
            Exception: the exception of a task.
        """
        share: dict[Key, float] = {
            result.key: part for result, part in zip(results, shares, strict=True)
        }
        for result in as_completed(results, loop=self._client.loop):
            if result.status != "finished":
                result.result()  # raises
            advance(share[result.key])
            yield result

    def _before(self, counter: RunningCounts | None) -> Iterator[NDArray[np.int64] | Future[Any]]:
        """The sum before each part; sums over the parts of a home do not wait for other homes."""
        if counter is None or not counter.size:
            yield from (_NOTHING for _ in self._parts)
            return
        sent = self.send(counter)
        counts = [
            self.submit(jobs.count, sent, part, home=home)
            for part, home in zip(self._parts, self._homes, strict=True)
        ]
        first = self.submit(jobs.nothing, counter.size)
        for home, group in groupby(range(len(counts)), key=self._homes.__getitem__):
            own = [counts[number] for number in group]
            running = first
            for counted in own:
                yield running
                running = self.submit(jobs.add, [running, counted], home=home)
            first = self.submit(jobs.add, [first, self.submit(jobs.add, own, home=home)])
