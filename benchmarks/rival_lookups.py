"""Nanoseconds of a lookup from the tables of every method, in turn in one process.

    OMP_NUM_THREADS=1 python benchmarks/rival_lookups.py ml-1m --path movielens_1m.parquet \\
        --out benchmarks/recorded/rival_lookups.jsonl

Methods after training compress the tables of a trained model. Small tables are built, stored and
restored without training, which changes numbers and not what is done with them. Then all are timed
as in ``saec bench --rivals``, in turn, and medians are written, a line of JSON each:
``plot_rival_runs.py`` puts them into its tables. Lines of the same method and size that are there
already are replaced. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from recorded_runs import RecordedRuns

from saec.compression.budget import Ratio
from saec.errors import BudgetError
from saec.format.compressed import Compressed
from saec.reference import load
from saec.reference.job import Job
from saec.reference.kept_model import trained_or_kept
from saec.reference.log import Log
from saec.reference.lookup_time import compressed_ns, module_ns
from saec.reference.machine import machine
from saec.reference.methods import method_of
from saec.reference.rival_trials import AFTER_TRAINING, has_one_size
from saec.reference.small import SMALL
from saec.reference.small.features import table_bytes
from saec.reference.small.tables import SmallTables
from saec.reference.small.training import SmallTraining
from saec.reference.training_settings import Training
from saec.reference.trial import Trial
from saec.report.comparison_tables import three_digits
from saec.util.atomic_file import whole_file

MODEL, DIM, SEED = "deepfm", 16, 0
KNOWN_BY = ("task", "method", "target_ratio")
LEFT_OUT = {"axes-keyed+network"}  # reads the same tables as axes-keyed
METHODS = tuple(name for name in (*AFTER_TRAINING, *SMALL) if name not in LEFT_OUT)

Known = tuple[str, float | None]  # a method, and the ratio that it aims at
Timed = Callable[[], float]


def lookups(
    log: Log, methods: Sequence[str], ratios: Sequence[float], keep: Path | None
) -> Iterator[tuple[Known, Timed]]:
    """Tables of all methods and sizes, each behind a call that times its lookups."""
    plain = replace(log, keys=None)
    training = Training()
    net, _ = trained_or_kept(plain, MODEL, DIM, SEED, keep, training)
    trial = Trial.of(plain, net, MODEL, SEED, False, training)
    small = SmallTraining.of(log, MODEL, DIM, SEED)
    for method in methods:
        for ratio in [None] if has_one_size(method) else ratios:
            try:
                if method in SMALL:
                    tables = untrained(small, method, ratio or 1.0)
                    yield (method, ratio), partial(module_ns, tables, small.log)
                elif method == "float32":
                    yield (method, ratio), partial(module_ns, net, plain)
                else:
                    own = replace(trial, log=log) if method == "axes-keyed" else trial
                    result = compressed(own, method, ratio)
                    yield (method, ratio), partial(compressed_ns, result, own.log)
            except BudgetError:
                continue  # there are no tables so small


def compressed(trial: Trial, method: str, ratio: float | None) -> Compressed:
    """The trial's tables.

    Raises:
        BudgetError: the method has no tables so small.
    """
    name = method.removesuffix("-keyed")
    result, _ = trial.compress(Job(name, method_of(name), None if ratio is None else Ratio(ratio)))
    return result


def untrained(small: SmallTraining, method: str, ratio: float) -> SmallTables:
    """The tables that a method would store after training, with the numbers of their start.

    Raises:
        BudgetError: the method has no tables so small.
    """
    torch.manual_seed(SEED)
    nbytes = int(table_bytes(small.fields, DIM) / ratio)
    tables = SMALL[method]().build(small.fields, DIM, nbytes)
    while (later := tables.settled()) is not None:
        tables = later
    tables.restore(tables.stored())
    return tables


def in_turn(found: dict[Known, Timed], repeats: int) -> dict[Known, float]:
    """Medians of nanoseconds, all measured once in each of ``repeats`` rounds."""
    rounds = [{known: timed() for known, timed in found.items()} for _ in range(repeats)]
    return {known: median(each[known] for each in rounds) for known in found}


def table(lines: Sequence[dict[str, Any]]) -> str:
    """In Markdown, with the times of float32 for one."""
    whole = [line["lookup_ns"] for line in lines if line["method"] == "float32"]
    rows = ["| method | aimed at | lookup, ns | float32's |", "|---" * 4 + "|"]
    for line in lines:
        aimed = "-" if line["target_ratio"] is None else f"{line['target_ratio']:g}"
        found = line["lookup_ns"]
        share = f"{found / whole[0]:.2f}" if whole else "-"
        rows.append(f"| `{line['method']}` | {aimed} | {three_digits(found)} | {share} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task")
    parser.add_argument("--path", help="the task's data")
    parser.add_argument("--ratios", type=float, nargs="+", default=[10.0, 30.0, 100.0])
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--keep", type=Path, help="folder of trained models, as of saec bench")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("rival_lookups.jsonl"))
    options = parser.parse_args()
    log, where = load(options.task, options.path, SEED, keys=True), machine()
    found = dict(lookups(log, options.methods, options.ratios, options.keep))
    own = [
        {
            "task": options.task,
            "method": method,
            "target_ratio": ratio,
            "lookup_ns": spent,
            "cpu": where["cpu"],
            "threads": torch.get_num_threads(),
            "date": where["date"],
        }
        for (method, ratio), spent in in_turn(found, options.repeats).items()
    ]
    new = {tuple(line[name] for name in KNOWN_BY) for line in own}
    others = [
        line
        for line in RecordedRuns(options.out).lines()
        if tuple(line[name] for name in KNOWN_BY) not in new
    ]
    with whole_file(options.out) as stream:
        stream.write("".join(json.dumps(line) + "\n" for line in [*others, *own]).encode())
    print(table(own))


if __name__ == "__main__":
    main()
