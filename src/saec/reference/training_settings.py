"""How a click model is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

from saec.errors import OptionError, did_you_mean

__all__ = ["OPTIMISERS", "HotBatches", "Optimiser", "PricedTraining", "SkipStale", "Training"]

Optimiser = Literal["row-adagrad", "adam"]
OPTIMISERS = get_args(Optimiser)

# Learning rate and decay of the tables, chosen by validation rows: small dense vocabularies want
# short steps and more decay than heavy tails, whose rows are seen once or twice.
TABLE_SETTINGS = {"ml-1m": (0.02, 0.02), "ml-1m-x": (0.05, 1e-3)}
DEFAULT_TABLE_SETTINGS = (0.1, 1e-3)

# What most people would start from; rare rows hardly move by it, so that less is learned, and what
# is learned compresses better (docs/results.md).
ADAM_SETTINGS = (1e-3, 0.0)

MAX_EPOCHS, MAX_EPOCHS_PRICED = 10, 20


@dataclass(frozen=True)
class PricedTraining:
    """Settings of training with a price on bits, chosen by validation rows (docs/bit_price.md).

    Logs of mostly rare features need less noise, decay and averaging than dense ones: a row is
    looked up in few steps, and the model is trained for one epoch.

    Args:
        prices: to try, in that order, in nats per bit.
        noise, row_decay, half_life: see :class:`saec.torch.BitPrice`.
        table_learning_rate: for the tables, whose only decay is that of the price.
    """

    prices: tuple[float, ...]
    noise: float
    row_decay: float
    half_life: float
    table_learning_rate: float

    @classmethod
    def of(cls, task: str) -> PricedTraining:
        """A task's own settings; those of logs with mostly rare features if it has none."""
        return _PRICED.get(task, _PRICED_HEAVY_TAIL)

    @property
    def options(self) -> dict[str, float]:
        """The settings of :class:`saec.torch.BitPrice` beside the price, by name."""
        return {"noise": self.noise, "row_decay": self.row_decay, "half_life": self.half_life}


_PRICED_HEAVY_TAIL = PricedTraining(
    prices=(4e-9, 2e-9, 8e-9, 1e-9, 1.6e-8, 3.2e-8, 5e-10, 6.4e-8),
    noise=0.02,
    row_decay=0.005,
    half_life=0.05,
    table_learning_rate=0.1,
)
_PRICED = {
    "ml-1m-x": replace(_PRICED_HEAVY_TAIL, noise=0.005, table_learning_rate=0.05),
    "ml-1m": PricedTraining(
        prices=(1.6e-7, 3.2e-7, 6.4e-7, 1.28e-6, 5.12e-6, 8e-8, 2.56e-6, 4e-8),
        noise=0.06,
        row_decay=5.0,
        half_life=0.25,
        table_learning_rate=0.06,
    ),
}


@dataclass(frozen=True)
class HotBatches:
    """Inputs that touch only hot rows are in batches of their own.

    After Adnan et al., Accelerating Recommendation System Training by Leveraging Popular Choices
    (FAE), VLDB 2022, and Adnan et al., Heterogeneous Acceleration Pipeline for Recommendation
    System Training (Hotline), ISCA 2024.

    Args:
        share: of the rows of all tables that are hot, the most frequent ones.
        pairs: neighbours two by two, a click and its sampled negative, stay in one batch, which is
            a hot one if both touch only hot rows.

    Raises:
        OptionError: it is not a share.
    """

    share: float = 0.1
    pairs: bool = True

    def __post_init__(self) -> None:
        _check_shares(self, "share")


