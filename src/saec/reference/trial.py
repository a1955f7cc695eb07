"""One trained model, its tables compressed in many ways, each put in its place and measured."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from saec.codecs.axes.codec import Axes
from saec.compression.budget import LossIncrease
from saec.compression.plan import Priced
from saec.compression.run import compress_priced
from saec.format.compressed import Compressed
from saec.format.keyed_field import KeyedField
from saec.reference.asked_keys import AskedKeys
from saec.reference.batches import Batches
from saec.reference.damage import damage_by_decile
from saec.reference.evaluate import Score, divergence, predict, score
from saec.reference.held_tables import hold
from saec.reference.job import Job, Method, asked_for, smallest, untuned
from saec.reference.log import Log
from saec.reference.models import ClickModel, build
from saec.reference.network import kept_network, train_network
from saec.reference.pictures import views
from saec.reference.simulated import best_reachable
from saec.reference.sizes import sizes
from saec.reference.train import train
from saec.reference.training_settings import Training
from saec.reference.tuning import Tuning
from saec.tables.field import Field
from saec.tables.loss_metric import LossMetrics
from saec.torch import compress_, fields, loss_metrics

__all__ = ["Trial"]

METRIC_ROWS = 131_072  # of the training rows, more than the metric asks for

_LOG_LOSS = nn.functional.binary_cross_entropy_with_logits  # click models give logits

_TABLES = "embeddings."  # where click models keep their tables, one per field


@dataclass(frozen=True, eq=False)
class Trial:
    """A trained model and its training data; compressed tables are put into it in turn."""

    log: Log
    model: ClickModel
    facts: dict[str, Any]
    seed: int
    progress: bool

    @classmethod
    def start(
        cls,
        log: Log,
        model: str,
        dim: int,
        seed: int,
        progress: bool,
        training: Training | None = None,
    ) -> Trial:
        """Train a model; arguments as of :class:`saec.reference.benchmark.Benchmark`."""
        net = build(model, log.vocab_sizes, dim, seed)
        training = training or Training()
        train(net, log, training, seed=seed, progress=progress)
        return cls.of(log, net, model, seed, progress, training)

    @classmethod
    def of(
        cls, log: Log, net: ClickModel, model: str, seed: int, progress: bool, training: Training
    ) -> Trial:
        """Of the trained model ``net``, which is a ``model``."""
        trial = cls(log, net, {}, seed, progress)
        facts = {
            "task": log.name,
            "model": model,
            "dim": net.dim,
            "optimiser": training.optimiser,
            "bit_price": training.bit_price,
            "seed": seed,
            "features": sum(log.vocab_sizes.values()),
            "test_rows": len(log.rows("test")),
            **_named(trial.scores(trial.base), "base_"),
        }
        if log.truth is not None:
            facts["best_auc"], facts["best_logloss"] = best_reachable(log, log.rows("test"))
        trial.facts.update(facts)
        return trial

    def rows(self, jobs: Sequence[Job], *, pictures: bool = False) -> Iterator[dict[str, Any]]:
        """Measure every job. All are compressed first: a budget out of reach shows early.

        With ``pictures``, the smallest result of each method that tunes nothing shows how it
        clustered some features.
        """
        tuning = (
            Tuning(self.model, self.log, self.seed, self.progress)
            if any(job.method.tuning for job in jobs)
            else None
        )
        made: dict[Job, tuple[Compressed, float]] = {}
        for job in jobs:
            if untuned(job) not in made:
                made[untuned(job)] = self.compress(job)
        plain = {job: made[untuned(job)][0] for job in jobs if job.method.tuning is None}
        drawn = self._pictures(smallest(plain)) if pictures else {}
        for job in jobs:
            result, seconds = made[untuned(job)]
            described = {
                **self.facts,
                "method": job.name,
                **asked_for(job.budget),
                "compress_seconds": seconds,
                "finetuned": job.method.tuning is not None,
                "keyed": self.asks_keys(job.method),
            }
            with self.holding(result):
                if tuning is not None and job.method.tuning is not None:
                    start = time.perf_counter()
                    result = tuning.run(result, job.method.tuning)
                    described["finetune_seconds"] = time.perf_counter() - start
                yield described | self.measured(result) | drawn.get(job, {})

    def _pictures(self, results: Mapping[Job, Compressed]) -> dict[Job, dict[str, Any]]:
        if not results:
            return {}
        known = self.log.vocabularies or {}
        seen = views(self.tables(), self.metrics[0], known, _TABLES, self.seed)
        return {
            job: {"pictures": [view.picture(result[name]) for name, view in seen.items()]}
            for job, result in results.items()
        }

    @cached_property
    def base(self) -> dict[str, NDArray[np.float32]]:
        """The uncompressed model's probabilities on validation and test rows."""
        return self.probabilities()

    @cached_property
    def metrics(self) -> tuple[LossMetrics, float]:
        """The loss metrics, with slopes from the validation rows; the seconds that it all took."""
        start = time.perf_counter()
        found = loss_metrics(
            self.model,
            self._metric_batches,
            _LOG_LOSS,
            unseen=Batches(self.log, self.log.rows("validation")),
            unknown=None if self.log.keys is None else dict.fromkeys(self.frequencies, 0),
            progress=self.progress,
        )
        return found, time.perf_counter() - start

    @property
    def _metric_batches(self) -> Batches:
        """Training rows from all of the log; their labels are not looked at."""
        rows = np.random.default_rng(self.seed).permutation(self.log.rows("train"))[:METRIC_ROWS]
        return Batches(self.log, rows)

    def tables(self) -> list[Field]:
        """The model's own, which it must hold now."""
        return fields(self.model, self.frequencies)

    @cached_property
    def keys(self) -> AskedKeys:
        """The keys of the log; only of one that has them."""
        return AskedKeys(self.log)

    def asks_keys(self, method: Method) -> bool:
        """Whether a method gets keys in place of ids."""
        return self.log.keys is not None and method.codec == Axes()

    @property
    def frequencies(self) -> dict[str, NDArray[np.float64]]:
        """Counts of the training rows, by the names of the model's tables."""
        return {_TABLES + name: self.log.frequencies[name] for name in self.log.field_names}

    def compress(self, job: Job) -> tuple[Compressed, float]:
        """The job's result and the seconds that it took, those of the metric included."""
        start = time.perf_counter()
        if isinstance(job.budget, LossIncrease):
            with self.own_tables():  # compress_ changes the model
                result = compress_(
                    self.model,
                    self._metric_batches,
                    _LOG_LOSS,
                    budget=job.budget,
                    frequencies=self.frequencies,
                    calibration=Batches(self.log, self.log.rows("validation")),
                    keys=self.keys.table_keys(_TABLES) if self.asks_keys(job.method) else None,
                    codec=job.method.codec,
                    seed=self.seed,
                    progress=self.progress,
                )
        else:
            priced, seconds = self._priced(replace(job.method, tuning=None))
            start = time.perf_counter() - seconds  # of work that other jobs share
            result = compress_priced(priced, job.budget)
        return result, time.perf_counter() - start

    def _priced(self, method: Method) -> tuple[Priced, float]:
        """A method's options for the model's tables, and the seconds that measuring them took."""
        if method not in self._known:
            metrics, seconds = self.metrics if method.metric else (None, 0.0)
            start = time.perf_counter()
            tables = self.tables()
            if self.asks_keys(method):
                tables = self.keys.fields(tables, _TABLES)
            priced = Priced.of(
                tables, method.codec, metrics, seed=self.seed, progress=self.progress
            )
            self._known[method] = priced, seconds + time.perf_counter() - start
        priced, seconds = self._known[method]
        return priced, seconds

    @cached_property
    def _known(self) -> dict[Method, tuple[Priced, float]]:
        return {}

    @contextmanager
    def holding(self, result: Compressed) -> Iterator[None]:
        """Compressed tables in the model, and in the end its own ones again, untouched."""
        _ = self.base  # predicted before the model holds other tables
        with self.own_tables():
            if any(isinstance(field, KeyedField) for field in result.values()):
                self.keys.hold(self.model, result, _TABLES)
            else:
                hold(self.model, result, _TABLES)
            yield

    @contextmanager
    def own_tables(self) -> Iterator[None]:
        """Whatever is put into the model meanwhile, in the end it holds its own tables again."""
        own = dict(self.model.embeddings.items())
        try:
            yield
        finally:
            self.model.vocab_sizes = self.log.vocab_sizes
            for name, module in own.items():
                self.model.embeddings[name] = module

    def measured(self, result: Compressed) -> dict[str, Any]:
        """Size and quality of the model, which holds ``result``."""
        now = self.probabilities()
        test = self.log.rows("test")
        return {
            **sizes(result, _TABLES),
            "predicted_loss_increase": result.predicted_loss_increase,
            "divergence": divergence(self.base["validation"], now["validation"]),
            **_named(self.scores(now), ""),
            "deciles": damage_by_decile(self.log, test, self.base["test"], now["test"]),
        }

    def with_network_trained(self, result: Compressed) -> dict[str, Any]:
        """Size and quality of the model, which holds ``result``, after its network was trained on
        for these tables; in the end the network is as it was."""
        with kept_network(self.model):
            start = time.perf_counter()
            train_network(self.model, self.log, self.asked, seed=self.seed, progress=self.progress)
            spent = {"network_seconds": time.perf_counter() - start}
            return spent | self.measured(result)

    @property
    def asked(self) -> NDArray[np.integer]:
        """What the tables in the model are asked for, (rows, fields): keys, unseen ones too, or
        ids."""
        by_keys = self.model.vocab_sizes != self.log.vocab_sizes
        return self.keys.ids if by_keys else self.log.ids

    def probabilities(self) -> dict[str, NDArray[np.float32]]:
        """Predictions on validation and test rows."""
        ids = self.asked
        return {
            part: predict(self.model, ids[self.log.rows(part)], progress=self.progress)
            for part in ("validation", "test")
        }

    def scores(self, probabilities: dict[str, NDArray[np.float32]]) -> dict[str, Score]:
        """Quality on validation and test rows."""
        return {
            part: score(self.log.labels[self.log.rows(part)], values)
            for part, values in probabilities.items()
        }


def _named(scores: dict[str, Score], prefix: str) -> dict[str, float]:
    """Quality by name; that on test rows is the plain one."""
    return {
        f"{prefix}{name}{measure}": getattr(scores[part], measure)
        for part, name in (("test", ""), ("validation", "validation_"))
        for measure in ("auc", "logloss")
    }
