"""Skipping stale inputs, and hot inputs in batches of their own: speed, quality, share skipped.

    python benchmarks/schedules.py globo globo.parquet
    python benchmarks/schedules.py made --features 10000000

One DeepFM model for each schedule, all in one pass over the same training rows; the models take
turns at each chunk of rows. Prints for each, as Markdown and as lines of --record: examples a
second, skipped ones included, as a ratio to plain batches (median over chunks, without those until
the first inputs are skipped), the share of inputs that were skipped, and AUC and log loss on the
test rows. ``made`` has one table of --features rows, whose ids follow Zipf's law, and three small
ones; labels follow from planted effects of all of them.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from recorded_runs import RecordedRuns

from saec.reference.datasets import load
from saec.reference.evaluate import predict, score
from saec.reference.log import TEST, Log
from saec.reference.machine import machine
from saec.reference.models import build
from saec.reference.schedules import hot_counts
from saec.reference.train import shuffled_pairs
from saec.reference.training_settings import HotBatches, SkipStale, Training
from saec.reference.training_steps import TrainingSteps
from saec.util.progress import bar

DIM, CHUNK = 16, 65_536
SMALL = {"item": 100_000, "city": 200, "hour": 24}
EXPONENT = 0.9  # of Zipf's law
TESTS = 200_000  # rows, at most


def schedules(share: float, every: int, skipped: float, pairs: bool) -> dict[str, Training]:
    """By name; ``plain`` comes first."""
    stale = SkipStale(share, every, skipped, pairs=pairs)
    return {
        "plain": Training(),
        "hot batches": Training(hot_batches=HotBatches(share, pairs)),
        "stale skipped": Training(skip_stale=stale),
        "stale skipped, rare spared": Training(skip_stale=replace(stale, spare_rare=True)),
    }


def drawn(features: int, rows: int, rng: np.random.Generator) -> NDArray[np.int32]:
    """Ids from 1 by Zipf's law, flat over the first ten."""
    sums = np.cumsum(1 / (np.arange(features) + 10.0) ** EXPONENT)
    return np.searchsorted(sums, sums[-1] * rng.random(rows)).astype(np.int32) + 1


def made(features: int, rows: int) -> Log:
    """A log whose first table has so many rows; the last rows are for tests."""
    rng = np.random.default_rng(0)
    sizes = {"user": features, **SMALL}
    columns = [drawn(size, rows + TESTS, rng) for size in sizes.values()]
    logits = np.full(rows + TESTS, -1.0)
    for size, column in zip(sizes.values(), columns, strict=True):
        logits += rng.normal(size=size).astype(np.float32)[column - 1]
    labels = rng.random(rows + TESTS) < 1 / (1 + np.exp(-logits))
    split = np.where(np.arange(rows + TESTS) < rows, 0, TEST).astype(np.int8)
    counts = {
        name: np.append(0.0, rows / (np.arange(size) + 10.0) ** EXPONENT)
        for name, size in sizes.items()
    }
    ids = np.stack(columns, axis=1)
    return Log("made", tuple(sizes), ids, labels.astype(np.float32), split, counts)


def shuffled(log: Log, most: int) -> NDArray[np.intp]:
    """Training rows in random order, neighbours two by two, at most so many."""
    rows = log.rows("train")
    return shuffled_pairs(rows[: len(rows) // 2 * 2], np.random.default_rng(0))[:most]


class Contest:
    """A model for each schedule."""

    def __init__(self, log: Log, settings: dict[str, Training]) -> None:
        self.log, self.settings = log, settings
        self.models = {name: build("deepfm", log.vocab_sizes, DIM, 0) for name in settings}
        self.seconds: dict[str, list[float]] = {name: [] for name in settings}
        self.skipped: dict[str, int] = {}

    def run(self, rows: NDArray[np.intp]) -> None:
        with bar("training", len(rows) * len(self.settings), True) as shown:
            steps = {
                name: TrainingSteps(model, self.log, self.settings[name], 0, shown)
                for name, model in self.models.items()
            }
            for first in range(0, len(rows), CHUNK):
                for name, own in steps.items():
                    start = time.perf_counter()
                    own.run(rows[first : first + CHUNK])
                    self.seconds[name].append(time.perf_counter() - start)
        self.skipped = {name: own.skipped for name, own in steps.items()}

    def rows(self, examples: int, warm: int) -> list[dict[str, Any]]:
        """What is measured of each schedule; the first ``warm`` chunks are not timed."""
        plain, tests = self.seconds["plain"], self.log.rows("test")[:TESTS]
        found = []
        for name, model in self.models.items():
            pairs = list(zip(plain, self.seconds[name], strict=True))[warm:]
            clicks = predict(model, self.log.ids[tests], progress=False)
            quality = score(self.log.labels[tests], clicks)
            found.append(
                {
                    "task": self.log.name,
                    "schedule": name,
                    "examples": examples,
                    "speed": median(own / other for own, other in pairs),
                    "chunks": len(pairs),
                    "skipped": self.skipped[name] / examples,
                    "auc": quality.auc,
                    "logloss": quality.logloss,
                }
            )
        return found


def shares_of(log: Log, rows: NDArray[np.intp], share: float) -> dict[str, Any]:
    """Which rows are hot, and how many inputs touch only these, or none of them."""
    hot = hot_counts(log, share)
    inside = log.ids[rows] <= hot
    return {
        "hot_rows": dict(zip(log.field_names, hot.tolist(), strict=True)),
        "rows": sum(log.vocab_sizes.values()),
        "only_hot": float(inside.all(axis=1).mean()),
        "lookups_hot": float(inside.mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=("globo", "made"))
    parser.add_argument("path", nargs="?", type=Path, help="globo.parquet")
    parser.add_argument("--features", type=int, default=10_000_000)
    parser.add_argument("--rows", type=int, default=655_360, help="training rows, at most")
    parser.add_argument("--share", type=float, default=0.1, help="of all rows that are hot")
    parser.add_argument("--every", type=int, default=32, help="steps between snapshots")
    parser.add_argument("--skipped", type=float, default=0.5, help="of a sample of inputs")
    parser.add_argument("--control", type=float, help="plain batches alone, of this share of rows")
    parser.add_argument("--record", type=Path, help="file of JSON lines to append to")
    given = parser.parse_args()
    globo = given.task == "globo"
    log = load("globo", given.path) if globo else made(given.features, given.rows)
    rows = shuffled(log, given.rows)
    facts = {**machine(), **shares_of(log, rows, given.share), "share": given.share}
    settings = schedules(given.share, given.every, given.skipped, globo)
    if given.control is not None:
        rows, settings = rows[: int(given.control * len(rows))], {"plain": Training()}
    warm = -(-2 * given.every * Training().batch_size // CHUNK)
    if len(rows) <= warm * CHUNK:
        parser.error(f"{len(rows)} rows; --every {given.every} needs more than {warm * CHUNK}")
    contest = Contest(log, settings)
    contest.run(rows)
    lines = [facts, *contest.rows(len(rows), warm)]
    print(json.dumps(facts))
    print("| schedule | speed | skipped | AUC | log loss |\n|---|---|---|---|---|")
    for line in lines[1:]:
        print(
            f"| {line['schedule']} | {line['speed']:.2f} | {line['skipped']:.0%} "
            f"| {line['auc']:.4f} | {line['logloss']:.4f} |"
        )
    if given.record is not None:
        for line in lines:
            RecordedRuns(given.record).add(line)


if __name__ == "__main__":
    main()
