"""A click model on the evening of each day, and what each way of daily updates gives on the next.

Used by days.py (globo.com's log) and month.py (a simulated one). A model is trained in one pass
over the log, day after day. All methods are asked by raw keys on the day after.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from recorded_runs import RecordedRuns
from torch import nn

import saec
from saec.reference.asked_keys import AskedKeys
from saec.reference.batches import Batches
from saec.reference.evaluate import predict, score
from saec.reference.log import TRAIN, Log
from saec.reference.machine import machine
from saec.reference.models import ClickModel, build
from saec.reference.train import shuffled_pairs
from saec.reference.training_settings import Training
from saec.reference.training_steps import TrainingSteps
from saec.torch import TableKeys, loss_metrics, warm_start_, worth_of_moves
from saec.util.progress import Bar, bar

DIM = 16
TABLES = "embeddings."
METRIC_ROWS = 131_072
SHARE = 0.15  # of the base's bytes that a patch takes
HALF_LIFE = 0.5  # hours before the end of a day, at which an occurrence counts half as late
LOSS = nn.functional.binary_cross_entropy_with_logits

Rows = Callable[[str], NDArray[np.float32]]


def put_tables(model: ClickModel, rows: Rows) -> None:
    """Put ``rows(field)`` in place of each table."""
    for name in list(model.embeddings):
        table = torch.from_numpy(np.ascontiguousarray(rows(name)))
        model.embeddings[name] = nn.Embedding(len(table), DIM, _weight=table)


@dataclass(frozen=True, eq=False)
class Course:
    """A log of days, and its model on the evening of each.

    days: (rows,) of each row of the log, from 1 on; 0 for rows that are left out.
    tested: (rows,) bool, what may be a test row.
    first, last: evenings of the base, and of the last update; the log has one more day.
    window: days that a feature is kept after it was last seen; None for all.
    seed: of the model, of the order of rows, and of those that metrics take.
    hours: (rows,) of each row of the log, from any time on; None if only its day is known.
    """

    log: Log
    days: NDArray[np.int64]
    tested: NDArray[np.bool_]
    folder: Path
    first: int
    last: int
    window: int | None = None
    seed: int = 0
    hours: NDArray[np.float64] | None = None
    _worth: dict[int, dict[str, float]] = field(default_factory=dict)

    @cached_property
    def asked(self) -> AskedKeys:
        return AskedKeys(self.log)

    def rows(self, day: int) -> NDArray[np.intp]:
        """Training rows of a day."""
        return np.flatnonzero((self.days == day) & (self.log.split == TRAIN))

    def known(self, day: int, least: int = 1) -> NDArray[np.intp]:
        """Training rows up to a day, of features that are kept, and of ``least`` days."""
        since = 1 if self.window is None else max(day - max(self.window, least) + 1, 1)
        inside = (self.days >= since) & (self.days <= day)
        return np.flatnonzero(inside & (self.log.split == TRAIN))

    def tests(self, day: int) -> NDArray[np.intp]:
        """Test rows of the day after ``day``."""
        return np.flatnonzero((self.days == day + 1) & self.tested)

    def shuffled(self, day: int) -> NDArray[np.intp]:
        """Training rows of a day in random order; a click and its negative stay together."""
        return shuffled_pairs(self.pairs(day), np.random.default_rng([self.seed, day]))

    def pairs(self, day: int) -> NDArray[np.intp]:
        """Training rows of a day, an even number."""
        rows = self.rows(day)
        return rows[: len(rows) // 2 * 2]

    def steps(self, model: ClickModel, shown: Bar) -> TrainingSteps:
        return TrainingSteps(model, self.log, Training(), self.seed, shown)

    def new(self) -> ClickModel:
        return build("deepfm", self.log.vocab_sizes, DIM, self.seed)

    def state(self, day: int) -> Path:
        return self.folder / f"day{day}.pt"

    def train(self) -> dict[str, Any]:
        """One pass over all days, with a copy of the model from the evening before ``first`` on."""
        model, seconds = self.new(), {}
        with bar("training", int((self.days > 0).sum()), True) as shown:
            steps = self.steps(model, shown)
            for day in range(1, self.last + 1):
                steps.run(self.shuffled(day))
                if day >= self.first - 1:
                    torch.save(model.state_dict(), self.state(day))
                    seconds[day] = steps.seconds
                if day == self.first:
                    torch.save(steps.state_dict(), self.folder / "optimisers.pt")
        return {"examples": steps.examples, "seconds": seconds}

    def model(self, day: int) -> ClickModel:
        model = self.new()
        model.load_state_dict(torch.load(self.state(day)))
        return model

    def counts(self, day: int) -> dict[str, NDArray[np.int64]]:
        """How often training saw each id up to ``day``; 0 for those that are no longer kept."""
        rows = self.known(day)
        return {
            name: np.bincount(self.log.ids[rows, place], minlength=self.log.vocab_sizes[name])
            for place, name in enumerate(self.log.field_names)
        }

    def tables(self, model: ClickModel, day: int) -> dict[str, NDArray[np.float32]]:
        """The rows of all ids; zeros for those that are not kept on ``day``."""
        found = {}
        for name, counts in self.counts(day).items():
            table = model.embeddings[name].weight.detach().numpy().copy()
            table[counts == 0] = 0
            found[name] = table
        return found

    def keys(self, day: int) -> dict[str, NDArray[np.uint64]]:
        """The keys of the features that are kept, by the name of their table."""
        return {
            TABLES + name: self.asked.of_ids(name)[np.flatnonzero(counts)]
            for name, counts in self.counts(day).items()
        }

    def expected(self, day: int) -> dict[str, saec.ExpectedFrequencies]:
        """How often the next day will ask for each id, expected from the days so far."""
        found = {}
        for place, name in enumerate(self.log.field_names):
            counts, late = self.occurrences(day, place), None
            if self.hours is not None:
                late = self.late(day - 1, place), self.late(day, place)
            found[name] = saec.expected_frequencies(*counts, late=late)
        return found

    def occurrences(self, day: int, place: int) -> list[NDArray[np.int64]]:
        """Of each id of a field before yesterday, yesterday and today, which is ``day``."""
        size = self.log.vocab_sizes[self.log.field_names[place]]
        every, last, now = (
            np.bincount(self.log.ids[rows, place], minlength=size)
            for rows in (self.known(day, 2), self.rows(day - 1), self.rows(day))
        )
        return [every - last - now, last, now]

    def late(self, day: int, place: int) -> NDArray[np.float64]:
        """Occurrences of each id on a day, the less the earlier before the day's last row."""
        assert self.hours is not None, "only asked for where hours are known"
        rows, size = self.rows(day), self.log.vocab_sizes[self.log.field_names[place]]
        if not len(rows):
            return np.zeros(size)
        before_end = self.hours[rows].max() - self.hours[rows]
        return np.bincount(self.log.ids[rows, place], 0.5 ** (before_end / HALF_LIFE), size)

    def fields(self, model: ClickModel, day: int) -> list[saec.Field]:
        fields, keys, expected = [], self.keys(day), self.expected(day)
        for name, counts in self.counts(day).items():
            seen, table = np.flatnonzero(counts), TABLES + name
            weights = model.embeddings[name].weight.detach().numpy()[seen]
            fields.append(
                saec.Field(
                    table,
                    weights,
                    expected[name].frequencies[seen],
                    keys=keys[table],
                    unseen=np.zeros(DIM),
                    unseen_share=expected[name].unseen_share,
                )
            )
        return fields

    def metrics(self, model: ClickModel, day: int) -> saec.LossMetrics:
        return loss_metrics(model, self.some(self.known(day)), LOSS, progress=False)

    def some(self, rows: NDArray[np.intp]) -> Batches:
        """As many of ``rows`` as are measured."""
        drawn = np.random.default_rng(self.seed).permutation(rows)[:METRIC_ROWS]
        return Batches(self.log, drawn)

    def worth(self, day: int) -> dict[str, float]:
        """Of what moves of the day before were forecast to save: how much they saved the day after,
        the mean of all evenings since the base."""
        days = range(self.first + 1, day + 1)
        for one in days:
            if one not in self._worth:
                self._worth[one] = self._measured_worth(one)
        own = [self._worth[one] for one in days]
        return {name: float(np.mean([each[name] for each in own])) for name in own[0]}

    def _measured_worth(self, day: int) -> dict[str, float]:
        model = self.known_only(self.model(day - 1), day - 1)
        before = self.tables(self.model(day - 2), day - 2)
        return worth_of_moves(
            model,
            {TABLES + name: table for name, table in before.items()},
            self.some(self.rows(day)),
            LOSS,
            metrics=self.metrics(model, day - 1),
        )

    def known_only(self, model: ClickModel, day: int) -> ClickModel:
        """With zeros for all ids that are not kept on ``day``."""
        tables = self.tables(model, day)
        put_tables(model, tables.__getitem__)
        return model

    def quality(self, model: ClickModel, rows: Rows, day: int) -> dict[str, float]:
        """AUC and log loss on the next day, with ``rows(field)`` for all ids and unseen keys."""
        put_tables(model, rows)
        model.vocab_sizes = self.asked.sizes
        tests = self.tests(day)
        found = predict(model, self.asked.ids[tests], progress=False)
        quality = score(self.log.labels[tests], found)
        return {"auc": quality.auc, "logloss": quality.logloss}

    def own_quality(self, model: ClickModel, day: int) -> dict[str, float]:
        """The same of an uncompressed model, whose unseen keys have zeros."""
        tables = self.tables(model, day)

        def rows(name: str) -> NDArray[np.float32]:
            more = self.asked.sizes[name] - len(tables[name])
            return np.concatenate([tables[name], np.zeros((more, DIM), np.float32)])

        return self.quality(model, rows, day)

    def chain_quality(
        self, base: Path, patches: list[Path], day: int, model: ClickModel
    ) -> dict[str, Any]:
        """Bytes, and quality on the next day with the network of ``model``."""
        result = saec.load(base, patches=patches)

        def rows(name: str) -> NDArray[np.float32]:
            return result[TABLES + name].lookup(self.asked.all_keys(name))

        return {"nbytes": result.nbytes, **self.quality(model, rows, day)}


