"""What a disk can give: reads of 4 kB in random places of a file, by programs that do nothing else.

Needs a C++ compiler. The ways take turns; the figures are medians.
"""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
SOURCES = ("disk_reads", "ring_reads", "read_ring", "thread_reads")

WAITING = "2 threads that wait for a page each of a mapping"
# Name, and what read_rate() takes: the way and its number.
WAYS = {
    WAITING: (0, 2),
    "2 threads that read": (1, 2),
    "16 threads that read": (1, 16),
    "64 threads that read": (1, 64),
    "io_uring, 2 x 32 reads under way": (2, 32),
    "io_uring, 2 x 128 reads under way": (2, 128),
}


def compiled(folder: Path) -> ctypes.CDLL:
    """The C++ file beside this one, with the project's own ways to read."""
    library, native = folder / "disk_reads.so", HERE.parent / "native"
    sources = [
        str(HERE / "disk_reads.cpp"),
        *(str(native / f"cold/{name}.cpp") for name in SOURCES),
    ]
    options = ["-O3", "-std=c++20", "-shared", "-fPIC", "-pthread", f"-I{native}"]
    subprocess.run(["c++", *options, *sources, "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


def ceiling(path: Path, seconds: float = 2.0, rounds: int = 3) -> dict[str, dict[str, float]]:
    """Reads a second and microseconds of processor time a read, by each way that is possible."""
    found: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        library = compiled(Path(folder))
        library.read_rate.restype = ctypes.c_bool
        for _ in range(rounds):
            for name, (way, number) in WAYS.items():
                result = (ctypes.c_double * 2)()
                given = (bytes(path), way, number, ctypes.c_double(seconds), result)
                if library.read_rate(*given):
                    found.setdefault(name, []).append((result[0], result[1]))
    return {
        name: dict(
            zip(("reads_per_second", "processor_us"), np.median(rates, 0).tolist(), strict=True)
        )
        for name, rates in found.items()
    }
