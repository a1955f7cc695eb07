"""Time and memory of compressing tables from a million rows to a hundred, in a file on disk.

    python benchmarks/scale.py [--rows 1e6,3e6,1e7,3e7,1e8] [--workers 0,2,4] [--json scale.json]

Tables are float32, dim 16, made from a seed, in order of frequency as a click pipeline numbers
them; --shuffled gives ids without order. Every case runs in a process of its own, whose peak
resident memory is reported with those of its workers; 0 workers: no cluster, one process.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

DIM = 16
BLOCK = 1 << 18
COMPRESS = str(Path(__file__).with_name("scale_case.py"))


def write_table(folder: Path, rows: int, shuffled: bool) -> None:
    """``weights.npy`` and ``frequencies.npy``; a larger table begins with the rows of a smaller."""
    rng = np.random.default_rng(0)
    turn, _ = np.linalg.qr(rng.standard_normal((DIM, DIM)))
    turn = (turn * np.logspace(0, -1.5, DIM)[:, None]).astype(np.float32)
    table = np.lib.format.open_memmap(
        folder / "weights.npy", mode="w+", dtype=np.float32, shape=(rows, DIM)
    )
    counts = np.lib.format.open_memmap(
        folder / "frequencies.npy", mode="w+", dtype=np.int32, shape=(rows,)
    )
    for start in range(0, rows, BLOCK):
        block = np.random.default_rng([1, start])
        size = min(BLOCK, rows - start)
        ranks = block.integers(1, rows, size) if shuffled else np.arange(start, start + size) + 1
        # Rare rows have moved less from where they began.
        length = np.minimum(1.0, 0.1 + 3.0 / np.sqrt(np.log2(ranks + 1)))[:, None]
        coordinates = block.standard_normal((BLOCK, DIM), dtype=np.float32)[:size]
        table[start : start + size] = (coordinates * length) @ turn
        counts[start : start + size] = np.maximum(1, rows // ranks)
    table.flush()
    counts.flush()


def run_case(folder: Path, codec: str, ratio: float, memory: str, workers: int) -> dict[str, Any]:
    """Compress in a process of its own; what it printed."""
    out = folder / "out.saec"
    arguments = [str(folder), codec, str(ratio), memory, str(workers), str(out)]
    printed = subprocess.run(
        [sys.executable, COMPRESS, *arguments], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    case: dict[str, Any] = json.loads(printed.splitlines()[-1])
    case["sha256"] = _hashed(out) if out.exists() else None
    for file in folder.glob("out.saec*"):
        file.unlink()
    return case


def _hashed(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="1e6,3e6,1e7,3e7,1e8")
    parser.add_argument("--workers", default="0")
    parser.add_argument("--codec", choices=("axes", "frequency", "clusters"), default="axes")
    parser.add_argument("--ratio", type=float, default=100)
    parser.add_argument("--memory", default="2GB", help="all: read the table into memory first")
    parser.add_argument("--shuffled", action="store_true")
    parser.add_argument(
        "--folder", type=Path, help="of the table on disk; a temporary one unless told"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cases: list[dict[str, Any]] = []
    for rows in (int(float(text)) for text in options.rows.split(",")):
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            folder = Path(name)
            write_table(folder, rows, options.shuffled)
            for workers in map(int, options.workers.split(",")):
                case = {"rows": rows, "dim": DIM, "codec": options.codec, "workers": workers}
                case |= run_case(folder, options.codec, options.ratio, options.memory, workers)
                cases.append(case)
                peaks = ", ".join(f"{peak / 1e6:.0f}" for peak in case["worker_peaks"])
                print(
                    f"{rows:>11,} x {DIM} {options.codec}, {workers} workers: "
                    f"{case['seconds']:6.1f} s, peak {case['peak'] / 1e6:5.0f} MB"
                    + (f" (workers {peaks} MB)" if peaks else "")
                    + f", ratio {case['ratio']:.1f}, predicted {case['predicted']}",
                    flush=True,
                )
                if options.json is not None:
                    options.json.write_text(json.dumps({"cases": cases}, indent=2) + "\n")


if __name__ == "__main__":
    main()