@dataclass(frozen=True, eq=False)
class Chain:
    """The files of a base and its patches.

    share: the most bytes of a patch, as a part of those of the base; every: days after which the
    chain is compacted.
    """

    course: Course
    base: Path
    name: str
    share: float | None = SHARE
    every: int | None = None

    def compacted(self, day: int) -> bool:
        return self.every is not None and (day - self.course.first) % self.every == 0

    def patch(self, day: int) -> Path:
        return self.base.with_name(f"{self.name}{day}.patch")

    def links(self, day: int) -> tuple[Path, list[Path]]:
        """The base and the patches as of the evening of ``day``."""
        start = self.course.first
        while self.every is not None and start + self.every <= day:
            start += self.every
        base = self.base
        if start > self.course.first:
            base = self.base.with_name(f"{self.name}{start}.saec")
        return base, [self.patch(other) for other in range(start + 1, day + 1)]

    def update(self, day: int, model: ClickModel) -> dict[str, Any]:
        """Write the patch of an evening, and compact the chain if it is time to."""
        fields, metrics = self.course.fields(model, day), self.course.metrics(model, day)
        base, before = self.links(day - 1)
        start = time.perf_counter()
        worth = self.course.worth(day)
        measured = time.perf_counter()
        done = saec.update(
            base,
            fields,
            out=self.patch(day),
            patches=before,
            metrics=metrics,
            worth=worth,
            share=self.share,
            compare=False,
            progress=False,
        )
        updated = time.perf_counter()
        if self.compacted(day):
            saec.compact(
                base,
                patches=[*before, self.patch(day)],
                keys=self.course.keys(day),
                out=self.links(day)[0],
            )
        return {
            "seconds": updated - measured,
            "measuring": measured - start,
            "worth": worth,
            "compacting": time.perf_counter() - updated,
            "forecast": done.loss,
            "stale_forecast": done.stale_loss,
            "patch_bytes": done.nbytes,
            "added": done.counts.added,
            "moved": done.counts.moved,
            "reset": done.counts.removed,
            "dropped": done.counts.dropped,
            "whole": done.whole,
        }

    def quality(self, day: int, model: ClickModel) -> dict[str, Any]:
        return self.course.chain_quality(*self.links(day), day, model)


