"""Lookups in a table that is larger than memory: read in batches, against plain memory mapping.

    python benchmarks/storage.py                                   # 20 GB on disk, 2 GB of memory
    python benchmarks/storage.py --gigabytes 4 --memory 400MB
    python benchmarks/storage.py --ceiling                         # what the disk gives, only

The table is float32, dim 16, uncompressed. It is opened twice: mapped, and with `memory=`. Both
look up the same kinds of bags in turn, each with ids of its own. The mapped one is limited by
page_limit.py: before it starts all pages of the file are dropped, and after each batch those beyond
the limit that were used longest ago, outside of the time that is measured. The other one limits
itself and reads past the system's cache. Both first look up ids until the bytes that they read for
a row hardly change. A table of as many rows as clusters at ratio 25 is measured beside them: in
memory, and with its codes in the file and a tenth of their bytes in memory. First of all, the disk
itself is measured (disk_ceiling.py): the reads a second that it answers at most, divided by those
of two threads that wait for a page each, are the most that lookups of uniform ids can gain.

Fails if lookups with `memory=` are less than 5 times as fast on uniform ids, or 2 times on Zipf
ids.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from disk_ceiling import WAITING, ceiling
from numpy.typing import NDArray
from page_limit import LimitedPages

import saec
from saec import _native
from saec.bits.packing import PackedCodes, packed_bytes
from saec.format.clustered_field import ClusteredField
from saec.format.codebook import Codebook
from saec.format.compressed import Compressed
from saec.format.raw_field import RawField
from saec.reference.experiment import write_json
from saec.reference.machine import machine
from saec.util.sizes import parse_size

DIM, BAG, BATCH, SMALL = 16, 20, 4096, 64
CODE_BITS = 20  # 512 bits at ratio 25
BLOCK = 64 << 20  # bytes that are drawn; the file repeats them
FLOORS = {"uniform": 5.0, "zipf": 2.0}
EXPONENT = 1.05
STEADY = 0.9  # bytes a row now, of those before, from which on they are steady

Draw = Callable[[int], NDArray[np.int64]]


@dataclass
class Side:
    """One way to look rows up."""

    name: str
    field: Any
    after: Callable[[NDArray[np.int64]], None]
    bytes_read: Callable[[], int]


def repeated(folder: Path, nbytes: int) -> NDArray[np.uint8]:
    """A mapped array of random bytes that takes the disk space of one block."""
    block = folder / "block"
    values = np.random.default_rng(0).standard_normal(BLOCK // 4, dtype=np.float32)
    block.write_bytes(values.tobytes())
    mapping = _native.Mapping(nbytes)
    with block.open("rb") as file:
        for first in range(0, nbytes, BLOCK):
            mapping.add(file.fileno(), 0, min(BLOCK, nbytes - first))
    return mapping.array()


def make_raw(folder: Path, rows: int) -> Path:
    path = folder / f"raw-{rows}.saec"
    if not path.exists():
        weights = repeated(folder, 4 * DIM * rows).view(np.float32).reshape(rows, DIM)
        Compressed([RawField("table", weights)]).save(path)
    return path


def make_clusters(folder: Path, rows: int) -> Path:
    rng = np.random.default_rng(1)
    codes = PackedCodes(repeated(folder, packed_bytes(rows, CODE_BITS)), rows, CODE_BITS)
    book = rng.standard_normal((1 << CODE_BITS, DIM)).astype(np.float32)
    field = ClusteredField("table", codes, Codebook.round(book, "int8", None), "float32")
    path = folder / f"clusters-{rows}.saec"
    if not path.exists():
        Compressed([field]).save(path)
    return path


def draws(rows: int, seed: int) -> dict[str, Draw]:
    """Ids by distribution; Zipf ids in order of frequency, and scattered as hashed ones are."""
    rng = np.random.default_rng(seed)

    def zipf(count: int) -> NDArray[np.int64]:
        tail = 1 - EXPONENT  # the inverse of the continuous distribution function on [1, rows + 1)
        drawn = (1 + rng.random(count) * ((rows + 1.0) ** tail - 1)) ** (1 / tail)
        return np.minimum(drawn.astype(np.int64) - 1, rows - 1)

    return {
        "uniform": lambda count: rng.integers(0, rows, count),
        "zipf": zipf,
        "zipf, scattered": lambda count: zipf(count) * 2_654_435_761 % rows,
    }


def process_bytes() -> int:
    """Bytes that this process has read from disks."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("read_bytes")))


def look_up(side: Side, ids: NDArray[np.int64]) -> float:
    starts = np.arange(0, len(ids), BAG)
    begin = time.perf_counter()
    side.field.pool(ids, starts)
    seconds = time.perf_counter() - begin
    side.after(ids)
    return seconds


