"""Lookups through the base and the patches that days.py has written, beside those of the base.

    python benchmarks/days_lookups.py globo.parquet --folder build/days

The two fields with most keys are asked for the keys of the day after the last patch, in the order
of the log: by one thread in processor time, by two in elapsed time. The base, the base with one
patch, with some and with all are timed in turn.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path

import numpy as np
from daily import TABLES, Chain, Course
from days import DAYS, course
from numpy.typing import NDArray
from timing import interleave, medians

import saec

BATCH, REPEATS = 1 << 16, 7
CLOCKS = {1: time.process_time, 2: time.perf_counter}  # by threads; other loads share the cores
FIELDS = ("user_id", "user|article//200")


def asked(days: Course, name: str) -> NDArray[np.uint64]:
    """Keys (batches, 65,536) that the day after the last patch asks for, repeated to fill them."""
    place = days.log.field_names.index(name)
    keys = days.asked.all_keys(name)[days.asked.ids[days.tests(days.last), place]]
    return np.resize(keys, (-(-len(keys) // BATCH), BATCH))


def nanoseconds(
    chain: Chain, name: str, keys: NDArray[np.uint64], threads: int
) -> dict[str, float]:
    """Of a lookup, by the number of patches."""
    first, last = chain.course.first, chain.course.last
    fields = {}
    for count in sorted({0, 1, (last - first) // 2, last - first}):
        base, patches = chain.links(first + count)
        fields[str(count)] = saec.load(base, patches=patches)[TABLES + name]

    def look_up(field: saec.CompressedField) -> None:
        for batch in keys:
            field.lookup(batch, threads=threads)

    rivals = {label: partial(look_up, field) for label, field in fields.items()}
    seconds = medians(interleave(rivals, REPEATS, CLOCKS[threads]))
    return {label: 1e9 * each / keys.size for label, each in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("log", type=Path, help="globo.parquet")
    parser.add_argument("--folder", type=Path, default=Path("build/days"))
    parser.add_argument("--first", type=int, default=5, help="day of the base")
    parser.add_argument("--last", type=int, default=DAYS, help="day of the last patch")
    parser.add_argument("--share", type=float, default=1.0, help="of the users")
    parser.add_argument("--chain", default="day", help="name of the patches, like every-change")
    given = parser.parse_args()
    days = course(given.log, given.folder, given.first, given.share, given.last)
    chain = Chain(days, given.folder / f"afresh{given.first}.saec", given.chain)
    for name in FIELDS:
        keys = asked(days, name)
        for threads in CLOCKS:
            found = nanoseconds(chain, name, keys, threads)
            print(json.dumps({"field": name, "threads": threads, "nanoseconds": found}), flush=True)


if __name__ == "__main__":
    main()
