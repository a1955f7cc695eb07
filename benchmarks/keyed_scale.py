"""Time and memory of compressing a large table with keys, in files.

    python benchmarks/keyed_scale.py --rows 100000000

Rows, keys and counts are files that are mapped; they take 80 bytes a row in --folder at dim 16,
and what compression keeps on the disk up to 70 more. The table is compressed into a file, in a
process of its own. Its peak memory counts the mapped pages of the files that are in memory;
``own_gb`` is the memory at the end without these.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from timing import own_bytes, peak_bytes

import saec

DIM, RATIO, BLOCK = 16, 40, 1 << 21
STEP = np.uint64(0x9E3779B97F4A7C15)  # odd, so that all keys differ


def make(folder: Path, rows: int) -> None:
    """Rows that are longer where frequent, on axes of falling lengths, in order of frequency."""
    rng = np.random.default_rng(0)
    shapes: dict[str, tuple[type, tuple[int, ...]]] = {
        "weights": (np.float32, (rows, DIM)),
        "counts": (np.int64, (rows,)),
        "keys": (np.int64, (rows,)),
    }
    files = {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, shape)
        for name, (dtype, shape) in shapes.items()
    }
    axes = np.float32(0.8) ** np.arange(DIM, dtype=np.float32)
    for start in range(0, rows, BLOCK):
        own = np.arange(start, min(start + BLOCK, rows))
        part = slice(start, start + len(own))
        counts = np.maximum(2 * rows // (own + 1), 1)
        drawn = rng.standard_normal((len(own), DIM), dtype=np.float32) * axes
        files["weights"][part] = drawn * (0.3 * np.log1p(counts)).astype(np.float32)[:, None]
        files["counts"][part] = counts
        files["keys"][part] = (own.astype(np.uint64) * STEP).view(np.int64)


def measured(folder: Path) -> dict[str, Any]:
    """Seconds and gigabytes of a compression in this process."""

    def mapped(name: str) -> NDArray[Any]:
        return np.load(folder / f"{name}.npy", mmap_mode="r")

    start = time.perf_counter()
    field = saec.Field("item", mapped("weights"), mapped("counts"), keys=mapped("keys"))
    checked = time.perf_counter()
    out = folder / "item.saec"
    stored = saec.compress([field], saec.Ratio(RATIO), progress=False, out=out)["item"]
    own = own_bytes()
    return {
        "rows": stored.vocab_size,
        "field_seconds": round(checked - start, 1),
        "seconds": round(time.perf_counter() - start, 1),
        "processor_seconds": round(time.process_time(), 1),
        "peak_gb": round(peak_bytes() / 1e9, 2),
        "own_gb": round(own / 1e9, 2),
        "nbytes": stored.nbytes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, help="for the files; a temporary one by default")
    parser.add_argument("--table", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.table:
        print(json.dumps(measured(options.table)), flush=True)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        make(Path(folder), options.rows)
        subprocess.run([sys.executable, __file__, "--table", folder], check=True)


if __name__ == "__main__":
    main()
