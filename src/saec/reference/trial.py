"""One trained model, its tables compressed in many ways, each put in its place and measured."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saec.budget import Ratio
from saec.codecs.codec import Codec
from saec.compress import compress
from saec.compressed import ClusteredField, Compressed, CompressedField
from saec.progress import track
from saec.reference.evaluate import evaluate
from saec.reference.log import Log
from saec.reference.models import ClickModel, build
from saec.reference.simulated import best_reachable
from saec.reference.train import train
from saec.table import Field
from saec.torch import fields, finetune, replace_embeddings_, sync_codebooks_

__all__ = ["Job", "Trial"]

# Of fine-tuning, chosen by validation log loss on ml-1m and globo (docs/results.md).
TUNING_BATCH = 4096
TUNING_LEARNING_RATE = 3e-4
TUNING_EPOCHS = 2
TUNING_EVALUATIONS = 4

_TABLES = "embeddings."  # where click models keep their tables, one per field


@dataclass(frozen=True)
class Job:
    """One compression: a codec by its method's name, and the ratio to aim at if it takes one."""

    method: str
    codec: Codec
    ratio: float | None


@dataclass(frozen=True, eq=False)
class Trial:
    """A trained model and what it was trained on; compressed tables take their turns in it."""

    log: Log
    model: ClickModel
    facts: dict[str, Any]
    seed: int
    progress: bool

    @classmethod
    def start(cls, log: Log, model: str, dim: int, seed: int, progress: bool) -> Trial:
        net = build(model, log.vocab_sizes, dim, seed)
        train(net, log, seed=seed, progress=progress)
        trial = cls(log, net, {}, seed, progress)
        facts = {
            "task": log.name,
            "model": model,
            "dim": dim,
            "seed": seed,
            "features": sum(log.vocab_sizes.values()),
            "test_rows": len(log.rows("test")),
            **trial.scores("base_"),
        }
        if log.truth is not None:
            facts["best_auc"], facts["best_logloss"] = best_reachable(log, log.rows("test"))
        trial.facts.update(facts)
        return trial

    def rows(self, jobs: Sequence[Job], tune: bool) -> Iterator[dict[str, Any]]:
        """Measure every job. All are compressed first: a ratio out of reach shows early."""
        tables = self.tables()
        done = [(job, *self.compress(job, tables)) for job in jobs]
        tuning = Tuning(self) if tune else None
        for job, result, seconds in done:
            described = {
                **self.facts,
                "method": job.method,
                "target_ratio": job.ratio,
                "compress_seconds": seconds,
            }
            with self.holding(result):
                plain = self.measured(result)
                yield described | plain | {"finetuned": False}
                if tuning is None:
                    continue
                start = time.perf_counter()
                tuned = self.measured(tuning.run(result))
                took = {"finetune_seconds": time.perf_counter() - start}
                # Rounding may have taken back more than training gave.
                if tuned["validation_logloss"] > plain["validation_logloss"]:
                    tuned = plain
                yield described | tuned | took | {"finetuned": True}

    def tables(self) -> list[Field]:
        """The model's own, which it must hold now."""
        counts = self.log.frequencies
        return fields(self.model, {_TABLES + name: counts[name] for name in self.log.field_names})

    def compress(self, job: Job, tables: Sequence[Field]) -> tuple[Compressed, float]:
        """The job's result and the seconds that it took."""
        budget = None if job.ratio is None else Ratio(job.ratio)
        start = time.perf_counter()
        result = compress(tables, budget, job.codec, seed=self.seed, progress=self.progress)
        return result, time.perf_counter() - start

    @contextmanager
    def holding(self, result: Compressed) -> Iterator[None]:
        """Compressed tables in the model, and in the end its own ones again, untouched."""
        own = dict(self.model.embeddings.items())
        try:
            replace_embeddings_(self.model, result)
            yield
        finally:
            for name, module in own.items():
                self.model.embeddings[name] = module

    def measured(self, result: Compressed) -> dict[str, Any]:
        """Size and quality of the model, which holds ``result``."""
        return {
            "ratio": result.compression_ratio,
            "nbytes": result.nbytes,
            "original_nbytes": result.original_nbytes,
            "clusters": {
                name.removeprefix(_TABLES): _clusters(field) for name, field in result.items()
            },
            **self.scores(),
        }

    def scores(self, prefix: str = "") -> dict[str, float]:
        """Quality on validation and test rows, by name."""
        test = evaluate(self.model, self.log, "test", progress=self.progress)
        validation = evaluate(self.model, self.log, "validation", progress=self.progress)
        return {
            f"{prefix}auc": test.auc,
            f"{prefix}logloss": test.logloss,
            f"{prefix}validation_auc": validation.auc,
            f"{prefix}validation_logloss": validation.logloss,
        }


class Tuning:
    """Distillation on the training rows: the uncompressed model's predictions are the targets.

    Its labels are not: tables have memorised those of rare features, see
    :func:`saec.torch.finetune`.
    """

    def __init__(self, trial: Trial) -> None:
        """Ask the teacher: ``trial`` holds its own tables now."""
        log, self._trial = trial.log, trial
        order = np.random.default_rng(trial.seed).permutation(log.rows("train"))
        self._batches = _Batches(log, order)
        self._validation = _Batches(log, log.rows("validation"))
        with torch.no_grad():
            self._logits = [
                trial.model(ids)
                for ids, _ in track(
                    self._batches, description="asking the teacher", show=trial.progress
                )
            ]

    def run(self, result: Compressed) -> Compressed:
        """Train the codebooks of the trial's model, which holds ``result``; return it as tuned."""
        finetune(
            self._trial.model,
            self._batches,
            validation=self._validation,
            teacher=self._logits,
            learning_rate=TUNING_LEARNING_RATE,
            epochs=TUNING_EPOCHS,
            evaluations=TUNING_EVALUATIONS,
            progress=self._trial.progress,
        )
        return sync_codebooks_(self._trial.model, result)


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


def _clusters(field: CompressedField) -> int | None:
    """Their number, or None for a table kept as it is."""
    return field.codebook.clusters if isinstance(field, ClusteredField) else None
