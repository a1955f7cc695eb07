"""Lookups from compressed tables against uncompressed and quantised ones, in turn.

    python benchmarks/lookup.py --json lookup.json
    python benchmarks/lookup.py --rows 10000000 --dims 16 --bags 20 --threads 1 2

Nanoseconds per id: medians over repeats, each with ids of its own, which come in order of
frequency; a rival with "ids kept" reads them scattered, and is compared with others that do. Tables
and codes are random, tiers are like those of a real log, and compressed tables are read from
memory-mapped files. Each size has a process of its own, whose peak memory, with all its tables, is
reported. Where other loads share the machine, --processor-time counts only the time in which the
process had a processor, summed over its threads. SAEC_SIMD=avx2 forces the path of servers without
AVX-512.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import lookup_rivals as rivals
import lookup_tables as tables
import numpy as np
from lookup_rivals import BAG, GATHER, KEPT, Rival
from timing import medians, peak_bytes
from torch import Tensor

from saec.reference.experiment import write_json
from saec.reference.machine import machine

IDS = 5 * rivals.IDS_PER_CALL  # per repeat

MEMORY_SHARE = 0.75  # of the machine's, for all tables of a size


def size(
    rows: int,
    dim: int,
    bags: Sequence[int],
    threads: Sequence[int],
    repeats: int,
    processor_time: bool,
    quantised: bool,
) -> list[dict[str, Any]]:
    """Time all rivals on one size of table; a row for each case and rival."""
    clock = time.process_time if processor_time else time.perf_counter
    rng = np.random.default_rng(0)
    shape = (2 * (repeats + 1), IDS)
    drawn = {name: tables.draw_ids(rng, name, rows, shape) for name in tables.DISTRIBUTIONS}
    places = tables.scattered(rng, rows)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        made = list(_rivals(rng, rows, dim, places, Path(folder), quantised))
        for name, bag, count in product(drawn, bags, threads):
            seconds = rivals.time_in_turn(made, drawn[name], places, bag, count, repeats, clock)
            case = {"rows": rows, "dim": dim, "ids": name, "bag": bag, "threads": count}
            found += [case | row for row in _compared(made, seconds)]
    peak = peak_bytes()
    return [row | {"process_peak_bytes": peak} for row in found]


def _compared(made: Sequence[Rival], seconds: dict[str, list[float]]) -> Iterator[dict[str, Any]]:
    middle = medians(seconds)
    for rival in made:
        own, ending = middle[rival.name], KEPT if rival.kept else ""
        yield {
            "method": rival.name,
            "nbytes": rival.nbytes,
            "ns_per_id": own / IDS * 1e9,
            "times_embedding_bag": middle[BAG + ending] / own,
            "times_native_gather": middle[GATHER + ending] / own,
            "seconds": seconds[rival.name],
        }


def _rivals(
    rng: np.random.Generator,
    rows: int,
    dim: int,
    places: np.ndarray,
    folder: Path,
    quantised: bool,
) -> Iterator[Rival]:
    """All that fit into memory together, the float32 table included, which must."""
    table = tables.float_table(rng, rows, dim)
    yield from rivals.float32(table)
    yield from rivals.float32(table, kept=True)
    for name, clusters in {"256": 256, "4096": 4096, "n/100": rows // 100}.items():
        path = folder / f"{name.replace('/', '-')}.saec"
        field = tables.stored(tables.clustered(rng, rows, dim, clusters), path)
        yield rivals.compressed(f"clusters, {name}", field)
        if name == "4096":
            yield rivals.module(f"clusters, {name}", field)
    axes = tables.stored(tables.tiered(rng, rows, dim), folder / "axes.saec")
    yield rivals.compressed("axes", axes)
    yield rivals.module("axes", axes)
    similar = tables.stored(
        tables.tiered(rng, rows, dim, tables.SIMILAR), folder / "code_sorted.saec"
    )
    yield rivals.compressed("axes, code-sorted", similar)
    users = tables.stored(tables.tiered(rng, rows, dim, tables.USERS), folder / "users.saec")
    yield rivals.compressed("axes, long codes", users)
    # As many tiers as compression gave the largest fields of globo when their ids were in no order.
    field = tables.tiered(rng, rows, dim, places=places, number=tables.KEPT_TIERS)
    kept = tables.stored(field, folder / "kept.saec")
    yield rivals.compressed("axes", kept, kept=True)
    if quantised:
        yield from _fixed_width(table, _room() - table.nbytes)


def _fixed_width(table: Tensor, room: float) -> Iterator[Rival]:
    """Rivals whose rows all have the same few bits per number, as far as there is room."""
    rows, dim = table.shape
    made: list[tuple[int, Callable[[int], Rival]]] = [
        *((bits, partial(rivals.fbgemm, rows, dim)) for bits in (8, 4, 2)),
        *((bits, partial(rivals.quantised, table)) for bits in (8, 4)),
    ]
    for bits, make in made:
        need = rows * (dim * bits // 8 + 8)
        if need > room:
            print(f"{rows} x {dim}: no room for one more table of {bits} bits")
            continue
        try:
            rival = make(bits)
        except ImportError:
            print("fbgemm-gpu-cpu is not installed: left out")
            continue
        room -= rival.nbytes
        yield rival


def _room() -> float:
    return MEMORY_SHARE * machine()["memory"]


def _write(path: Path, rows: list[dict[str, Any]], processor_time: bool) -> None:
    asked = {"ids_per_call": rivals.IDS_PER_CALL, "processor_time": processor_time}
    write_json(path, {"machine": machine()} | asked | {"rows": rows})


def _print(row: dict[str, Any]) -> None:
    case = f"{row['rows']:>9} x {row['dim']:<3} {row['ids']:<8} bag {row['bag']:<3}"
    print(
        f"{case} threads {row['threads']}  {row['method']:<32} {row['nbytes'] / 1e6:8.1f} MB  "
        f"{row['ns_per_id']:7.2f} ns/id  x{row['times_embedding_bag']:.2f} {BAG}  "
        f"x{row['times_native_gather']:.2f} {GATHER}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    several = {"type": int, "nargs": "+"}
    parser.add_argument("--rows", default=[1_000_000, 10_000_000, 50_000_000], **several)
    parser.add_argument("--dims", default=[8, 16, 64], **several)
    parser.add_argument("--bags", default=[1, 20], **several)
    parser.add_argument("--threads", default=[1, 2], **several)
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--processor-time", action="store_true", help="instead of time on the wall")
    parser.add_argument("--no-quantised", dest="quantised", action="store_false")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    # Threads that wait for work must not take a core from the rival whose turn it is. The processes
    # that are started here read this when they load PyTorch.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    context = multiprocessing.get_context("spawn")
    found: list[dict[str, Any]] = []
    with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as pool:
        for rows, dim in product(options.rows, options.dims):
            if 2 * rows * dim * 4 > _room():  # rivals are made from a copy
                print(f"{rows} x {dim}: left out, {rows * dim * 4 / 1e9:.1f} GB in float32")
                continue
            cases = options.bags, options.threads, options.repeats
            how = options.processor_time, options.quantised
            run = pool.submit(size, rows, dim, *cases, *how)
            for row in run.result():
                _print(row)
                found.append(row)
            if options.json is not None:
                _write(options.json, found, options.processor_time)


if __name__ == "__main__":
    main()
