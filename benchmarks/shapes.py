"""Both codecs without metrics on tables of many shapes: seconds, and error.

    python benchmarks/shapes.py --json shapes.json
    pip install --no-deps --target earlier ../earlier-checkout
    python benchmarks/shapes.py --against earlier --repeats 3

Rows are drawn from a normal distribution (the hardest case: no directions and no groups) and have
frequencies of Zipf's law. ``--against`` takes another version, installed into a folder:
both compress each shape in turn, in processes of their own with one thread, and the medians of
their seconds are compared.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from timing import run_version

import saec
from saec.reference.experiment import write_json
from saec.reference.machine import machine

CODECS = {"clusters": saec.Clusters(), "axes": saec.Axes()}
SHAPES = {
    "300x16": 8.0,
    "3000x16": 8.0,
    "200000x16": 8.0,
    "2000x768": 8.0,
    "30000x768": 8.0,
    "50x3000": 2.0,
    "5000000x16": 27.0,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--codecs", default=",".join(CODECS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    codecs = options.codecs.split(",")
    names = options.shapes.split(",")
    if options.against is not None:
        rows = list(against(options.against, names, codecs, options.repeats))
    else:
        rows = list(shapes(names, codecs))
    if options.json is not None:
        write_json(options.json, {"machine": machine(), "rows": rows})


def shapes(names: list[str], codecs: list[str]) -> Iterator[dict[str, Any]]:
    """A row for each shape and codec."""
    for name in names:
        count, dim = map(int, name.split("x"))
        weights = np.random.default_rng(0).standard_normal((count, dim), dtype=np.float32)
        field = saec.Field("table", weights, np.ceil(count / np.arange(1, count + 1)))
        for codec in codecs:
            result, seconds, wall = timed([field], SHAPES.get(name, 8.0), codec)
            lost = error([field], result)
            yield show(shape=name, codec=codec, seconds=seconds, wall_seconds=wall, error=lost)


def against(
    other: Path, names: list[str], codecs: list[str], repeats: int
) -> Iterator[dict[str, Any]]:
    """A row for each shape and codec: medians of this version and the ``other``, in turn."""
    versions = {"other": other, "this": None}
    for shape in names:
        for codec in codecs:
            runs: dict[str, list[dict[str, Any]]] = {name: [] for name in versions}
            for _ in range(repeats):
                for name, packages in versions.items():
                    runs[name].append(run_of(packages, shape, codec))
            seconds = {
                name: statistics.median(run["seconds"] for run in own) for name, own in runs.items()
            }
            errors = {f"{name}_error": own[0]["error"] for name, own in runs.items()}
            speedup = seconds["other"] / seconds["this"]
            yield show(shape=shape, codec=codec, **seconds, times_as_fast=speedup, **errors)


def run_of(packages: Path | None, shape: str, codec: str) -> dict[str, Any]:
    """The row of one shape and codec, by a new process with one thread and the given version, for
    which this script is the same."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "row.json"
        what = ["--shapes", shape, "--codecs", codec, "--json", str(result)]
        run_version(packages, __file__, what, OMP_NUM_THREADS="1")
        (row,) = json.loads(result.read_text())["rows"]
    found: dict[str, Any] = row
    return found


def timed(
    fields: list[saec.Field], ratio: float, codec: str
) -> tuple[saec.Compressed, float, float]:
    """The result, seconds of processor time, and seconds that passed.

    What takes less than a second is repeated for a second; the times are then medians without the
    first run.
    """
    runs: list[tuple[float, float]] = []
    while True:
        start, first = time.process_time(), time.perf_counter()
        result = saec.compress(fields, saec.Ratio(ratio), CODECS[codec], progress=False)
        runs.append((time.process_time() - start, time.perf_counter() - first))
        if sum(wall for _, wall in runs) >= 1:
            seconds, walls = zip(*runs[len(runs) > 1 :], strict=True)
            return result, statistics.median(seconds), statistics.median(walls)


def error(fields: Sequence[saec.Field], result: saec.Compressed) -> float:
    """Squared error weighted by frequency, relative to that of the mean rows."""
    lost = total = 0.0
    for field in fields:
        rows, shares = np.asarray(field.weights, np.float64), field.frequencies
        lost += float(shares @ np.square(result[field.name].decode() - rows).sum(axis=1))
        about = rows - np.average(rows, axis=0, weights=shares)
        total += float(shares @ np.square(about).sum(axis=1))
    return lost / total


def show(**row: Any) -> dict[str, Any]:
    print(row, flush=True)
    return row


if __name__ == "__main__":
    main()
