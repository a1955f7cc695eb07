"""One seed of ``saec bench --rivals``: its log, its uncompressed model, and any run on them."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from saec.compression.budget import Ratio
from saec.reference.job import Job
from saec.reference.kept_model import trained_or_kept
from saec.reference.log import Log
from saec.reference.lookup_time import compressed_ns, module_ns
from saec.reference.methods import method_of
from saec.reference.rival_runs import RivalRun
from saec.reference.small import SMALL
from saec.reference.small.training import SmallTraining
from saec.reference.training_settings import PricedTraining, Training
from saec.reference.trial import Trial
from saec.tables.field_keys import KEY_BYTES

__all__ = [
    "AFTER_TRAINING",
    "MODEL_SETTINGS",
    "TRAINED_OTHERWISE",
    "TRAINING_SPACE",
    "RivalTrials",
    "drawn_settings",
    "has_one_size",
    "model_settings",
]

_KEYED = "axes-keyed"  # axes that are given keys in place of ids
_NETWORK = "axes-keyed+network"  # and then the network is trained on
_UNCOMPRESSED = "float32"
_WITH_PRICE = "+priced"  # of a model that was trained with a price on bits
_AVERAGED = "+averaged"  # of a model whose parameters are a running mean: a control for the price
_TUNED = "+tuned"  # of a model trained by as many settings as small tables are: a control for them

_OF_ONE_SIZE = (_UNCOMPRESSED, "float16", "int8", "int4", "int2")

# Methods that take the trained tables, whose only setting is their size.
AFTER_TRAINING = (
    *_OF_ONE_SIZE,
    *("svd", "pq", "opq", "head-mean"),
    *("saec", "saec-metric", "axes", "axes-remapped", _KEYED, _NETWORK),
)

# The same of a model that was trained in another way, with a setting.
TRAINED_OTHERWISE = (
    *(f"{name}{_WITH_PRICE}" for name in (_UNCOMPRESSED, "saec", "saec-metric", "axes", _KEYED)),
    *(f"{name}{_AVERAGED}" for name in (_UNCOMPRESSED, _KEYED)),
    *(f"{name}{_TUNED}" for name in (_UNCOMPRESSED, _KEYED)),
)
MODEL_SETTINGS = ("price", "half_life", "rate", "decay")  # of these

# Of the task's own learning rate and decay of the tables, which trials multiply.
TRAINING_SPACE: dict[str, tuple[float, ...]] = {
    "rate": (1.0, 0.5, 2.0, 5.0),
    "decay": (1.0, 0.0, 0.25, 4.0),
}
_DRAWS = 1000  # until settings count as used up

# In epochs.
_HALF_LIVES = (0.05, 0.02, 0.1, 0.25)

_SIZES = ("nbytes", "bytes_all_in", "ratio", "ratio_all_in")
_SCORES = ("auc", "logloss", "validation_auc", "validation_logloss")


def has_one_size(method: str) -> bool:
    """Whether a method's size cannot be chosen."""
    if method in SMALL:
        return SMALL[method].has_one_size
    return _plain(method) in _OF_ONE_SIZE


def model_settings(method: str, task: str, trial: int) -> dict[str, float] | None:
    """How the model of a method of :data:`TRAINED_OTHERWISE` is trained in a trial; None if there
    are no more. ``rate`` and ``decay`` multiply the task's own."""
    if method.endswith(_TUNED):
        return drawn_settings(_TUNED, dict.fromkeys(TRAINING_SPACE, 1.0), TRAINING_SPACE, trial)
    name, values = "price", PricedTraining.of(task).prices
    if method.endswith(_AVERAGED):
        name, values = "half_life", _HALF_LIVES
    return {name: values[trial]} if trial < len(values) else None


def drawn_settings(
    name: str, first: dict[str, Any], space: Mapping[str, Sequence[Any]], trial: int
) -> dict[str, Any] | None:
    """``first``, then random draws from ``space``, each once and for a ``name`` always the same;
    None if there are no more."""
    drawn = [first]
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    for _ in range(_DRAWS):
        if len(drawn) > trial:
            return drawn[trial]
        settings = {key: values[int(rng.integers(len(values)))] for key, values in space.items()}
        if settings not in drawn:
            drawn.append(settings)
    return None