@dataclass(frozen=True, eq=False)
class Trainer:
    """Trains a model on from one evening to the next, in another way than in one pass.

    chain: from whose rows each day starts, in place of the model's own tables.
    kept: whether the optimisers go on, or are new each day.
    """

    course: Course
    name: str
    chain: Chain | None
    kept: bool

    def state(self, day: int) -> Path:
        return self.course.folder / f"{self.name}{day}.pt"

    def evening(self, day: int) -> tuple[ClickModel, dict[str, Any]]:
        """The model of an evening, with the seconds of decoding and of training."""
        model, optimisers = self._before(day)
        start = time.perf_counter()
        if self.chain is not None:
            self._decode(model, day)
        decoding = time.perf_counter() - start
        with bar("training", None, False) as shown:
            steps = self.course.steps(model, shown)
            if self.kept:
                steps.load_state_dict(optimisers)
            steps.run(self.course.shuffled(day))
        torch.save((model.state_dict(), steps.state_dict()), self.state(day))
        if day > self.course.first + 2:
            self.state(day - 2).unlink(missing_ok=True)
        return model, {"decoding": decoding, "training": steps.seconds}

    def _before(self, day: int) -> tuple[ClickModel, dict[str, Any]]:
        model = self.course.new()
        if day == self.course.first + 1:
            state = torch.load(self.course.state(day - 1))
            optimisers = torch.load(self.course.folder / "optimisers.pt")
        else:
            state, optimisers = torch.load(self.state(day - 1))
        if self.chain is not None:  # the rest of the tables is new
            state = {name: own for name, own in state.items() if not name.startswith(TABLES)}
        model.load_state_dict(state, strict=self.chain is None)
        return model, optimisers

    def _decode(self, model: ClickModel, day: int) -> None:
        assert self.chain is not None
        base, patches = self.chain.links(day - 1)
        keys = {}
        for name in self.course.log.field_names:
            own = self.course.asked.of_ids(name)[1:]
            keys[TABLES + name] = TableKeys(own, rows=np.arange(1, len(own) + 1))
        warm_start_(model, saec.load(base, patches=patches), keys=keys)


