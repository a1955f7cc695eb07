"""One trained model, its tables compressed in many ways, each put in its place and measured."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from saec.codecs.protocol import Codec
from saec.compression.budget import LossIncrease, Ratio
from saec.compression.plan import Priced
from saec.compression.run import compress_priced
from saec.format.compressed import Compressed
from saec.reference.damage import damage_by_decile
from saec.reference.evaluate import Score, predict, score
from saec.reference.log import Log
from saec.reference.models import ClickModel, build
from saec.reference.pictures import views
from saec.reference.simulated import best_reachable
from saec.reference.sizes import sizes
from saec.reference.train import Optimiser, train
from saec.tables.field import Field
from saec.tables.loss_metric import LossMetrics
from saec.torch import (
    compress_,
    fields,
    finetune,
    finetune_on_unseen_rows,
    loss_metrics,
    predictions,
    replace_embeddings_,
    sync_codebooks_,
)

__all__ = ["Job", "Method", "Trial", "Tuning", "divergence"]

# Of fine-tuning, chosen by validation log loss on ml-1m and globo (docs/results.md).
TUNING_BATCH = 4096
TUNING_LEARNING_RATE = 3e-4
TUNING_EPOCHS = 2
TUNING_EVALUATIONS = 4
UNSEEN_LEARNING_RATE = 1e-4
UNSEEN_EPOCHS = 8

METRIC_ROWS = 131_072  # of the training rows, more than the metric asks for

_LOG_LOSS = nn.functional.binary_cross_entropy_with_logits  # click models give logits

_TABLES = "embeddings."  # where click models keep their tables, one per field


@dataclass(frozen=True)
class Method:
    """A codec, whether it gets the loss metric, and what is done to the compressed model.

    tuning: None, ``"finetune"`` (distillation on the training rows) or ``"unseen"`` (after that,
    labels of one half of the validation rows; the other half chooses).
    """

    codec: Codec
    metric: bool = False
    tuning: str | None = None


@dataclass(frozen=True)
class Job:
    """One compression: a method by its name, and the budget to keep if it takes one."""

    name: str
    method: Method
    budget: Ratio | LossIncrease | None


@dataclass(frozen=True, eq=False)
class Trial:
    """A trained model and what it was trained on; compressed tables take their turns in it."""

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
        optimiser: Optimiser = "row-adagrad",
        bit_price: float | None = None,
    ) -> Trial:
        """Train a model; arguments as of :func:`saec.reference.experiment.bench`."""
        net = build(model, log.vocab_sizes, dim, seed)
        train(net, log, optimiser=optimiser, bit_price=bit_price, seed=seed, progress=progress)
        trial = cls(log, net, {}, seed, progress)
        facts = {
            "task": log.name,
            "model": model,
            "dim": dim,
            "optimiser": optimiser,
            "bit_price": bit_price,
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
        tuning = Tuning(self) if any(job.method.tuning for job in jobs) else None
        made: dict[Job, tuple[Compressed, float]] = {}
        for job in jobs:
            if _untuned(job) not in made:
                made[_untuned(job)] = self.compress(job)
        plain = {job: made[_untuned(job)][0] for job in jobs if job.method.tuning is None}
        drawn = self._pictures(_smallest(plain)) if pictures else {}
        for job in jobs:
            result, seconds = made[_untuned(job)]
            described = {
                **self.facts,
                "method": job.name,
                **_asked(job.budget),
                "compress_seconds": seconds,
                "finetuned": job.method.tuning is not None,
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
        """The loss metrics, and the seconds that measuring them took."""
        start = time.perf_counter()
        found = loss_metrics(self.model, self._metric_batches, _LOG_LOSS, progress=self.progress)
        return found, time.perf_counter() - start

    @property
    def _metric_batches(self) -> _Batches:
        """Training rows from all of the log; their labels are not looked at."""
        rows = np.random.default_rng(self.seed).permutation(self.log.rows("train"))[:METRIC_ROWS]
        return _Batches(self.log, rows)

    def tables(self) -> list[Field]:
        """The model's own, which it must hold now."""
        return fields(self.model, self.frequencies)

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
                    calibration=_Batches(self.log, self.log.rows("validation")),
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
            priced = Priced.of(
                self.tables(), method.codec, metrics, seed=self.seed, progress=self.progress
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
        with self.own_tables():
            replace_embeddings_(self.model, result, renumbered=True)
            for name, field in result.items():
                if field.renumbered:
                    own = name.removeprefix(_TABLES)
                    table = self.model.embeddings[own]
                    self.model.embeddings[own] = _Renumbered(field.new_ids, table)
            yield

    @contextmanager
    def own_tables(self) -> Iterator[None]:
        """Whatever is put into the model meanwhile, in the end it holds its own tables again."""
        own = dict(self.model.embeddings.items())
        try:
            yield
        finally:
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

    def probabilities(self) -> dict[str, NDArray[np.float32]]:
        """Predictions on validation and test rows."""
        return {
            part: predict(self.model, self.log.ids[self.log.rows(part)], progress=self.progress)
            for part in ("validation", "test")
        }

    def scores(self, probabilities: dict[str, NDArray[np.float32]]) -> dict[str, Score]:
        """Quality on validation and test rows."""
        return {
            part: score(self.log.labels[self.log.rows(part)], values)
            for part, values in probabilities.items()
        }


class Tuning:
    """Fine-tuning of compressed models: the uncompressed one's predictions are the targets.

    Labels of the training rows are not: tables have memorised those of rare features, see
    :func:`saec.torch.finetune_on_unseen_rows`.
    """

    def __init__(self, trial: Trial) -> None:
        """Ask the teacher: ``trial`` holds its own tables now."""
        self._trial = trial
        order = np.random.default_rng(trial.seed).permutation(trial.log.rows("train"))
        self._batches = _Batches(trial.log, order)
        self._logits = predictions(trial.model, self._batches, progress=trial.progress)
        rows = trial.log.rows("validation")
        # Neighbours, a click and its sampled negative, stay together.
        half = len(rows) // 4 * 2
        self._validation = _Batches(trial.log, rows)
        self._unseen, self._judged = (
            _Batches(trial.log, rows[:half]),
            _Batches(trial.log, rows[half:]),
        )

    def run(self, result: Compressed, kind: str) -> Compressed:
        """Train what the trial's model, which holds ``result``, has learned; return it as tuned."""
        finetune(
            self._trial.model,
            self._batches,
            validation=self._judged if kind == "unseen" else self._validation,
            teacher=self._logits,
            learning_rate=TUNING_LEARNING_RATE,
            epochs=TUNING_EPOCHS,
            evaluations=TUNING_EVALUATIONS,
            progress=self._trial.progress,
        )
        if kind == "unseen":
            finetune_on_unseen_rows(
                self._trial.model,
                self._unseen,
                validation=self._judged,
                learning_rate=UNSEEN_LEARNING_RATE,
                epochs=UNSEEN_EPOCHS,
                evaluations=TUNING_EVALUATIONS,
                progress=self._trial.progress,
            )
        return sync_codebooks_(self._trial.model, result)


class _Renumbered(nn.Module):
    """A table that is asked by old ids, as the log has them; who serves it renumbers the log."""

    def __init__(self, new_ids: NDArray[np.int64], table: nn.Module) -> None:
        super().__init__()
        self._new_ids = torch.from_numpy(new_ids)
        self.table = table

    def forward(self, ids: Tensor) -> Tensor:
        rows: Tensor = self.table(self._new_ids[ids])
        return rows


class _Batches:
    """Batches of the given rows of a log, made as they are asked for."""

    def __init__(self, log: Log, rows: NDArray[np.intp]) -> None:
        self._log, self._rows = log, rows

    def __len__(self) -> int:
        return -(-len(self._rows) // TUNING_BATCH)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self._rows), TUNING_BATCH):
            rows = self._rows[start : start + TUNING_BATCH]
            yield torch.from_numpy(self._log.ids[rows]), torch.from_numpy(self._log.labels[rows])


def _smallest(results: Mapping[Job, Compressed]) -> dict[Job, Compressed]:
    """Of each method the smallest result."""
    found: dict[str, Job] = {}
    for job in sorted(results, key=lambda job: results[job].nbytes):
        found.setdefault(job.name, job)
    return {job: results[job] for job in found.values()}


def _untuned(job: Job) -> Job:
    """The job whose result this one tunes, under one name for all of them."""
    return replace(job, name="", method=replace(job.method, tuning=None))


def _asked(budget: Ratio | LossIncrease | None) -> dict[str, float | None]:
    return {
        "target_ratio": budget.value if isinstance(budget, Ratio) else None,
        "target_loss_increase": budget.value if isinstance(budget, LossIncrease) else None,
    }


def _named(scores: dict[str, Score], prefix: str) -> dict[str, float]:
    """Quality by name; that on test rows is the plain one."""
    return {
        f"{prefix}{name}{measure}": getattr(scores[part], measure)
        for part, name in (("test", ""), ("validation", "validation_"))
        for measure in ("auc", "logloss")
    }


def divergence(before: NDArray[np.float32], after: NDArray[np.float32]) -> float:
    """Mean KL(p || p') of two predictions, in nats."""
    least = np.finfo(np.float64).eps
    p, q = (np.clip(values.astype(np.float64), least, 1 - least) for values in (before, after))
    return float(np.mean(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))))
