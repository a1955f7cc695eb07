"""This version against another one, in turn: time to compress a table, and lookups from it.

    git worktree add ../other COMMIT
    pip install --no-deps --target other-packages ../other
    python benchmarks/versions.py --other other-packages --repeats 3

A table of --rows rows is compressed by axes at a ratio of 100, with ids in order of frequency, and
bags of 20 are read from it, of uniform and of Zipf ids, on one thread. Each version runs in a
process of its own; only public names are used. Ratios are those of medians: above 1, this version
is faster.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from timing import run_version

DIM, BAG, BAGS, CALLS = 16, 20, 4096, 30


def measured(rows: int) -> dict[str, float]:
    """Seconds to compress, and nanoseconds for an id, by the version that is imported."""
    import saec

    rng = np.random.default_rng(0)
    weights = rng.standard_normal((rows, DIM), dtype=np.float32)
    weights *= np.float32(0.8) ** np.arange(DIM, dtype=np.float32)
    counts = np.maximum(2 * rows // np.arange(1, rows + 1), 1)
    field = saec.Field("item", weights, counts)
    start = time.perf_counter()
    stored = saec.compress(
        [field], saec.Ratio(100), codec=saec.Axes(order="frequency"), progress=False
    )["item"]
    found = {"compress": time.perf_counter() - start}
    offsets = np.arange(0, BAG * BAGS, BAG)
    for name in ("uniform", "zipf"):
        drawn = rng.random((CALLS, BAG * BAGS))
        ids = (drawn * rows if name == "uniform" else rows**drawn - 1).astype(np.int64)
        times = []
        for some in ids:
            start = time.perf_counter()
            stored.pool(some, offsets, threads=1)
            times.append(time.perf_counter() - start)
        found[name] = 1e9 * median(times) / (BAG * BAGS)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--other", type=Path, help="folder of the other version's packages")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measured(options.rows)))
        return
    runs: dict[str, list[dict[str, Any]]] = {"other": [], "this": []}
    for _ in range(options.repeats):
        for name, packages in (("other", options.other), ("this", None)):
            printed = run_version(packages, __file__, ["--child", "--rows", str(options.rows)])
            runs[name].append(json.loads(printed))
            print(name, runs[name][-1], flush=True)
    for what in runs["this"][0]:
        other, this = (median(one[what] for one in runs[name]) for name in runs)
        print(f"{what}: {other:.3g} -> {this:.3g}, ratio {other / this:.2f}")


if __name__ == "__main__":
    main()
