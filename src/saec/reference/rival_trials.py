"""One seed of ``saec bench --rivals``: its log, its uncompressed model, and any run on them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from saec.compression.budget import Ratio
from saec.reference.job import Job
from saec.reference.kept_model import trained_or_kept
from saec.reference.log import Log
from saec.reference.methods import method_of
from saec.reference.rival_runs import RivalRun
from saec.reference.small import SMALL
from saec.reference.small.training import SmallTraining
from saec.reference.training_settings import Training
from saec.reference.trial import Trial
from saec.tables.field_keys import KEY_BYTES

__all__ = ["AFTER_TRAINING", "RivalTrials", "has_one_size"]

_KEYED = "axes-keyed"  # axes that are given keys in place of ids
_NETWORK = "axes-keyed+network"  # and then the network is trained on
_UNCOMPRESSED = "float32"

_OF_ONE_SIZE = (_UNCOMPRESSED, "float16", "int8", "int4", "int2")

# Methods that take the trained tables, whose only setting is their size.
AFTER_TRAINING = (
    *_OF_ONE_SIZE,
    *("svd", "pq", "opq", "head-mean"),
    *("saec", "saec-metric", "axes", "axes-remapped", _KEYED, _NETWORK),
)

_SIZES = ("nbytes", "bytes_all_in", "ratio", "ratio_all_in")
_SCORES = ("auc", "logloss", "validation_auc", "validation_logloss")


def has_one_size(method: str) -> bool:
    """Whether a method's size cannot be chosen."""
    return SMALL[method].has_one_size if method in SMALL else method in _OF_ONE_SIZE


@dataclass(frozen=True, eq=False)
class RivalTrials:
    """Trains or compresses by any method.

    Args:
        log: as loaded with keys.
        model: a key of :data:`saec.reference.models.MODELS`.
        dim: width of the vectors that the model gets.
        seed: of the model, its training and the method.
        progress: whether to show bars.
        keep: folder for the trained uncompressed model; see
            :func:`~saec.reference.kept_model.trained_or_kept`.
    """

    log: Log
    model: str
    dim: int
    seed: int
    progress: bool
    keep: Path | None = None

    def measured(self, run: RivalRun) -> dict[str, Any]:
        """Sizes in bytes, quality on test and validation rows, seconds of training and epochs.

        Raises:
            BudgetError: the method has no tables so small.
            DataError: training diverged.
            FieldError: a number is too large to be stored.
        """
        if run.method in SMALL:
            return self._trained_small(run)
        if run.method == _UNCOMPRESSED:
            return self._uncompressed()
        return self._after_training(run)

    def _trained_small(self, run: RivalRun) -> dict[str, Any]:
        own = dict(run.settings)
        rate, decay = Training().of_tables(self.log.name)
        training = Training(
            table_learning_rate=rate * own.pop("rate"), table_decay=decay * own.pop("decay")
        )
        method = SMALL[run.method](**own)
        return self._small.measured(method, run.ratio or 1.0, training, progress=self.progress)

    def _after_training(self, run: RivalRun) -> dict[str, Any]:
        by_keys = run.method in (_KEYED, _NETWORK)
        trial, seconds = self._base_by_keys if by_keys else self._base
        name = "axes" if by_keys else run.method
        budget = None if run.ratio is None else Ratio(run.ratio)
        job = Job(name, method_of(name), budget)
        if run.method == _NETWORK:
            row = trial.with_network_trained(job)
            seconds += row["network_seconds"]
        else:
            (row,) = trial.rows([job])
        measured = {name: row[name] for name in (*_SIZES, *_SCORES)}
        return {**measured, "train_seconds": seconds, "compress_seconds": row["compress_seconds"]}

    def _uncompressed(self) -> dict[str, Any]:
        trial, seconds = self._base
        features = sum(self.log.vocab_sizes.values())
        nbytes = 4 * self.dim * features
        return {
            "nbytes": nbytes,
            "bytes_all_in": nbytes + KEY_BYTES * features,
            "ratio": 1.0,
            "ratio_all_in": 1.0,
            **{name: trial.facts[f"base_{name}"] for name in _SCORES},
            "train_seconds": seconds,
        }

    @cached_property
    def _base(self) -> tuple[Trial, float]:
        """The uncompressed model over the log's ids, and the seconds that its training took."""
        log = replace(self.log, keys=None)
        net, seconds = trained_or_kept(
            log, self.model, self.dim, self.seed, self.keep, progress=self.progress
        )
        trial = Trial.of(log, net, self.model, self.seed, self.progress, Training())
        return trial, seconds

    @cached_property
    def _base_by_keys(self) -> tuple[Trial, float]:
        """The same, whose tables are asked by keys once they are compressed."""
        trial, seconds = self._base
        return replace(trial, log=self.log), seconds

    @cached_property
    def _small(self) -> SmallTraining:
        return SmallTraining.of(self.log, self.model, self.dim, self.seed)
