"""Progress bars, only at a terminal or in a notebook, and only for work that takes long.

They need rich, which the extra ``progress`` installs; without it nothing is shown.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sized
from functools import cache
from importlib.util import find_spec
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

__all__ = ["Bar", "bar", "track"]

T = TypeVar("T")

# Shorter work shows nothing on the terminal.
DELAY_SECONDS = 2.0

# Rich takes a lock and 10 us per update, so a tight loop reports its count a few times a second.
UPDATE_SECONDS = 0.1


class Bar:
    """A progress bar as a context manager; made by :func:`bar`."""

    def __init__(self, progress: Progress | None, description: str, total: float | None) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._open = False
        self._done = 0.0
        self._updated = 0.0
        if progress is not None:
            self._task = progress.add_task(description, total=total, start=False)

    def __enter__(self) -> Self:
        if self._progress is not None:
            self._open = True
            self._progress.start_task(self._task)
            # A timer, not a check in advance(): the first step alone may take minutes.
            self._timer = threading.Timer(DELAY_SECONDS, self._appear)
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._progress is None:
            return
        self._timer.cancel()
        with self._lock:
            self._open = False
            self._progress.update(self._task, completed=self._done)
            self._progress.stop()  # does nothing if the bar never appeared

    def advance(self, n: float = 1) -> None:
        """Record that ``n`` more units are done."""
        self._done += n
        if self._progress is None:
            return
        now = time.monotonic()
        if now - self._updated >= UPDATE_SECONDS:
            self._updated = now
            self._progress.update(self._task, completed=self._done)

    def _appear(self) -> None:
        with self._lock:
            if self._open and self._progress is not None:
                self._progress.start()


def bar(description: str, total: float | None = None, show: bool = True) -> Bar:
    """Make a progress bar: ``with bar("counting", rows) as progress: progress.advance(n)``.

    Args:
        description: the work, shown before the bar.
        total: units of work, or None if unknown.
        show: False shows nothing. Nothing is shown either if stderr is neither a terminal nor a
            notebook's, in a notebook without ipywidgets, and without rich.
    """
    return Bar(
        _rich_progress() if show and _has_rich() and (_at_terminal() or _in_notebook()) else None,
        description,
        total,
    )


def track(
    iterable: Iterable[T], total: float | None = None, description: str = "", show: bool = True
) -> Iterator[T]:
    """Yield from ``iterable`` under a bar; ``total`` defaults to its length, if it has one."""
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    with bar(description, total, show) as progress:
        for item in iterable:
            yield item
            progress.advance()


@cache
def _has_rich() -> bool:
    return find_spec("rich") is not None


def _at_terminal() -> bool:
    # Not rich's is_terminal, which FORCE_COLOR turns on for pipes and log files too.
    return sys.stderr is not None and sys.stderr.isatty()


def _in_notebook() -> bool:
    from rich.console import Console

    # Rich warns in every notebook that lacks the widgets.
    return Console().is_jupyter and find_spec("ipywidgets") is not None


@cache
def _console() -> Console:
    from rich.console import Console

    # One console for all bars: rich stacks nested displays that share a console.
    return Console(stderr=True)


def _rich_progress() -> Progress:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}", markup=False),  # field names may hold brackets
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=_console(),
        transient=True,
        # A piped stdout must not be drawn into the bar on stderr.
        redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
    )
