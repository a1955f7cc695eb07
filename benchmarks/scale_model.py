"""What compression with axes takes, predicted; and against what scale.py measured.

    python benchmarks/scale_model.py scale.json ...
    python benchmarks/scale_model.py --rows 1e10 --dim 16 --shards 1000 --workers 64

Ids are in order of frequency, at a ratio of about 100. docs/scale.md has the formulas in words.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from saec.format.tier_layout import tier_bounds

PART = 1 << 22  # values
SAMPLED = 1 << 17  # rows of a tier
CORES = 2  # of the machine whose runs gave the constants


@dataclass(frozen=True)
class Job:
    """A table (rows, dim) in files of equal size; ``workers`` 0: one process, no cluster."""

    rows: int
    dim: int
    shards: int
    workers: int
    cores: int

    @property
    def parts(self) -> int:
        return self.shards * math.ceil(self.rows / self.shards * self.dim / PART)

    @property
    def sampled(self) -> int:
        """Rows in the samples of all tiers."""
        return int(np.minimum(np.diff(tier_bounds(self.rows)), SAMPLED).sum())

    @property
    def samples(self) -> float:
        """Bytes of the samples: float32 rows and float64 frequencies."""
        return self.sampled * (4.0 * self.dim + 8)

    @property
    def seconds(self) -> float:
        """Fixed, learning from the samples, reading and coding, and what each part costs on top."""
        values, learned = self.rows * self.dim, self.sampled * self.dim
        if not self.workers:
            return 2.1 + 0.29e-6 * learned + 0.034e-6 * values + 0.0043 * self.parts
        share = values / min(self.workers, self.cores)
        return 2.3 + 0.39e-6 * learned + 0.047e-6 * share + 0.0091 * self.parts

    @property
    def network(self) -> float:
        """Bytes: samples to scheduler and client, some between workers; messages about tasks."""
        if not self.workers:
            return 0.0
        levels = max(1, math.ceil(math.log(self.parts, 8)))
        moved = 0.5 * levels * (self.workers - 1) / self.workers
        return (2 + moved) * self.samples + 20e3 * self.parts

    @property
    def memory(self) -> float:
        """Peak resident bytes of the process, or of the client with the scheduler."""
        if not self.workers:
            return max(227e6, 110e6 + 3.2 * self.samples)
        return 133e6 + 3.8 * self.samples + 40e3 * self.parts

    @property
    def worker_memory(self) -> float:
        """Peak resident bytes of the worker that merges last."""
        return 123e6 + max(28.0 * PART, 3 * self.samples) if self.workers else 0.0


def line(job: Job, measured: dict[str, float] | None) -> str:
    """A row of a Markdown table, predicted / measured."""
    known = measured or {}
    cells = [
        (job.seconds, known.get("seconds"), 1, ".1f"),
        (job.network, known.get("network"), 1e6, ".0f"),
        (job.memory, known.get("peak"), 1e6, ".0f"),
        (job.worker_memory, known.get("worker_peak"), 1e6, ".0f"),
    ]
    shown = [
        f"{predicted / unit:,{form}}" + ("" if found is None else f" / {found / unit:,{form}}")
        for predicted, found, unit, form in cells
    ]
    given = [f"{job.rows:,}", f"{job.dim}", f"{job.parts:,}", str(job.workers or "-")]
    return "| " + " | ".join([*given, *shown]) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("measured", nargs="*", type=Path, help="what scale.py wrote")
    parser.add_argument("--rows", type=float)
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args()
    print("| rows | dim | parts | workers | seconds | network MB | process MB | worker MB |")
    print("|---|---|---|---|---|---|---|---|")
    if options.rows is not None:
        rows, dim, workers = int(options.rows), options.dim, options.workers
        print(line(Job(rows, dim, options.shards, workers, workers), None))
    for file in options.measured:
        for case in json.loads(file.read_text())["cases"]:
            job = Job(*(case[name] for name in ("rows", "dim", "shards", "workers")), CORES)
            print(line(job, case | {"worker_peak": max(case["worker_peaks"], default=0)}))


if __name__ == "__main__":
    main()
