"""Lookups of the next batches while a model computes on this one."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from saec.errors import OptionError

__all__ = ["pipelined"]

Batch = TypeVar("Batch")
Rows = TypeVar("Rows")
Score = TypeVar("Score")


@dataclass(frozen=True)
class _LookedUp(Generic[Rows]):
    """What became of a batch: its rows, or the error; neither at the end of the batches."""

    rows: Rows | None = None
    error: BaseException | None = None
    last: bool = False


def pipelined(
    batches: Iterable[Batch],
    lookup: Callable[[Batch], Rows],
    score: Callable[[Rows], Score],
    ahead: int = 2,
) -> Iterator[Score]:
    """``score(lookup(batch))`` for each batch, in order, with lookups ahead of the scores.

    Batches are drawn and looked up in a thread of their own, scores are computed in the caller's.
    This gains time if lookups wait for a disk, as those of an artifact that was loaded with
    ``memory``. Lookups in memory use all cores already.

    Args:
        batches: drawn as they are needed, at most ``ahead`` before their scores.
        lookup: of one batch.
        score: of what ``lookup`` gave.
        ahead: largest number of batches that are looked up before they are needed, 1 or more.

    Yields:
        The scores. An error of a batch is raised in its place, after the scores before it. When the
        iterator is closed, no further batch is drawn, and it waits for the one under way.

    Raises:
        OptionError: ``ahead`` is below 1.
    """
    if ahead < 1:
        raise OptionError(f"at least 1 batch is looked up ahead, not {ahead!r}")
    return _scores(iter(batches), lookup, score, ahead)


def _scores(
    batches: Iterator[Batch],
    lookup: Callable[[Batch], Rows],
    score: Callable[[Rows], Score],
    ahead: int,
) -> Iterator[Score]:
    ready: queue.SimpleQueue[_LookedUp[Rows]] = queue.SimpleQueue()
    room, stopped = threading.Semaphore(ahead), threading.Event()

    def read() -> None:
        going = True
        while going:
            room.acquire()
            if stopped.is_set():
                return
            found = _looked_up(batches, lookup)
            ready.put(found)
            going = not found.last

    reader = threading.Thread(target=read, name="saec-lookup", daemon=True)
    reader.start()
    try:
        while not (found := ready.get()).last:
            room.release()
            yield score(found.rows)  # type: ignore[arg-type]
        if found.error is not None:
            raise found.error
    finally:
        stopped.set()
        room.release()
        reader.join()


def _looked_up(batches: Iterator[Batch], lookup: Callable[[Batch], Rows]) -> _LookedUp[Rows]:
    try:
        return _LookedUp(lookup(next(batches)))
    except StopIteration:
        return _LookedUp(last=True)
    except BaseException as error:  # raised where the scores are read
        return _LookedUp(error=error, last=True)
