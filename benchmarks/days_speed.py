"""Time of updates, and of lookups through a base and its patches.

    python benchmarks/days_speed.py --rows 1000000
    python benchmarks/days_speed.py --rows 1000000 --ids

A made table with keys, or with ids in no order of frequency, is compressed. Each day 4 % of its
rows move and 1 % are new. The first update is timed beside compressing the same day afresh, both
without forecasts. Lookups of uniform and of Zipf's keys through the base alone, the base and 1, 3
and 7 patches, and the compacted artifact are timed in turn: by one thread in processor time, by two
in elapsed time.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from timing import interleave, medians

import saec

DIM, RATIO, DAYS = 16, 40, 7
MOVED, NEW = 0.04, 0.01
BATCH, BATCHES, REPEATS = 1 << 16, 8, 7
STEP = np.uint64(0x9E3779B97F4A7C15)  # odd, so that all keys differ
METRIC = np.diag(np.float64(0.8) ** np.arange(DIM)) * 1e-2


class Table:
    """Rows that are longer where frequent; new rows are rare."""

    def __init__(self, rows: int, keyed: bool) -> None:
        self.rng, self.keyed = np.random.default_rng(0), keyed
        self.counts = np.maximum(2 * rows // (np.arange(rows) + 1), 1)
        # By key the rows may be in order of frequency. Ids of most models are in none.
        self.order = np.arange(rows) if keyed else self.rng.permutation(rows)
        self.counts = self.counts[np.argsort(self.order)]
        self.weights = self.drawn(self.counts)

    def drawn(self, counts: NDArray[np.int64]) -> NDArray[np.float32]:
        axes = np.float32(0.8) ** np.arange(DIM, dtype=np.float32)
        rows = self.rng.standard_normal((len(counts), DIM), dtype=np.float32) * axes
        scaled: NDArray[np.float32] = rows * (0.3 * np.log1p(counts)).astype(np.float32)[:, None]
        return scaled

    def next_day(self) -> None:
        """Some rows move by half their lengths, and some are new."""
        rows = len(self.counts)
        places = self.rng.choice(rows, int(MOVED * rows), replace=False)
        self.weights[places] += 0.5 * self.drawn(self.counts[places])
        counts = np.maximum(self.rng.pareto(1.2, int(NEW * rows)).astype(np.int64), 1)
        self.weights = np.concatenate([self.weights, self.drawn(counts)])
        self.counts = np.concatenate([self.counts, counts])

    @property
    def keys(self) -> dict[str, NDArray[np.int64]]:
        """By field name, for compaction."""
        if not self.keyed:
            return {}
        return {"user": (np.arange(len(self.counts), dtype=np.uint64) * STEP).view(np.int64)}

    @property
    def field(self) -> saec.Field:
        if not self.keyed:
            return saec.Field("user", self.weights, self.counts)
        keys = self.keys["user"]
        return saec.Field("user", self.weights, self.counts, keys=keys, unseen_share=0.05)

    def asked(self, ranks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Keys or ids of the rows that were at ``ranks`` by frequency on the first day."""
        if not self.keyed:
            return self.order[ranks]
        return (ranks.astype(np.uint64) * STEP).view(np.int64)


def days(folder: Path, table: Table, threshold: float | None) -> dict[str, Any]:
    """Write base.saec, 1.patch to 7.patch and one.saec; seconds and bytes."""
    metrics = {"user": METRIC}
    saec.compress(
        [table.field], saec.Ratio(RATIO), metrics=metrics, progress=False, out=folder / "base.saec"
    )
    found: dict[str, Any] = {"base_bytes": (folder / "base.saec").stat().st_size, "patches": []}
    for day in range(1, DAYS + 1):
        table.next_day()
        start = time.perf_counter()
        done = saec.update(
            folder / "base.saec",
            [table.field],
            out=folder / f"{day}.patch",
            patches=[folder / f"{other}.patch" for other in range(1, day)],
            metrics=metrics,
            threshold=threshold,
            share=None,
            compare=False,
            progress=False,
        )
        seconds = time.perf_counter() - start
        own = {"bytes": done.nbytes, "seconds": seconds, "keys": done.counts.changed}
        found["patches"].append(own)
        if day == 1:
            start = time.perf_counter()
            saec.compress([table.field], saec.Ratio(RATIO), metrics=metrics, progress=False)
            found["afresh_seconds"] = time.perf_counter() - start
    patches = [folder / f"{day}.patch" for day in range(1, DAYS + 1)]
    start = time.perf_counter()
    made = saec.compact(
        folder / "base.saec", patches=patches, keys=table.keys, out=folder / "one.saec"
    )
    found |= {"compact_seconds": time.perf_counter() - start, "compact_bytes": made.nbytes}
    return found


def lookups(folder: Path, table: Table, rows: int) -> dict[str, Any]:
    """Nanoseconds of a lookup, by keys and artifact; and seconds of loading seven patches."""
    start = time.perf_counter()
    chain = [folder / f"{day}.patch" for day in range(1, DAYS + 1)]
    saec.load(folder / "base.saec", patches=chain)["user"].lookup(table.asked(np.zeros(1, int)))
    found: dict[str, Any] = {"load_seconds": time.perf_counter() - start}
    every = {
        str(count): saec.load(
            folder / "base.saec", patches=[folder / f"{day}.patch" for day in range(1, count + 1)]
        )["user"]
        for count in (0, 1, 3, DAYS)
    } | {"compacted": saec.load(folder / "one.saec")["user"]}
    rng = np.random.default_rng(1)
    numbers = {
        "uniform": rng.integers(0, rows, (BATCHES, BATCH)),
        "zipf": np.minimum(rng.zipf(1.05, (BATCHES, BATCH)) - 1, rows - 1),
    }
    for name, ids in numbers.items():
        keys = table.asked(ids)
        for threads, clock in ((1, time.process_time), (2, time.perf_counter)):

            def asked(
                field: saec.CompressedField,
                keys: NDArray[np.int64] = keys,
                threads: int = threads,
            ) -> None:
                for batch in keys:
                    field.lookup(batch, threads=threads)

            rivals = {label: partial(asked, field) for label, field in every.items()}
            # Other loads share the processors.
            seconds = medians(interleave(rivals, REPEATS, clock))
            nanoseconds = {label: 1e9 * each / ids.size for label, each in seconds.items()}
            found[f"{name}, threads {threads}"] = nanoseconds
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--threshold", type=float, help="of updates; with 0 all moved rows count")
    parser.add_argument("--ids", action="store_true", help="a table without keys")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        table = Table(given.rows, not given.ids)
        found = days(Path(folder), table, given.threshold)
        print(json.dumps(found | lookups(Path(folder), table, given.rows), indent=1))


if __name__ == "__main__":
    main()
