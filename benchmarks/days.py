"""Base and daily patches against compressing afresh each day, on the days of globo.com's log.

    python benchmarks/days.py globo.parquet --ratio 25

A DeepFM model is trained in one pass over the log, day after day. From the evening of day
--first on, it is tested on the next day: uncompressed, compressed afresh, by the base of day
--first and a patch for each day since, by smaller patches of at most 15 % of the base's bytes, and
by that base alone, with the network of today or of that day. All are asked by raw keys.

Each finished step is one line of --record; a run that was interrupted goes on behind the last one.
Models and artifacts are kept in --folder. --share keeps a part of the users.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import saec
from saec.keys.hashing import hash_keys
from saec.reference.asked_keys import AskedKeys
from saec.reference.batches import Batches
from saec.reference.datasets import load
from saec.reference.datasets.globo import clicks_by_time
from saec.reference.evaluate import predict, score
from saec.reference.log import TEST, TRAIN
from saec.reference.machine import machine
from saec.reference.models import ClickModel, build
from saec.reference.training_settings import Training
from saec.reference.training_steps import TrainingSteps
from saec.torch import loss_metrics
from saec.util.progress import bar

DIM, DAYS = 16, 9  # the log has a tenth day, for tests
TABLES = "embeddings."
METRIC_ROWS = 131_072
CAP = 0.15  # of the base's bytes, that a smaller patch takes


class Course:
    """A model on the evening of each day, and what it is asked on the next one."""

    def __init__(self, path: Path, folder: Path, first: int, share: float) -> None:
        self.path, self.folder, self.first, self.share = path, folder, first, share

    @cached_property
    def log(self) -> Any:
        return load("globo-days", self.path, 0, days=DAYS, keys=True)

    @cached_property
    def asked(self) -> AskedKeys:
        return AskedKeys(self.log)

    @cached_property
    def days(self) -> NDArray[np.int64]:
        """The day of each row; 0 for users that are left out."""
        clicks = clicks_by_time(self.path)
        days = clicks["day"].to_numpy()[clicks["prev"].is_not_null().to_numpy()].repeat(2)
        users = self.log.keys[:, self.log.field_names.index("user_id")]
        kept = hash_keys(users, seed=1) < np.uint64(min(self.share * 2**64, 2**64 - 1))
        return np.where(kept, days, 0)

    def rows(self, day: int) -> NDArray[np.intp]:
        """Training rows of a day."""
        return np.flatnonzero((self.days == day) & (self.log.split == TRAIN))

    def tests(self, day: int) -> NDArray[np.intp]:
        """All rows of the day after ``day``, but those for validation."""
        return np.flatnonzero((self.days == day + 1) & np.isin(self.log.split, (TRAIN, TEST)))

    def state(self, day: int) -> Path:
        return self.folder / f"day{day}.pt"

    def train(self) -> dict[str, Any]:
        """One pass over days 1 to 9, with a copy of the model from day ``first`` on."""
        model = build("deepfm", self.log.vocab_sizes, DIM, 0)
        rng, seconds = np.random.default_rng(0), {}
        with bar("training", int((self.days > 0).sum()), True) as shown:
            steps = TrainingSteps(model, self.log, Training(), 0, shown)
            for day in range(1, DAYS + 1):
                rows = self.rows(day)
                pairs = rows[: len(rows) // 2 * 2].reshape(-1, 2)
                steps.run(rng.permutation(pairs).ravel())
                if day >= self.first:
                    torch.save(model.state_dict(), self.state(day))
                    seconds[day] = steps.seconds
        return {"examples": steps.examples, "seconds": seconds}

    def model(self, day: int) -> ClickModel:
        model = build("deepfm", self.log.vocab_sizes, DIM, 0)
        model.load_state_dict(torch.load(self.state(day)))
        return model

    def counts(self, day: int) -> dict[str, NDArray[np.int64]]:
        """How often training saw each id up to ``day``."""
        rows = np.flatnonzero((self.days > 0) & (self.days <= day) & (self.log.split == TRAIN))
        return {
            name: np.bincount(self.log.ids[rows, place], minlength=self.log.vocab_sizes[name])
            for place, name in enumerate(self.log.field_names)
        }

    def tables(self, model: ClickModel, day: int) -> dict[str, NDArray[np.float32]]:
        """The rows of all ids; zeros for those that training has not seen up to ``day``."""
        found = {}
        for name, counts in self.counts(day).items():
            table = model.embeddings[name].weight.detach().numpy().copy()
            table[counts == 0] = 0
            found[name] = table
        return found

    def fields(self, model: ClickModel, day: int) -> list[saec.Field]:
        fields = []
        for name, counts in self.counts(day).items():
            seen = np.flatnonzero(counts)
            weights = model.embeddings[name].weight.detach().numpy()[seen]
            keys = self.asked.of_ids(name)[seen]
            fields.append(
                saec.Field(TABLES + name, weights, counts[seen], keys=keys, unseen=np.zeros(DIM))
            )
        return fields

    def metrics(self, model: ClickModel, day: int) -> saec.LossMetrics:
        rows = np.flatnonzero((self.days > 0) & (self.days <= day) & (self.log.split == TRAIN))
        some = np.random.default_rng(0).permutation(rows)[:METRIC_ROWS]
        loss = nn.functional.binary_cross_entropy_with_logits
        return loss_metrics(model, Batches(self.log, some), loss, progress=False)

    def quality(self, model: ClickModel, rows: Callable[[str], Any], day: int) -> dict[str, float]:
        """AUC and log loss on the next day, with ``rows(field)`` for all ids and unseen keys."""
        for name in self.log.field_names:
            table = torch.from_numpy(np.ascontiguousarray(rows(name)))
            model.embeddings[name] = nn.Embedding(len(table), DIM, _weight=table)
        model.vocab_sizes = self.asked.sizes
        tests = self.tests(day)
        found = predict(model, self.asked.ids[tests], progress=False)
        quality = score(self.log.labels[tests], found)
        return {"auc": quality.auc, "logloss": quality.logloss}

    def keys(self, name: str) -> NDArray[np.uint64]:
        """The keys of all ids and all unseen keys."""
        return np.concatenate([self.asked.of_ids(name), self.asked._extended[1][name]])


class Steps:
    """What is measured on each day; each is a line of the record."""

    def __init__(self, course: Course, ratio: float, record: Path) -> None:
        self.course, self.ratio, self.record = course, ratio, record
        self.known: dict[tuple[str, int], dict[str, Any]] = {}
        if record.exists():
            for line in record.read_text().splitlines():
                row = json.loads(line)
                self.known[row["step"], row["day"]] = row

    def run(self) -> None:
        self.once("machine", 0, machine)
        self.once("train", 0, self.course.train)
        first = self.course.first
        self.once("afresh", first, lambda: self.afresh(first))
        for day in range(first + 1, DAYS + 1):
            for name, step in self.of_day(day):
                self.once(name, day, step)
        for day in range(DAYS, first, -1):  # these take longest
            self.once("afresh", day, lambda day=day: self.afresh(day))  # type: ignore[misc]

    def once(self, step: str, day: int, work: Callable[[], dict[str, Any]]) -> None:
        """Do a step unless its line is there."""
        if (step, day) in self.known:
            return
        row = {"step": step, "day": day, **work()}
        self.known[step, day] = row
        with self.record.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)

    def of_day(self, day: int) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
        yield "patched", lambda: self.patched(day, self.patch, None)
        limit = int(CAP * self.base.stat().st_size)
        yield "capped", lambda: self.patched(day, self.capped, limit)
        yield "tables never updated", lambda: self.asked(self.base, [], day)
        yield "never updated", lambda: self.asked(self.base, [], day, self.course.first)
        yield "uncompressed", lambda: self.uncompressed(day)

    def uncompressed(self, day: int) -> dict[str, Any]:
        model = self.course.model(day)
        tables = self.course.tables(model, day)
        more = {name: len(keys) for name, keys in self.course.asked._extended[1].items()}

        def rows(name: str) -> NDArray[np.float32]:
            return np.concatenate([tables[name], np.zeros((more[name], DIM), np.float32)])

        sizes = [int((counts > 0).sum()) for counts in self.course.counts(day).values()]
        nbytes = sum(sizes) * (4 * DIM + 8)
        return {"rows": sum(sizes), "nbytes": nbytes, **self.course.quality(model, rows, day)}

    def artifact(self, day: int) -> Path:
        return self.course.folder / f"afresh{day}.saec"

    @property
    def base(self) -> Path:
        return self.artifact(self.course.first)

    def patch(self, day: int) -> Path:
        return self.course.folder / f"day{day}.patch"

    def capped(self, day: int) -> Path:
        return self.course.folder / f"capped{day}.patch"

    def afresh(self, day: int) -> dict[str, Any]:
        model = self.course.model(day)
        fields, metrics = self.course.fields(model, day), self.course.metrics(model, day)
        start = time.perf_counter()
        result = saec.compress(fields, saec.Ratio(self.ratio), metrics=metrics, progress=False)
        result.save(self.artifact(day))
        seconds = time.perf_counter() - start
        loss = {"seconds": seconds, "forecast": result.predicted_loss_increase}
        return {**loss, **self.asked(self.artifact(day), [], day)}

    def patched(self, day: int, patch: Callable[[int], Path], limit: int | None) -> dict[str, Any]:
        model = self.course.model(day)
        fields, metrics = self.course.fields(model, day), self.course.metrics(model, day)
        before = [patch(other) for other in range(self.course.first + 1, day)]
        start = time.perf_counter()
        done = saec.update(
            self.base,
            fields,
            out=patch(day),
            patches=before,
            metrics=metrics,
            max_bytes=limit,
            compare=False,
            progress=False,
        )
        seconds = time.perf_counter() - start
        return {
            "seconds": seconds,
            "forecast": done.loss,
            "stale_forecast": done.stale_loss,
            "patch_bytes": done.nbytes,
            "added": done.counts.added,
            "moved": done.counts.moved,
            "reset": done.counts.removed,
            "dropped": done.counts.dropped,
            "whole": done.whole,
            **self.asked(self.base, [*before, patch(day)], day),
        }

    def asked(
        self, base: Path, patches: list[Path], day: int, network: int | None = None
    ) -> dict[str, Any]:
        """Bytes, and quality on the next day with the network of ``day``, or of another one."""
        result = saec.load(base, patches=patches)

        def rows(name: str) -> NDArray[np.float32]:
            found: NDArray[np.float32] = result[TABLES + name].lookup(self.course.keys(name))
            return found

        model = self.course.model(day if network is None else network)
        quality = self.course.quality(model, rows, day)
        return {"nbytes": result.nbytes, **quality}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("log", type=Path, help="globo.parquet")
    parser.add_argument("--ratio", type=float, default=25.0)
    parser.add_argument("--first", type=int, default=5, help="day of the base")
    parser.add_argument("--share", type=float, default=1.0, help="of the users")
    parser.add_argument("--folder", type=Path, default=Path("build/days"))
    parser.add_argument("--record", type=Path, default=Path("benchmarks/recorded/days.jsonl"))
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    course = Course(given.log, given.folder, given.first, given.share)
    Steps(course, given.ratio, given.record).run()


if __name__ == "__main__":
    main()