def halving(first: int, last: int) -> list[int]:
    """The evenings after ``first``: the last one, then those in the middle of what is open."""
    order, open_spans = [last], [(first, last)]
    for low, high in open_spans:
        middle = (low + high) // 2
        if low < middle:
            order.append(middle)
            open_spans += [(low, middle), (middle, high)]
    return order


class Steps:
    """What is measured on each day; each is a line of the record."""

    def __init__(self, course: Course, ratio: float, record: Path) -> None:
        self.course, self.ratio, self.runs = course, ratio, RecordedRuns(record)
        self.known = {(row["step"], row["day"]): row for row in self.runs.lines()}

    def run(self, last: int | None = None) -> None:
        """All steps of the evenings up to ``last``, or up to that of the course."""
        course = self.course
        last = course.last if last is None else last
        self.once("machine", 0, machine)
        self.once("train", 0, course.train)
        self.once("afresh", course.first, lambda: self.afresh(course.first))
        for day in range(course.first + 1, last + 1):
            for name, step in self.of_day(day):
                self.once(name, day, step)
        for day in halving(course.first, last):  # these take longest
            self.once("afresh", day, lambda day=day: self.afresh(day))  # type: ignore[misc]

    def once(self, step: str, day: int, work: Callable[[], dict[str, Any]]) -> None:
        """Do a step unless its line is there."""
        if (step, day) in self.known:
            return
        row = {"step": step, "day": day, **work()}
        self.known[step, day] = row
        self.runs.add(row)
        print(json.dumps(row), flush=True)

    @property
    def base(self) -> Path:
        return self.artifact(self.course.first)

    def artifact(self, day: int) -> Path:
        return self.course.folder / f"afresh{day}.saec"

    def of_day(self, day: int) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
        """The steps of an evening after the first one."""
        first = self.course.first
        yield "patched", lambda: self.patched(Chain(self.course, self.base, "day"), day)
        yield "tables never updated", lambda: self.stale(day, day)
        yield "never updated", lambda: self.stale(day, first)
        yield "uncompressed", lambda: self.uncompressed(day)

    def uncompressed(self, day: int) -> dict[str, Any]:
        sizes = [int((counts > 0).sum()) for counts in self.course.counts(day).values()]
        quality = self.course.own_quality(self.course.model(day), day)
        return {"rows": sum(sizes), "nbytes": sum(sizes) * (4 * DIM + 8), **quality}

    def stale(self, day: int, network: int) -> dict[str, Any]:
        return self.course.chain_quality(self.base, [], day, self.course.model(network))

    def patched(self, chain: Chain, day: int) -> dict[str, Any]:
        model = self.course.model(day)
        return {**chain.update(day, model), **chain.quality(day, model)}

    def trained_on(self, trainer: Trainer, day: int) -> dict[str, Any]:
        """A trainer's model, and its chain if it has one."""
        model, row = trainer.evening(day)
        if trainer.chain is not None:
            row |= trainer.chain.update(day, model)
        own = self.course.own_quality(model, day)
        if trainer.chain is None:
            return row | own
        row |= {f"model_{name}": value for name, value in own.items()}
        return row | trainer.chain.quality(day, model)

    def afresh(self, day: int) -> dict[str, Any]:
        model = self.course.model(day)
        fields, metrics = self.course.fields(model, day), self.course.metrics(model, day)
        start = time.perf_counter()
        result = saec.compress(fields, saec.Ratio(self.ratio), metrics=metrics, progress=False)
        result.save(self.artifact(day))
        seconds = time.perf_counter() - start
        loss = {"seconds": seconds, "forecast": result.predicted_loss_increase}
        return {**loss, **self.course.chain_quality(self.artifact(day), [], day, model)}
