"""Time and memory of an update of a large table, beside compressing the same day afresh.

    python benchmarks/days_updates.py --rows 10000000
    python benchmarks/days_updates.py --rows 10000000 --ids

The table of days_speed.py, 5 % of whose rows changed since the base. Its rows, keys and counts are
files that are mapped. Update and compression write files and run in turn, each in a process of its
own, without forecasts. ``peak_gb`` counts the mapped pages of files that are in memory; ``own_gb``
is the most memory without these, seen 50 times a second.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from days_speed import METRIC, RATIO, Table
from timing import own_bytes, peak_bytes

import saec

METRICS = {"user": METRIC}


def write(folder: Path, day: int, table: Table) -> None:
    parts = {"weights": table.weights, "counts": table.counts, **table.keys}
    for name, part in parts.items():
        np.save(folder / f"{name}{day}.npy", part)


def field_of(folder: Path, day: int) -> saec.Field:
    """The table of a day, with keys if there are any."""
    names = ("weights", "counts", "user")
    paths = [folder / f"{name}{day}.npy" for name in names]
    weights, counts, *keys = (np.load(path, mmap_mode="r") for path in paths if path.exists())
    if keys:
        return saec.Field("user", weights, counts, keys=keys[0], unseen_share=0.05)
    return saec.Field("user", weights, counts)


def compress(folder: Path, day: int) -> int:
    """Bytes of a day's artifact."""
    result = saec.compress(
        [field_of(folder, day)],
        saec.Ratio(RATIO),
        metrics=METRICS,
        progress=False,
        out=folder / f"day{day}.saec",
    )
    return result.nbytes


def update(folder: Path) -> int:
    """Bytes of the patch of day 1."""
    done = saec.update(
        folder / "day0.saec",
        [field_of(folder, 1)],
        out=folder / "day1.patch",
        metrics=METRICS,
        compare=False,
        progress=False,
    )
    return done.nbytes


STEPS: dict[str, Callable[[Path], int]] = {
    "base": lambda folder: compress(folder, 0),
    "update": update,
    "afresh": lambda folder: compress(folder, 1),
}


class OwnMemory(threading.Thread):
    """The most memory of this process without mapped files, in bytes."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self.over = 0, threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.02):
            self.most = max(self.most, own_bytes())


def measured(step: str, folder: Path) -> dict[str, Any]:
    """Seconds and gigabytes of a step in this process."""
    memory = OwnMemory()
    memory.start()
    start = time.perf_counter()
    nbytes = STEPS[step](folder)
    seconds = time.perf_counter() - start
    memory.over.set()
    return {
        "step": step,
        "seconds": round(seconds, 1),
        "processor_seconds": round(time.process_time(), 1),
        "peak_gb": round(peak_bytes() / 1e9, 2),
        "own_gb": round(memory.most / 1e9, 2),
        "nbytes": nbytes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--ids", action="store_true", help="a table without keys")
    parser.add_argument("--repeats", type=int, default=3, help="of update and compression")
    parser.add_argument("--folder", type=Path, help="for the files; a temporary one by default")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        print(json.dumps(measured(given.step, given.folder)), flush=True)
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        table = Table(given.rows, not given.ids)
        write(Path(folder), 0, table)
        table.next_day()
        write(Path(folder), 1, table)
        del table
        for step in ["base", *given.repeats * ["update", "afresh"]]:
            command = [sys.executable, __file__, "--step", step, "--folder", folder]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
