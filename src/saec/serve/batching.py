"""Small requests that arrive together are computed together, in one or two stages."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from saec.format.pipelined import pipelined
from saec.serve.batch_metrics import BatchMetrics
from saec.serve.batch_queue import BatchQueue
from saec.serve.hot_reload import Version
from saec.serve.joining import joined, kind_of, row_count, split
from saec.serve.protocol import InferRequest, RefusedError

__all__ = ["BatchLimits", "RequestBatches"]

_CLOSE_SECONDS = 1.0


@dataclass(frozen=True)
class BatchLimits:
    """How requests are computed together.

    Attributes:
        seconds: longest time that a request waits for others.
        rows: largest number of rows of a batch, the first lengths of its inputs: ids or examples;
            requests with as many are computed alone.
        ahead: number of batches whose rows are looked up before the scores of the one before are
            computed; 0: each batch is scored before the next is looked up.
    """

    seconds: float
    rows: int
    ahead: int


@dataclass(eq=False)
class _Asked:
    """A request, and where its response goes."""

    version: Version
    request: InferRequest
    encode: Callable[[Mapping[str, NDArray[Any]]], Any]
    response: Future[Any] = field(default_factory=Future)
    since: float = field(default_factory=time.perf_counter)


@dataclass(frozen=True, eq=False)
class _JointRequests:
    """Requests of one version and one kind, and what was looked up for all of them."""

    asked: list[_Asked]
    found: Any


class RequestBatches:
    """Threads that compute requests together.

    Each of ``threads`` lanes draws batches from one queue, looks up their rows and then computes
    the outputs; with ``limits.ahead`` it looks up the next batch meanwhile (:func:`pipelined`).
    """

    def __init__(
        self,
        limits: BatchLimits,
        threads: int,
        most_bytes: int,
        metrics: Callable[[Callable[[], int]], BatchMetrics],
    ) -> None:
        self._limits = limits
        self._most_bytes = most_bytes
        self._queue: BatchQueue[_Asked] = BatchQueue(limits.seconds, limits.rows)
        self._metrics = metrics(lambda: len(self._queue))
        self._lanes = [
            threading.Thread(target=self._run, name=f"saec-batches-{lane}", daemon=True)
            for lane in range(threads)
        ]
        for lane in self._lanes:
            lane.start()

    def takes(self, request: InferRequest) -> bool:
        """Whether a request is small enough to be computed with others."""
        return row_count(request) < self._limits.rows

    def put(
        self,
        version: Version,
        request: InferRequest,
        encode: Callable[[Mapping[str, NDArray[Any]]], Any],
    ) -> Future[Any]:
        """Compute a request with others; the result is what ``encode`` makes of its outputs."""
        asked = _Asked(version, request, encode)
        known = weakref.ref(asked)  # a cycle would keep the request until it is collected
        asked.response.add_done_callback(lambda response: self._leave(known(), response))
        self._queue.put(asked, row_count(request))
        return asked.response

    def hurry(self) -> None:
        """From now on no request waits for others."""
        self._queue.hurry()

    def close(self) -> None:
        """Finish what is in the queue, and end the threads unless they are stuck."""
        self._queue.close()
        until = time.monotonic() + _CLOSE_SECONDS
        for lane in self._lanes:
            lane.join(max(until - time.monotonic(), 0.0))

    def _leave(self, asked: _Asked | None, response: Future[Any]) -> None:
        """Do not keep a request that nobody waits for, however long all threads are busy."""
        if asked is not None and response.cancelled():
            self._queue.remove(asked)

    def _run(self) -> None:
        batches, ahead = self._queue.batches(), self._limits.ahead
        if ahead:
            for _ in pipelined(batches, self._looked_up, self._scored, ahead):
                pass
            return
        for batch in batches:
            self._scored(self._looked_up(batch))

    def _looked_up(self, batch: list[_Asked]) -> list[_JointRequests]:
        """The first stage; requests that fail in it have their errors."""
        now = time.perf_counter()
        groups: dict[Hashable, list[_Asked]] = {}
        for asked in batch:
            if not asked.response.set_running_or_notify_cancel():
                continue  # its client has gone, or its time is over
            self._metrics.waited(now - asked.since)
            groups.setdefault(_key(asked), []).append(asked)
        batch.clear()  # the list itself is kept until the next batch
        return [group for own in groups.values() for group in self._rows_of(own)]

    def _rows_of(self, asked: list[_Asked]) -> list[_JointRequests]:
        model = asked[0].version.model
        try:
            request = joined(model, [each.request for each in asked])
            group = _JointRequests(asked, model.look_up(request, self._most_bytes))
        except Exception as error:
            if len(asked) > 1:
                return self._rows_of_halves(asked)
            _fail(asked[0], error)
            return []
        self._metrics.batch(len(asked), row_count(request))
        return [group]

    def _rows_of_halves(self, asked: list[_Asked]) -> list[_JointRequests]:
        """After a failure: the requests beside one that fails do not."""
        middle = len(asked) // 2
        return [*self._rows_of(asked[:middle]), *self._rows_of(asked[middle:])]

    def _scored(self, groups: list[_JointRequests]) -> None:
        """The second stage."""
        for group in groups:
            self._answer(group)
        groups.clear()  # see above

    def _answer(self, group: _JointRequests) -> None:
        model, asked = group.asked[0].version.model, group.asked
        try:
            outputs = model.score(group.found, self._most_bytes)
            parts = split(model, [each.request for each in asked], outputs)
        except Exception as error:
            if len(asked) > 1:
                self._scored(self._rows_of_halves(asked))
            else:
                _fail(asked[0], error)
            return
        for each, part in zip(asked, parts, strict=True):
            try:
                each.response.set_result(each.encode(part))
            except Exception as error:
                _fail(each, error)


def _key(asked: _Asked) -> Hashable:
    """The same for requests that are computed together."""
    try:
        kind = kind_of(asked.version.model, asked.request)
    except Exception:  # the request has its error when it is computed alone
        return asked
    return asked if kind is None else (asked.version.number, kind)


def _fail(asked: _Asked, error: Exception) -> None:
    # The frames of a traceback would keep the requests of a whole batch until they are collected.
    refused = isinstance(error, RefusedError)
    asked.response.set_exception(error.with_traceback(None) if refused else error)
