"""A simulated month with drift, births and deaths of features: ways of daily updates.

    python benchmarks/month.py
    python benchmarks/plot_days.py benchmarks/recorded/month.jsonl

A DeepFM model is trained in one pass over 30 days, day after day, and tested on each next day from
the evening of --first on. A feature is dropped when it was not seen for --window days. Methods:

* uncompressed, trained daily;
* compressed afresh daily, to --ratio with keys;
* the base of --first and a patch for each day since, of at most 15 % of its bytes;
* the same, compacted into a fresh base every week: the same rows in fewer bytes, without those of
  features that were dropped;
* that base alone, with the network of today or of that day;
* warm: trained on each day from the rows of yesterday's base and patches in place of full tables;
  its optimisers go on, whose sums take 4 bytes for each row; its chain is compacted weekly;
* as a control, uncompressed with new optimisers each day.

Each finished step is one line of --record; a run that was interrupted goes on behind the last one.
Models and artifacts are kept in --folder.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from daily import Chain, Course, Steps, Trainer

import saec
from saec.reference.simulated import best_reachable, simulate

DAYS = 30
WEEK = 7
DEATHS = 0.4  # share of users and items that disappear


class MonthSteps(Steps):
    """The steps of every course, weekly compaction, and trainers without full tables."""

    def of_day(self, day: int) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
        course = self.course
        yield "best reachable", lambda: self.best(day)
        yield from super().of_day(day)
        yield "compacted weekly", lambda: self.compacted(day)
        warm = Trainer(course, "warm", Chain(course, self.base, "warm", every=WEEK), True)
        yield "warm", lambda: self.trained_on(warm, day)
        fresh = Trainer(course, "new-optimisers", None, False)
        yield "new-optimisers", lambda: self.trained_on(fresh, day)

    def compacted(self, day: int) -> dict[str, Any]:
        """The chain of that evening as one artifact, or the last such one and patches since."""
        start = day - (day - self.course.first) % WEEK
        if start == self.course.first:
            return {name: self.known["patched", day][name] for name in ("nbytes", "auc", "logloss")}
        chain = Chain(self.course, self.base, "day")
        out = self.base.with_name(f"compacted{start}.saec")
        base, patches = chain.links(start)
        if not out.exists():
            saec.compact(base, patches=patches, keys=self.course.keys(start), out=out)
        since = sum(chain.patch(other).stat().st_size for other in range(start + 1, day + 1))
        if start < day:  # its patches follow the chain; the same changes have as many bytes
            quality = {name: self.known["patched", day][name] for name in ("auc", "logloss")}
        else:
            quality = self.course.chain_quality(out, [], day, self.course.model(day))
        return {**quality, "nbytes": out.stat().st_size + since}

    def best(self, day: int) -> dict[str, Any]:
        auc, logloss = best_reachable(self.course.log, self.course.tests(day))
        return {"auc": auc, "logloss": logloss}


def course(rows: int, folder: Path, first: int, window: int) -> Course:
    """The log; its last two days, for validation and tests, are not trained on."""
    log = simulate(rows, DAYS + 2, deaths=DEATHS, keys=True)
    days = 1 + np.arange(rows) * (DAYS + 2) // rows
    return Course(log, days, np.ones(rows, np.bool_), folder, first, DAYS, window)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=480_000, help="of all 32 days")
    parser.add_argument("--ratio", type=float, default=25.0)
    parser.add_argument("--first", type=int, default=9, help="day of the base")
    parser.add_argument("--last", type=int, default=DAYS, help="evening to stop at, for now")
    parser.add_argument("--window", type=int, default=14, help="days that a feature is kept")
    parser.add_argument("--folder", type=Path, default=Path("build/month"))
    parser.add_argument("--record", type=Path, default=Path("benchmarks/recorded/month.jsonl"))
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    days = course(given.rows, given.folder, given.first, given.window)
    MonthSteps(days, given.ratio, given.record).run(given.last)


if __name__ == "__main__":
    main()
