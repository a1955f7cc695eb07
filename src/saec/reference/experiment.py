"""Experiments: train a click model once, compress it by several methods, see what that costs.

The protocol is that of docs/results.md: the uncompressed model is trained to its best validation
log loss, every compressed one is evaluated on the same test rows, and no choice looks at those.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from saec.compression.budget import Ratio
from saec.errors import DataError, OptionError
from saec.reference.benchmark import Benchmark
from saec.reference.datasets import load
from saec.reference.job import Job
from saec.reference.machine import machine
from saec.reference.methods import method_of
from saec.reference.simulated import simulate
from saec.reference.trial import Trial
from saec.util.atomic_file import whole_file
from saec.util.progress import bar

__all__ = ["bench", "demo", "write_json"]

OnRow = Callable[[dict[str, Any]], None]


DEMO_ROWS = 200_000
DEMO_DIM = 16
DEMO_METHODS = ("saec", "saec-metric", "axes", "axes+finetune", "axes-remapped")
DEMO_RATIOS = (20.0, 50.0, 120.0, 300.0)


def bench(
    benchmark: Benchmark, *, progress: bool = True, on_row: OnRow | None = None
) -> dict[str, Any]:
    """Measure what compression costs on a task.

    Args:
        benchmark: what to measure.
        progress: show bars on stderr for work over two seconds.
        on_row: gets every row once it is measured.

    Returns:
        What :func:`write_json` writes: ``command``, ``machine``, and ``rows``, one dictionary for
        each model measured. Sizes are in bytes, times in seconds, log losses in nats. For
        the first seed, the smallest result of each method that tunes nothing has ``pictures`` of
        its clusters (:meth:`saec.reference.pictures.View.picture`).

    Raises:
        DataError: a log that cannot be read or trained on.
        OptionError: see :meth:`Benchmark.jobs`.
        BudgetError: a ratio below 1, or one that a method cannot reach; no compressed model of that
            seed has been evaluated then.
        OptionalDependencyError: a method's package is not installed.
    """
    task, first = benchmark.task, benchmark.seeds[0]
    jobs = benchmark.jobs()  # checked before hours are spent
    results: dict[str, Any] = {"command": benchmark.command(), "machine": machine(), "rows": []}
    for seed in benchmark.seeds:
        with bar(f"loading {task}", None, progress):
            names = benchmark.names and seed == first
            log = load(task, benchmark.path, seed, vocabularies=names, keys=benchmark.keyed)
        trial = Trial.start(log, benchmark.model, benchmark.dim, seed, progress, benchmark.training)
        results["rows"] += _told(trial.rows(jobs, pictures=seed == first), on_row)
    return results


def demo(
    directory: Path, *, seed: int = 0, progress: bool = True, on_row: OnRow | None = None
) -> dict[str, Any]:
    """Train on the simulated log, compress by several methods at several ratios, evaluate.

    Args:
        directory: made if need be; gets ``results.json``.
        seed: everything but the times follows from it.
        progress: show bars on stderr for work over two seconds.
        on_row: gets every row once it is measured.

    Returns:
        The results as written; see :func:`bench`.

    Raises:
        DataError: the directory or the file in it cannot be written.
        OptionError: the seed is negative.
    """
    if seed < 0:
        raise OptionError(f"seed {seed}: a seed must not be negative")
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make the directory {directory}: {error.strerror}") from error
    target = directory / "results.json"
    if target.is_dir():
        raise DataError(f"cannot write {target}: it is a directory")
    results: dict[str, Any] = {"command": f"saec demo --seed {seed}", "machine": machine()}
    with bar("simulating a click log", None, progress):
        log = simulate(DEMO_ROWS, seed=seed, vocabularies=True)
    trial = Trial.start(log, "deepfm", DEMO_DIM, seed, progress)
    jobs = [
        Job(name, method_of(name), Ratio(ratio)) for name in DEMO_METHODS for ratio in DEMO_RATIOS
    ]
    results["rows"] = _told(trial.rows(jobs, pictures=True), on_row)
    write_json(target, results)
    return results


def write_json(path: str | os.PathLike[str], results: Mapping[str, Any]) -> None:
    """Write ``results`` as JSON, whole or not at all.

    Raises:
        DataError: the file cannot be written; what was there before is as it was.
    """
    text = json.dumps(results, indent=1, allow_nan=False) + "\n"
    with whole_file(path) as file:
        file.write(text.encode())


def _told(rows: Iterable[dict[str, Any]], on_row: OnRow | None) -> list[dict[str, Any]]:
    told = []
    for row in rows:
        told.append(row)
        if on_row is not None:
            on_row(row)
    return told
