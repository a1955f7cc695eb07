"""Opening an artifact of 10 M features: milliseconds from its path to the first rows looked up.

    python benchmarks/opening.py --json opening.json

Every opening has a process of its own, timed after its imports; the file is in the page cache.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import lookup_tables as tables
import numpy as np

from saec.format.compressed_field import CompressedField
from saec.reference.experiment import write_json
from saec.reference.machine import machine

OPEN = """
import sys, time
import numpy as np, saec
path, rows = sys.argv[1], int(sys.argv[2])
ids = np.random.default_rng(0).integers(0, rows, 100)
start = time.perf_counter()
field = saec.load(path)["table"]
opened = time.perf_counter()
field.lookup(ids)
print(1000 * (opened - start), 1000 * (time.perf_counter() - start))
"""


def opening(field: CompressedField, path: Path, processes: int) -> dict[str, object]:
    tables.stored(field, path)
    command = [sys.executable, "-c", OPEN, str(path), str(field.vocab_size)]
    runs = [
        subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
        for _ in range(processes)
    ]
    load, first = ([float(time) for time in times] for times in zip(*runs, strict=True))
    return {
        "load_ms": statistics.median(load),
        "first_lookup_ms": statistics.median(first),
        "slowest_ms": max(first),
        "file_bytes": path.stat().st_size,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--processes", type=int, default=11)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    rows, dim = options.rows, options.dim
    makers = {
        "clusters": lambda: tables.clustered(rng, rows, dim, rows // 100),
        "axes": lambda: tables.tiered(rng, rows, dim),
        "axes, ids kept": lambda: tables.tiered(rng, rows, dim, places=tables.scattered(rng, rows)),
    }
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for name, make in makers.items():
            timed = opening(make(), Path(folder) / "table.saec", options.processes)
            found.append({"codec": name, "rows": rows, "dim": dim} | timed)
            print(found[-1], flush=True)
    if options.json is not None:
        write_json(options.json, {"machine": machine(), "rows": found})


if __name__ == "__main__":
    main()
