"""Clusters and axes without metrics: error, change of AUC and time on trained and made tables.

    python benchmarks/without_metrics.py --tables words groups --seeds 0 1 2
    python benchmarks/without_metrics.py --tables ml-1m --path movielens_1m.parquet --seeds 0 1 2

Trained tables are those of a DeepFM of dim 16. Made ones are one table of 20,000 rows each, with
frequencies of Zipf's law: ``words``, normal rows of dim 64 whose variances along the axes fall as
1 / k, as word vectors' do; ``groups``, 300 groups of dim 16 with a tenth of the variance within.
The error is squared, weighted by frequency, relative to that of the mean row; seconds are of
processor time, for measuring and coding. Each line is printed as it is measured; at the end, means
over the seeds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from shapes import CODECS, error

import saec
from saec.reference import load
from saec.reference.experiment import write_json
from saec.reference.machine import machine
from saec.reference.trial import Trial

RATIOS = (8.0, 27.0, 100.0)
ROWS, WORDS_DIM, GROUPS_DIM, GROUPS = 20_000, 64, 16, 300
WITHIN = 0.1  # share of the variance that rows of a group have about its middle


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", nargs="+", required=True, help="words, groups or a task's name")
    parser.add_argument("--path", help="of the task's data")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    for name in options.tables:
        for seed in options.seeds:
            if name in MADE:
                rows += compared(name, seed, [MADE[name](np.random.default_rng(seed))])
            else:
                trial = Trial.start(load(name, options.path, seed), "deepfm", 16, seed, False)
                rows += compared(name, seed, trial.tables(), trial)
    print(table(rows))
    if options.json is not None:
        write_json(options.json, {"machine": machine(), "rows": rows})


def words(rng: np.random.Generator) -> saec.Field:
    spread = np.sqrt(1 / np.arange(1, WORDS_DIM + 1))
    return field(rng.standard_normal((ROWS, WORDS_DIM)) * spread)


def groups(rng: np.random.Generator) -> saec.Field:
    middles = rng.standard_normal((GROUPS, GROUPS_DIM)) * np.sqrt(1 - WITHIN)
    about = rng.standard_normal((ROWS, GROUPS_DIM)) * np.sqrt(WITHIN)
    return field(middles[rng.integers(GROUPS, size=ROWS)] + about)


MADE = {"words": words, "groups": groups}


def field(rows: np.ndarray) -> saec.Field:
    return saec.Field("table", rows.astype(np.float32), np.ceil(ROWS / np.arange(1, ROWS + 1)))


def compared(
    name: str, seed: int, fields: Sequence[saec.Field], trial: Trial | None = None
) -> Iterator[dict[str, Any]]:
    """A row for each codec and ratio."""
    for codec, one in CODECS.items():
        start = time.process_time()
        measured = saec.measure(fields, one, progress=False)
        measuring = time.process_time() - start
        for ratio in RATIOS:
            start = time.process_time()
            result = saec.compress(measured, saec.Ratio(ratio), progress=False)
            seconds = measuring + time.process_time() - start
            row = {"tables": name, "seed": seed, "ratio": ratio, "codec": codec}
            row |= {"error": error(fields, result), "seconds": seconds}
            if trial is not None:
                row["auc_change"] = auc_change(trial, result)
            print(row, flush=True)
            yield row


def auc_change(trial: Trial, result: saec.Compressed) -> float:
    before = trial.scores(trial.base)["test"].auc
    with trial.holding(result):
        return trial.scores(trial.probabilities())["test"].auc - before


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Means over seeds, in Markdown: clusters / axes."""
    lines = [
        "| tables | ratio | error: clusters / axes | dAUC: clusters / axes | seconds | seeds |",
        "|---|---|---|---|---|---|",
    ]
    for name, ratio in dict.fromkeys((row["tables"], row["ratio"]) for row in rows):
        own = [row for row in rows if (row["tables"], row["ratio"]) == (name, ratio)]
        pair = [[row for row in own if row["codec"] == codec] for codec in CODECS]
        cells = [
            " / ".join(format(mean(row[key] for row in some), digits) for some in pair)
            if key in own[0]
            else "-"
            for key, digits in (("error", ".4f"), ("auc_change", "+.4f"), ("seconds", ".1f"))
        ]
        lines.append(f"| {name} | {ratio:g} | {' | '.join(cells)} | {len(pair[0])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
