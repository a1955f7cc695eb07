"""Time, memory and network of compressing tables from a million rows to a hundred, in a file.

    python benchmarks/scale.py [--rows 1e6,3e6,1e7,3e7,1e8] [--workers 0,2,4] [--json scale.json]

Tables are float32, made from a seed, in order of frequency as a click pipeline numbers them;
--shuffled gives ids without order. Every case runs in a process of its own, whose peak resident
memory is reported with those of its workers; 0 workers: no cluster, one process.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

BLOCK_VALUES = 1 << 22
CASE = str(Path(__file__).with_name("scale_case.py"))

# A network of its own (Linux), or others' bytes would be counted.
ALONE = ["unshare", "--user", "--map-root-user", "--net"]
ALONE += ["sh", "-c", 'ip link set lo up && exec "$@"', "alone"]


def table_in(folder: Path, rows: int, dim: int, shuffled: bool) -> Path:
    """The folder of a table, which is made unless it is there."""
    made = folder / f"{rows}x{dim}{'-shuffled' if shuffled else ''}"
    if not made.exists():
        with tempfile.TemporaryDirectory(dir=folder) as name:
            unfinished = Path(name) / made.name
            unfinished.mkdir()
            write_table(unfinished, rows, dim, shuffled)
            unfinished.rename(made)
    return made


def write_table(folder: Path, rows: int, dim: int, shuffled: bool) -> None:
    """``weights.npy`` and ``frequencies.npy``; a larger table begins with the rows of a smaller."""
    rng = np.random.default_rng(0)
    turn, _ = np.linalg.qr(rng.standard_normal((dim, dim)))
    turn = (turn * np.logspace(0, -1.5, dim)[:, None]).astype(np.float32)
    table, counts = (
        np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, shape)
        for name, dtype, shape in (
            ("weights", np.float32, (rows, dim)),
            ("frequencies", np.int32, (rows,)),
        )
    )
    most = BLOCK_VALUES // dim
    for start in range(0, rows, most):
        block = np.random.default_rng([1, start])
        size = min(most, rows - start)
        ranks = block.integers(1, rows, size) if shuffled else np.arange(start, start + size) + 1
        # Rare rows have moved less from where they began.
        length = np.minimum(1.0, 0.1 + 3.0 / np.sqrt(np.log2(ranks + 1)))[:, None]
        coordinates = block.standard_normal((most, dim), dtype=np.float32)[:size]
        table[start : start + size] = (coordinates * length) @ turn
        counts[start : start + size] = np.maximum(1, rows // ranks)
    table.flush()
    counts.flush()


def forget(table: Path) -> None:
    """Drop the table's pages from the page cache, so that it is read from the disk."""
    for file in table.iterdir():
        with file.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def run_case(table: Path, out: Path, options: argparse.Namespace, workers: int) -> dict[str, Any]:
    """Compress in a process of its own; what it printed."""
    arguments = [str(table), str(out), options.codec, str(options.ratio), options.memory]
    command = [sys.executable, CASE, *arguments, str(workers), str(options.shards)]
    printed = subprocess.run(
        [*(ALONE if workers else []), *command],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    case: dict[str, Any] = json.loads(printed.splitlines()[-1])
    case["sha256"] = _hashed(out.with_name(f"{out.name}.joined"))
    return case


def _hashed(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def show(case: dict[str, Any]) -> None:
    peaks = ", ".join(f"{peak / 1e6:.0f}" for peak in case["worker_peaks"])
    print(
        f"{case['rows']:>11,} x {case['dim']} {case['codec']}, {case['workers']} workers: "
        f"{case['seconds']:6.1f} s, peak {case['peak'] / 1e6:5.0f} MB"
        + (f" (workers {peaks} MB; network {case['network'] / 1e6:.1f} MB)" if peaks else "")
        + f", ratio {case['ratio']:.2f}, predicted {case['predicted']:.9g}, "
        f"sha256 {case['sha256'][:12]}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="1e6,3e6,1e7,3e7,1e8")
    parser.add_argument("--dim", default=16, type=int)
    parser.add_argument("--workers", default="0")
    parser.add_argument("--shards", default=1, type=int, help="files it counts as")
    codecs = ("axes", "frequency", "code", "clusters")
    parser.add_argument("--codec", choices=codecs, default="axes")
    parser.add_argument("--ratio", type=float, default=100)
    parser.add_argument("--memory", default="2GB", help="all: read the table into memory first")
    parser.add_argument("--shuffled", action="store_true")
    parser.add_argument("--cold", action="store_true", help="from the disk, not the page cache")
    parser.add_argument(
        "--folder", type=Path, help="where tables stay; a temporary one unless told"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cases: list[dict[str, Any]] = []
    with ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder)))
        for rows in (int(float(text)) for text in options.rows.split(",")):
            table = table_in(folder, rows, options.dim, options.shuffled)
            for workers in map(int, options.workers.split(",")):
                if options.cold:
                    forget(table)
                given = {"rows": rows, "dim": options.dim, "codec": options.codec}
                given |= {"workers": workers, "shards": options.shards, "cold": options.cold}
                out = work / "out.saec"
                cases.append(given | run_case(table, out, options, workers))
                for file in work.iterdir():
                    file.unlink()
                show(cases[-1])
                if options.json is not None:
                    options.json.write_text(json.dumps({"cases": cases}, indent=2) + "\n")


if __name__ == "__main__":
    main()