@dataclass(frozen=True)
class SkipStale:
    """Inputs whose hot rows no longer move are skipped.

    After Maboud et al., Accelerating Recommender Model Training by Dynamically Skipping Stale
    Embeddings (Slipstream), arXiv 2404.04270: snapshots of hot rows, a threshold of their movement
    from a sample of inputs, and inputs whose hot rows are all below it are left out.

    Args:
        share: see :class:`HotBatches`.
        every: steps between two snapshots; the first inputs are skipped after two of them.
        skipped: share of the sampled inputs that are below the threshold.
        sample: number of inputs that determine the threshold, drawn anew for each snapshot.
        spare_rare: train inputs that touch a row that is not hot, whatever their hot rows do.
        pairs: neighbours two by two, a click and its sampled negative, are skipped together or not
            at all, so fewer are skipped than the share of the sample.

    Raises:
        OptionError: a share is not one, or a number is not positive.
    """

    share: float = 0.1
    every: int = 50
    skipped: float = 0.5
    sample: int = 8192
    spare_rare: bool = False
    pairs: bool = True

    def __post_init__(self) -> None:
        _check_shares(self, "share", "skipped")
        for name in ("every", "sample"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} is {getattr(self, name)}; it must be positive")


def _check_shares(settings: HotBatches | SkipStale, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if not 0 < value < 1:
            raise OptionError(f"{name} is {value}; it must be between 0 and 1")


@dataclass(frozen=True)
class Training:
    """Settings of a training.

    Args:
        optimiser: of the tables: ``"row-adagrad"``, or ``"adam"`` (PyTorch's SparseAdam).
        bit_price: nats of the mean log loss that a bit of the tables is charged for: rows are then
            trained with noise, by rates and decays of their own, and the running mean of all
            parameters is evaluated and kept; see :class:`saec.torch.BitPrice`.
        mean_half_life: in epochs, of the weights of a running mean of all parameters, which is
            evaluated and kept; None for the parameters themselves. A price has its own.
        batch_size: examples per step.
        learning_rate: Adam's, for all but the tables.
        table_learning_rate: for the tables; None takes the task's or the optimiser's own.
        table_decay: weight of the squared length of the vectors looked up, summed over the fields;
            None takes the task's own.
        max_epochs: upper limit of passes over the training rows; None for 10, or 20 with
            ``bit_price``.
        evaluations_per_epoch: how often the validation rows are scored, evenly spread.
        patience: evaluations in a row without a lower log loss after which training stops.
        hot_batches, skip_stale: other schedules of the training rows than in random order.

    Raises:
        OptionError: an unknown optimiser, a setting that is not positive and finite, two
            schedules, or two running means.
    """

    optimiser: Optimiser = "row-adagrad"
    bit_price: float | None = None
    mean_half_life: float | None = None
    batch_size: int = 2048
    learning_rate: float = 3e-3
    table_learning_rate: float | None = None
    table_decay: float | None = None
    max_epochs: int | None = None
    evaluations_per_epoch: int = 4
    patience: int = 4
    hot_batches: HotBatches | None = None
    skip_stale: SkipStale | None = None

    def __post_init__(self) -> None:
        if self.optimiser not in OPTIMISERS:
            raise OptionError(
                f"no optimiser {self.optimiser!r}; there are {', '.join(OPTIMISERS)}"
                f"{did_you_mean(self.optimiser, OPTIMISERS)}"
            )
        for name in (
            *("bit_price", "mean_half_life", "batch_size", "learning_rate"),
            *("table_learning_rate", "max_epochs", "evaluations_per_epoch", "patience"),
        ):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise OptionError(f"{name} is {value}; it must be positive")
        for one, other in (("hot_batches", "skip_stale"), ("bit_price", "mean_half_life")):
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise OptionError(f"give {one} or {other}, not both")

    @property
    def epochs(self) -> int:
        """Upper limit of passes over the training rows."""
        if self.max_epochs is not None:
            return self.max_epochs
        return MAX_EPOCHS if self.bit_price is None else MAX_EPOCHS_PRICED

    def of_tables(self, task: str) -> tuple[float, float]:
        """Learning rate and decay of the tables for a task."""
        rate, decay = self._defaults(task)
        return (
            rate if self.table_learning_rate is None else self.table_learning_rate,
            decay if self.table_decay is None else self.table_decay,
        )

    def _defaults(self, task: str) -> tuple[float, float]:
        if self.optimiser == "adam":
            return ADAM_SETTINGS
        if self.bit_price is not None:
            return PricedTraining.of(task).table_learning_rate, 0.0
        return TABLE_SETTINGS.get(task, DEFAULT_TABLE_SETTINGS)
