"""How well frequencies that were expected for the next day explain its lookups.

    python benchmarks/days_frequencies.py globo.parquet

Of each field of globo.com's log and each day: bits for a lookup of a feature that is known, the
mean of -log2 of its expected share. By counts of all days so far, by `saec.expected_frequencies`
without and with late occurrences, and, as the best there is, by the frequencies of that day.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from daily import Course
from days import course
from numpy.typing import NDArray

import saec

Floats = NDArray[np.float64]


def forecasts(days: Course, day: int, place: int) -> list[Floats]:
    """Frequencies of a field (rows,), as expected on the evening of ``day``."""
    counts = days.occurrences(day, place)
    plain = saec.expected_frequencies(*counts)
    late = days.late(day - 1, place), days.late(day, place)
    with_late = saec.expected_frequencies(*counts, late=late)
    return [sum(counts).astype(np.float64), plain.frequencies, with_late.frequencies]


def bits(expected: Floats, asked: Floats) -> float:
    """For a lookup of a known feature, if ``asked`` (rows,) are those of the next day."""
    known = asked * (expected > 0)
    shares = expected / expected.sum()
    return float(-(known[known > 0] @ np.log2(shares[known > 0])) / known.sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("log", type=Path, help="globo.parquet")
    parser.add_argument("--days", type=int, nargs="+", default=[3, 4, 5, 6, 7, 8, 9])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        days = course(given.log, Path(folder), first=5, share=1.0)
    print("evening  field  all counts  without late  with late  that day's own")
    for place, name in enumerate(days.log.field_names):
        for day in given.days:
            every, *others = forecasts(days, day, place)
            ids = days.log.ids[(days.days == day + 1) & days.tested, place]
            asked = np.bincount(ids, minlength=len(every)).astype(np.float64)
            own = asked * (every > 0)
            found = [bits(one, asked) for one in (every, *others, own)]
            print(day, name, *(f"{one:.2f}" for one in found), sep="  ")


if __name__ == "__main__":
    main()
