"""Static functions: bits for each key, build and query time, against a hash map and a fuse graph.

    python benchmarks/static_functions.py --keys 1000 100000 1000000 --json functions.json

Needs a C++ compiler. The hash map goes from key to index with open addressing and prefetches; the
binary fuse graph has four places for each key and packed slots. Times are those of the
processor, minima of runs in turn by one thread.
"""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from saec.bits.codewords import Codewords, reversed_bits
from saec.codecs.axes.code_lengths import code_lengths
from saec.keys.building import build_function
from saec.reference.experiment import write_json
from saec.reference.machine import machine

HERE = Path(__file__).resolve().parent
MOST_ASKED = 2_000_000


def rivals() -> ctypes.CDLL:
    """The C++ file beside this one, compiled."""
    folder = tempfile.mkdtemp(prefix="saec-functions-")
    library = Path(folder) / "rivals.so"
    options = ["-O3", "-std=c++20", "-shared", "-fPIC", f"-I{HERE.parent / 'native'}"]
    command = ["c++", *options, str(HERE / "static_functions.cpp"), "-o", str(library)]
    subprocess.run(command, check=True)
    loaded = ctypes.CDLL(str(library))
    for name in ("map_of", "map_bytes", "fuse_slots"):
        getattr(loaded, name).restype = ctypes.c_size_t
    loaded.fuse_solve.restype = ctypes.c_bool
    return loaded


def address(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


class FuseGraph:
    """The smallest of growing graphs that can be solved with one of three seeds."""

    def __init__(self, library: ctypes.CDLL, hashes: np.ndarray, values: np.ndarray, bits: int):
        self.library, self.bits = library, bits
        count = ctypes.c_size_t(len(hashes))
        segment_bits = max(1, min(16, round(np.log(len(hashes)) / np.log(2.91) - 0.5)))
        for percent in range(104, 200):
            starts = max(1, round(len(hashes) * percent / 100 / 2**segment_bits) - 3)
            slots = library.fuse_slots(starts, segment_bits)
            for seed in range(3):
                self.data = np.zeros(slots * bits // 8 + 9, np.uint8)
                self.shape = (bits, starts, segment_bits, ctypes.c_uint64(seed))
                start = time.process_time()
                solved = library.fuse_solve(
                    address(hashes), address(values), count, *self.shape, address(self.data)
                )
                self.seconds = time.process_time() - start
                if solved:
                    return

    def find(self, hashes: np.ndarray) -> np.ndarray:
        found = np.empty(len(hashes), np.uint64)
        count = ctypes.c_size_t(len(hashes))
        self.library.fuse_find(
            address(hashes), count, *self.shape, address(self.data), address(found)
        )
        return found


def in_turn(rivals: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Processor seconds of each run, after one warm-up; other programs do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for repeat in range(repeats + 1):
        for name, run in rivals.items():
            start = time.process_time()
            run()
            if repeat:
                seconds[name].append(time.process_time() - start)
    return seconds


def least(runs: dict[str, list[float]], asked: int) -> dict[str, float]:
    return {name: round(min(seconds) / asked * 1e9, 1) for name, seconds in runs.items()}


def fixed(library: ctypes.CDLL, count: int, bits: int, repeats: int) -> dict[str, Any]:
    """Values of one width."""
    rng = np.random.default_rng(count)
    hashes = rng.integers(0, 2**64, count, dtype=np.uint64)
    values = rng.integers(0, 2**bits, count, dtype=np.uint64)
    asked = rng.choice(hashes, min(count * 4, MOST_ASKED))
    start = time.process_time()
    function = build_function(hashes, values, bits, threads=1)
    seconds = time.process_time() - start
    fuse = FuseGraph(library, hashes, values, bits)
    table = ctypes.c_void_p(library.map_of(address(hashes), ctypes.c_size_t(count)))
    index = np.empty(len(asked), np.uint32)
    size = ctypes.c_size_t(len(asked))
    times = in_turn(
        {
            "saec": lambda: function.lookup(asked, threads=1),
            "fuse": lambda: fuse.find(asked),
            "map": lambda: library.map_find(table, address(asked), size, address(index)),
        },
        repeats,
    )
    assert np.array_equal(function.lookup(asked), fuse.find(asked))
    assert np.array_equal(hashes[index], asked)
    map_bytes = library.map_bytes(table)
    library.map_free(table)
    return {
        "keys": count,
        "bits": bits,
        "saec_bytes_over_values": round(function.nbytes * 8 / count / bits, 4),
        "fuse_bytes_over_values": round(fuse.data.nbytes * 8 / count / bits, 4),
        "map_bits_a_key": round(map_bytes * 8 / count, 1),
        "saec_build_us": round(seconds / count * 1e6, 3),
        "fuse_build_us": round(fuse.seconds / count * 1e6, 3),
        "query_ns": least(times, len(asked)),
    }


MIXTURES = {
    "normal": lambda rng, count: np.rint(rng.normal(50, 6, count)).astype(np.int64),
    "five_tiers": lambda rng, count: rng.choice(5, count, p=[0.5, 0.3, 0.15, 0.04, 0.01]),
    "words": lambda rng, count: np.rint(rng.normal(0, 400, count)).astype(np.int64) + 5000,
}


def coded(name: str, count: int, repeats: int) -> dict[str, Any]:
    """Symbols in a prefix code."""
    rng = np.random.default_rng(count)
    hashes = rng.integers(0, 2**64, count, dtype=np.uint64)
    _, symbols, counts = np.unique(
        MIXTURES[name](rng, count), return_inverse=True, return_counts=True
    )
    entropy = float(-(counts / count * np.log2(counts / count)).sum())
    code = Codewords(code_lengths(counts.astype(np.float64), np.zeros(len(counts)), 1.0, 1.0))
    lengths = code.lengths[symbols].astype(np.uint8)
    values = reversed_bits(code.words())[symbols]
    start = time.process_time()
    function = build_function(hashes, values, lengths, threads=1)
    seconds = time.process_time() - start
    asked = rng.choice(hashes, min(count * 4, MOST_ASKED))
    times = in_turn({"saec": lambda: function.lookup(asked, threads=1)}, repeats)
    return {
        "keys": count,
        "symbols": name,
        "entropy": round(entropy, 3),
        "bits_a_key": round(function.nbytes * 8 / count, 3),
        "over_entropy": round(function.nbytes * 8 / count / entropy, 4),
        "over_codewords": round(function.nbytes * 8 / int(lengths.sum(dtype=np.int64)), 4),
        "build_us": round(seconds / count * 1e6, 3),
        "query_ns": least(times, len(asked)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--keys", type=int, nargs="+", default=[1000, 100_000, 1_000_000])
    parser.add_argument("--bits", type=int, nargs="+", default=[1, 4, 8, 16, 32])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    library = rivals()
    rows: list[dict[str, Any]] = []
    for count in options.keys:
        for bits in options.bits:
            rows.append(fixed(library, count, bits, options.repeats))
            print(rows[-1], flush=True)
        for name in MIXTURES:
            rows.append(coded(name, count, options.repeats))
            print(rows[-1], flush=True)
    if options.json:
        write_json(options.json, {"machine": machine(), "rows": rows})


if __name__ == "__main__":
    main()
