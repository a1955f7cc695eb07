"""Requests that wait for others, to be computed together."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

__all__ = ["BatchQueue"]

T = TypeVar("T")


class BatchQueue(Generic[T]):
    """A queue that several threads draw batches from, first in, first out.

    A batch is complete when it has ``most_rows`` rows, or when its first item has waited
    ``seconds``. Items that came while all threads were busy have waited already.

    Args:
        seconds: longest wait for other items.
        most_rows: largest number of rows of a batch of several items.
    """

    def __init__(self, seconds: float, most_rows: int) -> None:
        self._seconds = seconds
        self._most_rows = most_rows
        self._items: deque[tuple[T, int, float]] = deque()  # with its rows, and when it came
        self._rows = 0
        self._hurried = self._closed = False
        self._changed = threading.Condition()
        self._turn = threading.Lock()  # of the thread whose batch is next

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T, rows: int) -> None:
        """Add an item with so many rows."""
        with self._changed:
            self._items.append((item, rows, time.monotonic()))
            self._rows += rows
            if len(self._items) == 1 or self._rows >= self._most_rows:
                self._changed.notify()

    def remove(self, item: T) -> None:
        """Take an item out of the queue, if it is there."""
        with self._changed:
            for place, (held, rows, _) in enumerate(self._items):
                if held is item:
                    del self._items[place]
                    self._rows -= rows
                    return

    def batches(self) -> Iterator[list[T]]:
        """Batches as they are complete, until the queue is closed and empty."""
        while batch := self._next():
            yield batch

    def hurry(self) -> None:
        """From now on no item waits for others."""
        with self._changed:
            self._hurried = True
            self._changed.notify_all()

    def close(self) -> None:
        """Accept no more items, and let nobody wait for them."""
        with self._changed:
            self._hurried = self._closed = True
            self._changed.notify_all()

    def _next(self) -> list[T]:
        with self._turn, self._changed:
            while True:
                self._changed.wait_for(lambda: self._items or self._closed)
                if not self._items:
                    return []
                due = self._items[0][2] + self._seconds - time.monotonic()
                self._changed.wait_for(self._complete, max(due, 0.0))
                if taken := self._taken():  # all may have been removed meanwhile
                    return taken

    def _complete(self) -> bool:
        return self._rows >= self._most_rows or self._hurried

    def _taken(self) -> list[T]:
        """The first items, of as many rows as a batch may have; a single one may have more."""
        taken: list[T] = []
        rows = 0
        while self._items and (not taken or rows + self._items[0][1] <= self._most_rows):
            item, own, _ = self._items.popleft()
            taken.append(item)
            rows += own
        self._rows -= rows
        return taken
