"""Timing of rivals in turn in one run, so that a machine that slows down slows all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


def interleave(rivals: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each run of each rival: A B C, A B C, ... after one warm-up of each."""
    for run in rivals.values():
        run()
    return interleave_cold(rivals, repeats)


def interleave_cold(
    rivals: Mapping[str, Callable[[], object]], repeats: int
) -> dict[str, list[float]]:
    """As :func:`interleave`, without the warm-up, for runs of minutes."""
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(repeats):
        for name, run in rivals.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def medians(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    """Median seconds of each rival."""
    return {name: statistics.median(runs) for name, runs in seconds.items()}
