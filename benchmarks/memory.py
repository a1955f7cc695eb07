"""Peak memory and time of compressing a memory-mapped table of 10 M x 16 float32 (640 MB).

    python benchmarks/memory.py [--codec axes --ratio 100]

A process of its own compresses the table; its peak resident memory counts the mapped pages, too.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

COMPRESS = """
import sys, time
import numpy as np, saec
start = time.perf_counter()
table, frequencies, codec, ratio, out = sys.argv[1:]
field = saec.Field("table", np.load(table, mmap_mode="r"), np.load(frequencies))
metrics = {"table": np.diag(0.5 ** np.arange(field.dim))} if codec == "axes" else None
result = saec.compress([field], saec.Ratio(float(ratio)), metrics=metrics, progress=False)
result.save(out)
peak = next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]
print(int(peak) * 1024, result.compression_ratio, time.perf_counter() - start)
"""


def write_table(folder: Path, rows: int, dim: int) -> None:
    rng = np.random.default_rng(0)
    table = np.lib.format.open_memmap(
        folder / "table.npy", mode="w+", dtype=np.float32, shape=(rows, dim)
    )
    centres = rng.standard_normal((1000, dim), dtype=np.float32)
    block = 1 << 18
    for start in range(0, rows, block):
        size = min(block, rows - start)
        noise = 0.3 * rng.standard_normal((size, dim), dtype=np.float32)
        table[start : start + size] = centres[rng.integers(0, 1000, size)] + noise
    table.flush()
    np.save(folder / "frequencies.npy", np.maximum(1, (rows / np.arange(1, rows + 1)).astype(int)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--codec", choices=("clusters", "axes"), default="clusters")
    parser.add_argument("--ratio", type=float, default=27)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_table(folder, options.rows, options.dim)
        inputs = [folder / "table.npy", folder / "frequencies.npy"]
        arguments = [*inputs, options.codec, options.ratio]
        command = [sys.executable, "-c", COMPRESS, *map(str, arguments), str(folder / "out.saec")]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    peak, ratio, seconds = (float(x) for x in printed.split())
    table = options.rows * options.dim * 4
    print(
        f"{options.codec}: table {table / 1e6:.0f} MB, peak {peak / 1e6:.0f} MB, "
        f"beyond the table {(peak - table) / 1e6:.0f} MB, ratio {ratio:.1f}, {seconds:.0f} s"
    )


if __name__ == "__main__":
    main()
