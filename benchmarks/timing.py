"""Timing of rivals in turn, so that a machine that slows down slows all of them; peak memory."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


def interleave(
    rivals: Mapping[str, Callable[[], object]],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each run of each rival: A B C, A B C, ... after one warm-up of each.

    clock: ``time.process_time`` where other loads share the processors; it sums over threads.
    """
    for run in rivals.values():
        run()
    return interleave_cold(rivals, repeats, clock)


def interleave_cold(
    rivals: Mapping[str, Callable[[], object]],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """As :func:`interleave`, without the warm-up, for runs of minutes."""
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(repeats):
        for name, run in rivals.items():
            start = clock()
            run()
            seconds[name].append(clock() - start)
    return seconds


def medians(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    """Median seconds of each rival."""
    return {name: statistics.median(runs) for name, runs in seconds.items()}


def peak_bytes() -> int:
    """Peak resident memory of this process so far (Linux)."""
    return _status("VmHWM")


def own_bytes() -> int:
    """Resident memory of this process now, without mapped files (Linux)."""
    return _status("RssAnon")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(name))) * 1024


def run_version(
    packages: Path | None, script: str, arguments: Sequence[str], **settings: str
) -> str:
    """What a Python script prints in a process of its own, with this version of saec or the one in
    a folder of ``packages``, as ``pip install --no-deps --target`` makes it. ``settings``: of its
    environment."""
    command, environment = [sys.executable], os.environ | settings
    if packages is not None:
        # An editable installation comes before PYTHONPATH, unless there is no site at all.
        command.append("-S")
        paths = [str(packages.resolve()), sysconfig.get_path("platlib")]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
    done = subprocess.run(
        [*command, script, *arguments],
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return done.stdout
