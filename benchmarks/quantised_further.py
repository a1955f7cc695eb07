"""Tables that were trained with few bits, compressed further by axes: does that pay?

    python benchmarks/quantised_further.py ml-1m --path movielens_1m.parquet \\
        --runs benchmarks/recorded/quantised_further.jsonl

Trains a click model with tables of few bits (DQRM's int4, ALPT's int8, MPE at ratio 10), decodes
what is stored into plain tables, and compresses these by axes. Every finished one is recorded in
the results file; started again, only missing ratios are done, after the same training. Ends with a
table in Markdown. The same axes on tables trained as float32 are methods of
``saec bench --rivals``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from recorded_runs import RecordedRuns

from saec.compression.budget import Ratio
from saec.reference import load
from saec.reference.job import Job
from saec.reference.log import Log
from saec.reference.machine import machine
from saec.reference.methods import method_of
from saec.reference.models import ClickModel, build
from saec.reference.small import SMALL, SmallTables
from saec.reference.small.features import table_bytes
from saec.reference.small.training import SmallTraining
from saec.reference.training_settings import Training
from saec.reference.trial import Trial

STARTS = {"dqrm": 1.0, "alpt": 1.0, "mpe": 10.0}  # and the ratio to aim at, where there is one
METHODS = ("axes", "axes-remapped")
KNOWN_BY = ("method", "target_ratio")  # of the lines of one training


def decoded(net: ClickModel, name: str, log: Log) -> ClickModel:
    """A model ``name`` of plain tables with the rows that the small tables of ``net`` give."""
    tables = net.embeddings
    assert isinstance(tables, SmallTables)
    tables.restore(tables.stored())
    plain = build(name, log.vocab_sizes, net.dim, 0)
    own = {key: value for key, value in net.state_dict().items() if "embeddings." not in key}
    plain.load_state_dict(own, strict=False)
    sizes = list(log.vocab_sizes.values())
    with torch.no_grad():
        every = torch.arange(max(sizes))[:, None].clamp(max=torch.tensor(sizes) - 1)
        rows = tables.eval()(every)
        for place, (field, size) in enumerate(log.vocab_sizes.items()):
            plain.embeddings[field].weight.copy_(rows[:size, place])
    return plain.eval()


def measured(
    log: Log,
    model: str,
    dim: int,
    start: str,
    ratios: Sequence[float],
    seed: int,
    training: Training,
    progress: bool,
) -> Iterator[dict[str, Any]]:
    """The tables as trained, and then compressed by each method to each ratio."""
    small = SmallTraining.of(log, model, dim, seed)
    nbytes = int(table_bytes(small.fields, dim) / STARTS[start])
    net, _ = small.trained(SMALL[start](), nbytes, training, progress=progress)
    sizes = small.sizes(net.embeddings)  # type: ignore[arg-type]
    known = replace(log, keys=None)
    trial = Trial(known, decoded(net, model, known), {}, seed, progress)
    scores = trial.scores(trial.base)
    base = {"auc": scores["test"].auc, "logloss": scores["test"].logloss}
    yield {"method": "none", "target_ratio": None, **sizes, **base}
    jobs = [Job(name, method_of(name), Ratio(ratio)) for name in METHODS for ratio in ratios]
    wanted = ("method", "target_ratio", *sizes, *base)
    for row in trial.rows(jobs):
        yield {name: row[name] for name in wanted}


def missing(runs: RecordedRuns, key: dict[str, Any], ratios: Sequence[float]) -> list[float]:
    """The ratios of which not all methods are recorded for the training ``key``."""
    return [
        ratio
        for ratio in ratios
        if not all(runs.hold({**key, "method": name, "target_ratio": ratio}) for name in METHODS)
    ]


def table(lines: Sequence[dict[str, Any]]) -> str:
    """In Markdown."""
    rows = [
        "| trained as | then | ratio | ratio, all in | AUC | log loss | seed |",
        "|---" * 7 + "|",
    ]
    rows += [
        f"| `{line['start']}` | {'-' if line['method'] == 'none' else '`' + line['method'] + '`'} "
        f"| {line['ratio']:.1f} | {line['ratio_all_in']:.1f} | {line['auc']:.4f} "
        f"| {line['logloss']:.4f} | {line['seed']} |"
        for line in lines
    ]
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task")
    parser.add_argument("--path", help="the task's data")
    parser.add_argument("--runs", type=Path, default=Path("quantised_further.jsonl"))
    parser.add_argument("--starts", nargs="+", default=tuple(STARTS), choices=tuple(STARTS))
    parser.add_argument("--ratios", type=float, nargs="+", default=[10.0, 30.0, 100.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--model", default="deepfm")
    parser.add_argument("--dim", type=int, default=16)
    options = parser.parse_args()
    runs, where = RecordedRuns(options.runs), machine()
    shared = {"task": options.task, "model": options.model, "dim": options.dim}
    for seed in options.seeds:
        log: Log | None = None
        for start in options.starts:
            key = {**shared, "seed": seed, "start": start}
            ratios = missing(runs, key, options.ratios)
            if not ratios:
                continue
            log = log or load(options.task, options.path, seed, keys=True)
            found = measured(log, options.model, options.dim, start, ratios, seed, Training(), True)
            for row in found:
                if not runs.hold(known := {**key, **{name: row[name] for name in KNOWN_BY}}):
                    runs.add({**known, **row, "cpu": where["cpu"], "date": machine()["date"]})
    print(table([line for line in runs.lines() if shared.items() <= line.items()]))


if __name__ == "__main__":
    main()
