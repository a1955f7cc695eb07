"""Bags of rows by raw keys: saec against what goes from keys to rows elsewhere, in turn.

    python benchmarks/keys.py --rows 10000000
    SAEC_SIMD=avx2 python benchmarks/keys.py --artifact keys.saec  # of a run with --save keys.saec

Needs a C++ compiler and PyTorch; pandas if it is installed. Rivals hold float32 rows. `ids` is
nn.EmbeddingBag fed with ready ids: it shows what keys cost. Times are medians, and ratios are
medians of the quotients of runs in turn: above 1, the rival takes longer than saec.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from timing import interleave

import saec
from saec.reference.experiment import write_json
from saec.reference.machine import machine

HERE = Path(__file__).resolve().parent
DIM, BAG = 16, 20
Rivals = dict[str, Callable[[], Any]]


class RowMap:
    """The C++ file beside this one, compiled: a hash map of key to row."""

    def __init__(self, keys: NDArray[np.int64], rows: NDArray[np.float32]) -> None:
        library = Path(tempfile.mkdtemp(prefix="saec-keys-")) / "keys.so"
        options = ["-O3", "-march=native", "-std=c++20", "-shared", "-fPIC", "-pthread"]
        subprocess.run(["c++", *options, str(HERE / "keys.cpp"), "-o", str(library)], check=True)
        self.library = ctypes.CDLL(str(library))
        self.library.map_of.restype = ctypes.c_void_p
        self.library.map_bytes.restype = ctypes.c_size_t
        self.rows = rows
        size = ctypes.c_size_t
        self.map = ctypes.c_void_p(
            self.library.map_of(_at(keys), size(len(keys)), _at(rows), size(DIM))
        )
        self.nbytes = self.library.map_bytes(self.map) + rows.nbytes

    def pool(self, keys: NDArray[np.int64], threads: int) -> NDArray[np.float32]:
        out = np.empty((len(keys) // BAG, DIM), np.float32)
        sizes = map(ctypes.c_size_t, (len(out), BAG, threads))
        self.library.map_pool(self.map, _at(keys), *sizes, _at(out))
        return out


def _at(array: NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def table(rows: int) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """Keys, rows that are longer where frequent, on axes of falling lengths, and counts."""
    rng = np.random.default_rng(0)
    counts = np.maximum(2 * rows // np.arange(1, rows + 1), 1)
    weights = rng.standard_normal((rows, DIM), dtype=np.float32)
    weights *= np.float32(0.8) ** np.arange(DIM, dtype=np.float32)
    weights *= 0.3 * np.log1p(counts).astype(np.float32)[:, None]
    keys = rng.permutation(rows) + rng.integers(0, 1 << 30, rows) * (1 << 32)
    return keys, weights, counts


def asked_ids(rows: int, count: int, zipf: bool) -> NDArray[np.int64]:
    """Ids, uniform or by Zipf's law with exponent 1 (P(id < n) = log(n + 1) / log(rows + 1))."""
    rng = np.random.default_rng(1)
    if not zipf:
        return rng.integers(0, rows, count)
    drawn = np.exp(rng.random(count) * np.log(rows + 1)).astype(np.int64) - 1
    return np.clip(drawn, 0, rows - 1)


def rivals_of(
    keys: NDArray[np.int64],
    weights: NDArray[np.float32],
    row_map: RowMap,
    ids: NDArray[np.int64],
    threads: int,
) -> Rivals:
    """What pools the rows of ``keys[ids]``, by name."""
    asked, offsets = keys[ids], np.arange(0, len(ids), BAG)
    order = np.argsort(keys)
    ordered = torch.from_numpy(keys[order])
    starts, tensor = torch.from_numpy(offsets), torch.from_numpy(asked)
    bag = torch.nn.EmbeddingBag.from_pretrained(torch.from_numpy(weights), mode="sum")
    remapped = torch.nn.EmbeddingBag.from_pretrained(torch.from_numpy(weights[order]), mode="sum")
    ready = torch.from_numpy(ids)
    rivals: Rivals = {
        "map": lambda: row_map.pool(asked, threads),
        "searchsorted": lambda: remapped(torch.searchsorted(ordered, tensor), starts).numpy(),
        "ids": lambda: bag(ready, starts).numpy(),
    }
    if importlib.util.find_spec("pandas"):
        import pandas as pd

        index = pd.Index(keys)
        rivals["pandas"] = lambda: bag(torch.from_numpy(index.get_indexer(asked)), starts).numpy()
    return rivals


def compare(
    field: saec.CompressedField,
    rivals: Rivals,
    asked: NDArray[np.int64],
    threads: int,
    repeats: int,
    clock: Callable[[], float],
) -> dict[str, float]:
    """Nanoseconds a key of saec, and each rival's time as a multiple of it."""
    offsets = np.arange(0, len(asked), BAG)
    whole = next(iter(rivals.values()))()
    for name, rival in rivals.items():
        assert np.allclose(rival(), whole, rtol=1e-4, atol=1e-3), name
    runs: Rivals = {"saec": lambda: field.pool(asked, offsets, threads=threads)} | rivals
    seconds = interleave(runs, repeats, clock)
    own = seconds.pop("saec")
    result = {"saec_ns": round(statistics.median(own) / len(asked) * 1e9, 1)}
    for name, times in seconds.items():
        quotients = [time / mine for time, mine in zip(times, own, strict=True)]
        result[name] = round(statistics.median(quotients), 2)
    return result


def compressed(options: argparse.Namespace, keys: Any, weights: Any, counts: Any) -> Any:
    """The field to ask, made or loaded."""
    if options.artifact:
        return saec.load(options.artifact)["item"]
    start = time.perf_counter()
    own = saec.Field("item", weights, counts, keys=keys)
    result = saec.compress([own], saec.Ratio(options.ratio), progress=False)
    print(f"compressed in {time.perf_counter() - start:.0f} s", flush=True)
    if options.save:
        result.save(options.save)
    return result["item"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--asked", type=int, default=1_000_000, help="keys of a call")
    parser.add_argument("--ratio", type=float, default=40)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--processor-time", action="store_true", help="beside other loads")
    parser.add_argument("--artifact", type=Path, help="that was saved by a run with the same rows")
    parser.add_argument("--save", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    keys, weights, counts = table(options.rows)
    field = compressed(options, keys, weights, counts)
    row_map = RowMap(keys, weights)
    clock = time.process_time if options.processor_time else time.perf_counter
    size = {"saec": field.nbytes, "map": row_map.nbytes}
    print(f"{options.rows} keys, bytes {size}", flush=True)
    rows = []
    for zipf in (False, True):
        for threads in (1, 2):
            torch.set_num_threads(threads)
            ids = asked_ids(options.rows, options.asked // BAG * BAG, zipf)
            rivals = rivals_of(keys, weights, row_map, ids, threads)
            found = compare(field, rivals, keys[ids], threads, options.repeats, clock)
            rows.append({"drawn": "zipf" if zipf else "uniform", "threads": threads, **found})
            print(rows[-1], flush=True)
    row_map.library.map_free(row_map.map)
    if options.json:
        write_json(options.json, {"machine": machine(), "bytes": size, "rows": rows})


if __name__ == "__main__":
    main()
