"""Base and daily patches against compressing afresh each day, on the days of globo.com's log.

    python benchmarks/days.py globo.parquet --ratio 25
    python benchmarks/plot_days.py benchmarks/recorded/days.jsonl

A DeepFM model is trained in one pass over the log, day after day. From the evening of day
--first on, it is tested on the next day: uncompressed, compressed afresh, by the base of day
--first and a patch for each day since of at most 15 % of its bytes, by patches of at most 5 % and
of every change that is worth its bits, and by that base alone, with the network of today or of that
day. All are asked by raw keys.

Each finished step is one line of --record; a run that was interrupted goes on behind the last one.
Models and artifacts are kept in --folder; each seed needs a folder and a record of its own. --share
keeps a part of the users.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from daily import Chain, Course, Steps
from numpy.typing import NDArray

from saec.keys.hashing import hash_keys
from saec.reference.datasets import load
from saec.reference.datasets.globo import clicks_by_time
from saec.reference.log import TEST, TRAIN
from saec.reference.train import shuffled_pairs

MILLISECONDS_PER_HOUR = 3_600_000
DAYS = 9  # the log has a tenth day, for tests
SHARES = (0.05, None)  # of the base's bytes that a patch takes, beside those of daily.py


class GloboCourse(Course):
    """Rows in the order of the record."""

    def shuffled(self, day: int) -> NDArray[np.intp]:
        """By one generator for all days, so that the order depends on the days before."""
        rng = np.random.default_rng(self.seed)
        for other in range(1, day + 1):
            order = shuffled_pairs(self.pairs(other), rng)
        return order


class GloboSteps(Steps):
    """The steps of every course, and then patches of other sizes."""

    def run(self, last: int | None = None) -> None:
        super().run(last)
        for share in SHARES:
            name = "every change" if share is None else f"at most {share:.0%}"
            chain = Chain(self.course, self.base, name.replace(" ", "-"), share)
            for day in range(self.course.first + 1, (last or self.course.last) + 1):
                self.once(name, day, lambda day=day, chain=chain: self.patched(chain, day))  # type: ignore[misc]


def course(
    path: Path, folder: Path, first: int, share: float, last: int = DAYS, seed: int = 0
) -> Course:
    """The log of a share of the users, with updates up to day ``last``."""
    log = load("globo-days", path, seed, days=DAYS, keys=True)
    assert log.keys is not None, "it was loaded with keys"
    clicks = clicks_by_time(path)
    examples = clicks.filter(clicks["prev"].is_not_null())
    days, hours = (examples[name].to_numpy().repeat(2) for name in ("day", "click_timestamp"))
    users = log.keys[:, log.field_names.index("user_id")]
    kept = hash_keys(users, seed=1) < np.uint64(min(share * 2**64, 2**64 - 1))
    tested = np.isin(log.split, (TRAIN, TEST))
    own = np.where(kept, days, 0)
    hours = hours / MILLISECONDS_PER_HOUR
    return GloboCourse(log, own, tested, folder, first, last, seed=seed, hours=hours)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("log", type=Path, help="globo.parquet")
    parser.add_argument("--ratio", type=float, default=25.0)
    parser.add_argument("--first", type=int, default=5, help="day of the base")
    parser.add_argument("--share", type=float, default=1.0, help="of the users")
    parser.add_argument("--seed", type=int, default=0, help="of negatives, order and model")
    parser.add_argument("--folder", type=Path, default=Path("build/days"))
    parser.add_argument("--record", type=Path, default=Path("benchmarks/recorded/days.jsonl"))
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    days = course(given.log, given.folder, given.first, given.share, seed=given.seed)
    GloboSteps(days, given.ratio, given.record).run()


if __name__ == "__main__":
    main()
