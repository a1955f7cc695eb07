"""Work on the parts of a table by several threads, with results in the order of the parts."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import saec._native as _native
from saec.util.cores import default_threads

__all__ = ["in_threads"]

# Each thread needs memory for a part of its own. Also, NumPy leaves less than half of the work on
# blocks of rows to one thread at a time, and more threads than these would wait for each other.
_MOST_THREADS = 3

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(
    task: Callable[[Item], Result], items: Sequence[Item], threads: int = 0
) -> Generator[Result, None, None]:
    """``task(item)`` of each item, in their order.

    At most ``threads`` items are worked on at a time, and twice as many are begun before their
    results are asked for. An error of an item is raised in its place, after the results before it.
    When the iterator ends or is closed, also by an error or an interrupt, no further item is begun,
    and those under way are waited for.

    Args:
        task: mostly NumPy's and native work, which several threads can do at the same time. What it
            reads must not change; it changes nothing that other items use.
        items: a single one is worked on by the calling thread.
        threads: the most; 0 for :func:`~saec.util.cores.default_threads`, but at most 3.
    """
    used = min(threads or min(default_threads(), _MOST_THREADS), len(items))
    if used < 2:
        yield from map(task, items)
        return
    left = iter(items)
    pool = ThreadPoolExecutor(used, "saec-part", initializer=_native.use_calling_thread)
    try:
        waiting = deque(pool.submit(task, item) for item in islice(left, 2 * used))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(task, item) for item in islice(left, 1))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)