def _plain(method: str) -> str:
    """The method, whatever its model."""
    return method.removesuffix(_WITH_PRICE).removesuffix(_AVERAGED).removesuffix(_TUNED)


@dataclass(frozen=True, eq=False)
class _Base:
    """An uncompressed model over the log's ids, the same whose tables are asked by keys once they
    are compressed, and the seconds that its training took."""

    by_ids: Trial
    by_keys: Trial
    seconds: float


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
    _bases: dict[Training, _Base] = field(default_factory=dict, init=False)

    def measured(self, run: RivalRun) -> dict[str, Any]:
        """Sizes in bytes, quality on test and validation rows, seconds of training, epochs, and the
        nanoseconds of a lookup.

        Raises:
            BudgetError: the method has no tables so small.
            DataError: training diverged.
            FieldError: a number is too large to be stored.
        """
        if run.method in SMALL:
            return self._trained_small(run)
        settings = run.settings
        training = Training(
            bit_price=settings.get("price"), mean_half_life=settings.get("half_life")
        )
        if "rate" in settings:
            training = self._at(settings["rate"], settings["decay"])
        base, name = self._base(training), _plain(run.method)
        return self._uncompressed(base) if name == _UNCOMPRESSED else _compressed(base, name, run)

    def _trained_small(self, run: RivalRun) -> dict[str, Any]:
        own = dict(run.settings)
        training = self._at(own.pop("rate"), own.pop("decay"))
        method = SMALL[run.method](**own)
        return self._small.measured(method, run.ratio or 1.0, training, progress=self.progress)

    def _at(self, rate: float, decay: float) -> Training:
        """With multiples of the task's own learning rate and decay of the tables."""
        own_rate, own_decay = Training().of_tables(self.log.name)
        return Training(table_learning_rate=rate * own_rate, table_decay=decay * own_decay)

    def _uncompressed(self, base: _Base) -> dict[str, Any]:
        features = sum(self.log.vocab_sizes.values())
        nbytes = 4 * self.dim * features
        return {
            "nbytes": nbytes,
            "bytes_all_in": nbytes + KEY_BYTES * features,
            "ratio": 1.0,
            "ratio_all_in": 1.0,
            **{name: base.by_ids.facts[f"base_{name}"] for name in _SCORES},
            "train_seconds": base.seconds,
            "lookup_ns": module_ns(base.by_ids.model, base.by_ids.log),
        }

    def _base(self, training: Training) -> _Base:
        """The model trained like that. Beside the plain one only the last is kept in memory."""
        if training not in self._bases:
            for other in [one for one in self._bases if one != Training()]:
                del self._bases[other]
            self._bases[training] = self._trained(training)
        return self._bases[training]

    def _trained(self, settings: Training) -> _Base:
        log = replace(self.log, keys=None)
        net, seconds = trained_or_kept(
            log, self.model, self.dim, self.seed, self.keep, settings, progress=self.progress
        )
        trial = Trial.of(log, net, self.model, self.seed, self.progress, settings)
        return _Base(trial, replace(trial, log=self.log), seconds)

    @cached_property
    def _small(self) -> SmallTraining:
        return SmallTraining.of(self.log, self.model, self.dim, self.seed)


def _compressed(base: _Base, name: str, run: RivalRun) -> dict[str, Any]:
    """The tables of a model compressed by the method ``name`` to the size of a run."""
    by_keys = name in (_KEYED, _NETWORK)
    trial, seconds = (base.by_keys if by_keys else base.by_ids), base.seconds
    own = "axes" if by_keys else name
    budget = None if run.ratio is None else Ratio(run.ratio)
    job = Job(own, method_of(own), budget)
    result, compress_seconds = trial.compress(job)
    with trial.holding(result):
        if name == _NETWORK:
            row = trial.with_network_trained(result)
            seconds += row["network_seconds"]
        else:
            row = trial.measured(result)
    return {
        **{key: row[key] for key in (*_SIZES, *_SCORES)},
        "train_seconds": seconds,
        "compress_seconds": compress_seconds,
        "lookup_ns": compressed_ns(result, trial.log),
    }
