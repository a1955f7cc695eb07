"""Processes of the command line, as copies of one that has imported it: they start faster."""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path


class Forked:
    """A copy of the warm process; as :class:`subprocess.Popen`."""

    def __init__(self, warm: WarmProcess, pid: int) -> None:
        self.pid, self._warm = pid, warm

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while the process runs."""
        return self._warm.code(self.pid, 0.0)

    def wait(self, timeout: float) -> int:
        """The exit code; raises TimeoutExpired."""
        deadline = time.monotonic() + timeout
        while (code := self._warm.code(self.pid, 0.2)) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("saec", timeout)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class WarmProcess:
    """The process of warm_process.py; PYTHONWARNINGS=error holds for what it imports."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("warm_process.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONWARNINGS": "error", "OPENBLAS_NUM_THREADS": "1"},
        )
        self._lock = threading.Lock()
        self._held = b""
        self._started: list[int] = []
        self._codes: dict[int, int] = {}

    def start(
        self,
        words: Sequence[str],
        environment: Mapping[str, str],
        descriptors: int,
        out: Path,
        errors: Path,
    ) -> Forked:
        """Run the command line with ``words``."""
        request = [list(words), dict(environment), descriptors, str(out), str(errors)]
        assert self._process.stdin is not None
        with self._lock:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            deadline = time.monotonic() + 120
            while not self._started:
                assert time.monotonic() < deadline, "the warm process has started nothing in 120 s"
                self._read(5.0)
            return Forked(self, self._started.pop())

    def code(self, pid: int, timeout: float) -> int | None:
        """The exit code of a copy, or None if it has not ended within ``timeout`` seconds."""
        with self._lock:
            if pid not in self._codes:
                self._read(timeout)
            return self._codes.get(pid)

    def stop(self) -> None:
        self._process.communicate()

    def _read(self, timeout: float) -> None:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], timeout)[0]:
            return
        read = os.read(self._process.stdout.fileno(), 1 << 16)
        assert read, "the warm process has ended"
        *lines, self._held = (self._held + read).split(b"\n")
        for pid, code in map(json.loads, lines):
            if code is None:
                self._started.append(pid)
            else:
                self._codes[pid] = code


@cache
def warm_process() -> WarmProcess:
    """The warm process of this one."""
    warm = WarmProcess()
    atexit.register(warm.stop)
    return warm
