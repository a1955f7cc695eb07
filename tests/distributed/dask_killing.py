"""Killing workers while they work."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from distributed import Client

# Of a worker in each test; `make test-kills` sets more.
KILLS = int(os.environ.get("SAEC_KILLS", "1"))


def wait_until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


class Killer:
    """Ends the oldest worker with SIGKILL; at the end, waits until there is another one."""

    def __init__(self, client: Client, calls: int = 0) -> None:
        self._client = client
        self._calls = calls
        pids = client.run(os.getpid)
        self._count = len(pids)
        self._pid, self._address = min((pid, address) for address, pid in pids.items())
        self._killed = False

    def advance(self, share: float) -> None:
        """Kills at the call of a given number."""
        self._calls -= 1
        if self._calls == 0:
            self.kill()

    def kill_after(self, seconds: float) -> None:
        threading.Timer(seconds, self.kill).start()

    def kill(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        self._killed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            assert self._killed, "the work was over before"
            wait_until(self._replaced)

    def _replaced(self) -> bool:
        # The scheduler is asked: to ask all workers would wait long for one that has just died.
        workers = self._client.scheduler_info()["workers"]
        return len(workers) == self._count and self._address not in workers