def fill(side: Side, draw: Draw, pages: int, most: float) -> None:
    """Look up until the memory of so many pages must be full and new bytes have become steady.

    Each time as many ids as before in all; at most about ``most``.
    """
    done, before = 0, float("inf")
    while done < most:
        first, wanted = side.bytes_read(), max(done, pages)
        for _ in range(-(-wanted // (BATCH * BAG))):
            look_up(side, draw(BATCH * BAG))
        looked_up = -(-wanted // (BATCH * BAG)) * BATCH * BAG
        now = (side.bytes_read() - first) / looked_up
        done += looked_up
        if now > STEADY * before and done >= 2 * pages:
            break
        before = now
    print(f"{side.name}: steady after {done:,} ids, {now:,.0f} bytes a row", flush=True)


def compare(sides: list[Side], draw: Draw, batches: int, small: int) -> dict[str, dict[str, float]]:
    """Rows a second and bytes a row of large batches, seconds of small ones, the sides in turn."""
    times: dict[str, list[float]] = {side.name: [] for side in sides}
    read = dict.fromkeys(times, 0)
    short: dict[str, list[float]] = {side.name: [] for side in sides}
    for _ in range(batches):
        for side in sides:
            before = side.bytes_read()
            times[side.name].append(look_up(side, draw(BATCH * BAG)))
            read[side.name] += side.bytes_read() - before
    for _ in range(small):
        for side in sides:
            short[side.name].append(look_up(side, draw(SMALL * BAG)))
    return {
        name: {
            "rows_per_second": BATCH * BAG / float(np.median(seconds)),
            "bytes_per_row": read[name] / (batches * BATCH * BAG),
            "batch_ms_worst": 1000 * max(seconds),
            "small_ms_median": 1000 * float(np.median(short[name])),
            "small_ms_p99": 1000 * float(np.quantile(short[name], 0.99)),
        }
        for name, seconds in times.items()
    }


def cold_side(name: str, path: Path, memory: int) -> Side:
    tables = saec.load(path, memory=memory)
    return Side(name, tables["table"], lambda _: None, lambda: tables.read_counts.bytes_read)  # type: ignore[union-attr]


def mapped_side(path: Path, memory: int) -> Side:
    field = saec.load(path)["table"]
    assert isinstance(field, RawField)
    first = path.stat().st_size - field.weights.nbytes - _after(path)
    pages = LimitedPages(path, field.weights, first, memory // 4096)
    pages.forget()

    def after(ids: NDArray[np.int64]) -> None:
        pages.enforce(ids * 4 * DIM)

    return Side("mapped", field, after, process_bytes)


def _after(path: Path) -> int:
    """Bytes of the description, behind the only tensor of the file."""
    return path.stat().st_size - saec.load(path)["table"].nbytes - 256


def in_memory(path: Path) -> Side:
    field = saec.load(path)["table"]
    np.asarray(field.codes.data).max()  # type: ignore[attr-defined]
    return Side("clusters at ratio 25, in memory", field, lambda _: None, process_bytes)


def report(ids: str, found: dict[str, dict[str, float]]) -> None:
    for name, figures in found.items():
        said = ", ".join(f"{key} {value:,.1f}" for key, value in figures.items())
        print(f"{ids}: {name}: {said}", flush=True)


def measure_disk(options: argparse.Namespace, folder: Path) -> dict[str, dict[str, float]]:
    """What the disk gives, and what that is to two threads that wait."""
    found = ceiling(make_raw(folder, int(options.gigabytes * 1e9) // (4 * DIM)))
    for name, rate in found.items():
        print(
            f"disk: {name}: {rate['reads_per_second']:,.0f} reads a second, "
            f"{rate['processor_us']:.1f} us of processor time each"
        )
    waiting = found[WAITING]["reads_per_second"]
    best = max(rate["reads_per_second"] for rate in found.values())
    print(f"disk: at most {best / waiting:.2f} times the reads of {WAITING}", flush=True)
    return found


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    memory = parse_size(options.memory)
    rows = int(options.gigabytes * 1e9) // (4 * DIM)
    raw, clusters = make_raw(folder, rows), make_clusters(folder, rows)
    print(f"{rows:,} rows, {raw.stat().st_size:,} bytes; clusters {clusters.stat().st_size:,}")
    mapped = mapped_side(raw, memory)
    pages = clusters.stat().st_size // 4096
    codes_memory = (DIM << CODE_BITS) + 12 * pages + clusters.stat().st_size // 10
    results: dict[str, Any] = {}
    for ids, draw in draws(rows, options.seed).items():
        cold = cold_side("memory=", raw, memory)
        for side in (cold, mapped):
            fill(side, draw, memory // 4096, options.fill)
        found = compare([cold, mapped], draw, options.batches, options.small)
        beside = [in_memory(clusters), cold_side("clusters, codes in file", clusters, codes_memory)]
        for side in beside:
            fill(side, draw, pages // 10, options.fill)
        results[ids] = found | compare(beside, draw, options.batches, options.small)
        report(ids, results[ids])
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--gigabytes", type=float, default=20.0, help="10^9 bytes of the table")
    parser.add_argument("--memory", default="2GB")
    parser.add_argument("--fill", type=float, default=32e6, help="the most ids before measuring")
    parser.add_argument("--ceiling", action="store_true", help="only measure the disk")
    parser.add_argument("--batches", type=int, default=5, help="measured, of 4096 bags")
    parser.add_argument("--small", type=int, default=100, help="measured, of 64 bags")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--folder",
        type=Path,
        help="for the files, which stay there and are used again; a temporary one by default",
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        disk = measure_disk(options, folder)
        if options.ceiling:
            return
        results = measure(options, folder)
    if options.json is not None:
        write_json(
            options.json,
            {
                "machine": machine(),
                "options": vars(options) | {"folder": None, "json": None},
                "disk": disk,
                "results": results,
            },
        )
    ratios = {
        ids: found["memory="]["rows_per_second"] / found["mapped"]["rows_per_second"]
        for ids, found in results.items()
    }
    print("times plain mapping: " + ", ".join(f"{ids} {r:.2f}" for ids, r in ratios.items()))
    if any(ratios[ids] < floor for ids, floor in FLOORS.items()):
        sys.exit(f"below the floors {FLOORS}")


if __name__ == "__main__":
    main()
