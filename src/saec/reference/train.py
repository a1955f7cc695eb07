"""Training of a click model: sparse updates of the tables, stopped by validation log loss."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from saec.errors import DataError
from saec.reference.bit_price import BitPrice, Charge, RunningMean
from saec.reference.evaluate import Score, check_labels, evaluate
from saec.reference.log import Log
from saec.reference.models import ClickModel
from saec.reference.row_adagrad import RowAdagrad
from saec.util.progress import Bar, bar

__all__ = ["OPTIMISERS", "Evaluation", "Optimiser", "TrainResult", "train"]

logger = logging.getLogger(__name__)

# What Adagrad's sums of squared gradients start from. A rare feature's share in the mean over a
# batch is tiny: from 0 its first step is as long as anyone's, from 0.1 (PyTorch's choice for dense
# layers) it never moves. This start lies between.
INITIAL_ACCUMULATOR = 4e-8

# Learning rate and decay of the tables, chosen by validation rows: small dense vocabularies want
# short steps and more decay than heavy tails, whose rows are seen once or twice.
TABLE_SETTINGS = {"ml-1m": (0.02, 0.02)}
DEFAULT_TABLE_SETTINGS = (0.1, 1e-3)

# What most people would start from; rare rows hardly move by it, so that less is learned, and what
# is learned compresses better (docs/results.md).
ADAM_SETTINGS = (1e-3, 0.0)

# With a price on bits there is less to be learned by heart, and it takes longer.
MAX_EPOCHS, MAX_EPOCHS_PRICED = 10, 20

Optimiser = Literal["row-adagrad", "adam"]
OPTIMISERS = get_args(Optimiser)


@dataclass(frozen=True)
class Evaluation:
    """Quality on the validation rows after ``epoch`` epochs (fractions count)."""

    epoch: float
    score: Score


@dataclass(frozen=True)
class TrainResult:
    """What a training run did.

    Attributes:
        history: every evaluation on the validation rows, in order.
        examples: training rows seen, epochs counted.
        seconds: wall time of the training steps, evaluations and copies of the state not counted.
    """

    history: tuple[Evaluation, ...]
    examples: int
    seconds: float

    @property
    def best(self) -> Evaluation:
        """The evaluation with the lowest log loss, whose state the model now has."""
        return min(self.history, key=lambda evaluation: evaluation.score.logloss)

    @property
    def epochs(self) -> float:
        """Epochs trained until the end, the ones thrown away included."""
        return self.history[-1].epoch

    @property
    def examples_per_second(self) -> float:
        """Speed of the training steps."""
        return self.examples / self.seconds


def train(
    model: ClickModel,
    log: Log,
    *,
    optimiser: Optimiser = "row-adagrad",
    bit_price: float | None = None,
    batch_size: int = 2048,
    learning_rate: float = 3e-3,
    table_learning_rate: float | None = None,
    table_decay: float | None = None,
    max_epochs: int | None = None,
    evaluations_per_epoch: int = 4,
    patience: int = 4,
    seed: int = 0,
    progress: bool = True,
) -> TrainResult:
    """Train in place on the log's training rows; leave the state with the best validation loss.

    The tables are updated on sparse gradients, all else by Adam, on the mean binary cross-entropy.
    Click models overfit within a few epochs, often in the second, so the validation rows are scored
    several times per epoch.

    Args:
        model: of the same fields as the log.
        log: needs training rows, and validation rows of both classes.
        optimiser: of the tables: ``"row-adagrad"``, or ``"adam"`` (PyTorch's SparseAdam).
        bit_price: nats of the mean log loss that a bit of the tables is charged for: rows are then
            trained with noise, by rates and decays of their own, and the running mean of all
            parameters is evaluated and kept; see :mod:`saec.reference.bit_price`.
        batch_size: examples per step.
        learning_rate: Adam's, for all but the tables.
        table_learning_rate: for the tables; None takes the task's or the optimiser's own.
        table_decay: weight of the squared length of the vectors looked up, summed over the fields;
            None takes the task's own.
        max_epochs: upper limit of passes over the training rows; 10, with ``bit_price`` 20.
        evaluations_per_epoch: how often the validation rows are scored, evenly spread.
        patience: evaluations in a row without a lower log loss after which training stops.
        seed: of the order of the rows, drawn anew for each epoch; neighbours stay together, two by
            two, because a click and its sampled negative should fall into one batch.
        progress: whether to show a bar.

    Raises:
        DataError: a setting that is not positive, a model of other fields than the log's, no
            training rows, validation rows that cannot be scored, or a NaN prediction, which means
            that training diverged.
    """
    if optimiser not in OPTIMISERS:
        raise DataError(f"no optimiser {optimiser!r}; there are {', '.join(OPTIMISERS)}")
    price = None if bit_price is None else BitPrice(bit_price)
    rate, decay = _table_settings(log, optimiser, price)
    setup = _Setup(
        optimiser,
        price,
        batch_size,
        learning_rate,
        rate if table_learning_rate is None else table_learning_rate,
        decay if table_decay is None else table_decay,
    )
    if max_epochs is None:
        max_epochs = MAX_EPOCHS if price is None else MAX_EPOCHS_PRICED
    settings = {
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "table_learning_rate": setup.table_learning_rate,
        "max_epochs": max_epochs,
        "evaluations_per_epoch": evaluations_per_epoch,
        "patience": patience,
    }
    _check(model, log, settings)
    rows, rng = log.rows("train"), np.random.default_rng(seed)
    stops = _evaluation_points(len(rows), batch_size, evaluations_per_epoch)
    history: list[Evaluation] = []
    best = _BestState(model)
    mode = model.training
    model.train()
    with bar("training", max_epochs * len(rows), progress) as shown:
        steps = _Steps(model, log, setup, seed, shown)
        for epochs, part in _parts(rows, stops, max_epochs, rng):
            steps.run(part)
            with steps.judged():
                now = Evaluation(epochs, evaluate(model, log, "validation", progress=False))
                best.offer(now.score.logloss)
            logger.info("after %.2f epochs: %s", now.epoch, now.score)
            history.append(now)
            if best.refused == patience:
                break
    best.restore()
    model.train(mode)
    return TrainResult(tuple(history), steps.examples, steps.seconds)


@dataclass(frozen=True)
class _Setup:
    """How to train; see :func:`train`."""

    optimiser: Optimiser
    price: BitPrice | None
    batch_size: int
    learning_rate: float
    table_learning_rate: float
    table_decay: float


class _Steps:
    """The optimisers and what they have done so far."""

    def __init__(self, model: ClickModel, log: Log, setup: _Setup, seed: int, shown: Bar) -> None:
        self._model, self._log, self._shown = model, log, shown
        self._batch_size, self._table_decay = setup.batch_size, setup.table_decay
        self._charge: Charge | None = None
        self._mean: RunningMean | None = None
        if setup.price is not None:
            epoch = len(log.rows("train")) / setup.batch_size
            self._charge = Charge(setup.price, log, seed)
            self._mean = RunningMean(model, setup.price.half_life * epoch)
        tables = list(model.embeddings.parameters())
        known = {id(parameter) for parameter in tables}
        network = [parameter for parameter in model.parameters() if id(parameter) not in known]
        self._optimisers: list[torch.optim.Optimizer] = [
            torch.optim.SparseAdam(tables, lr=setup.table_learning_rate)
            if setup.optimiser == "adam"
            else RowAdagrad(tables, setup.table_learning_rate, INITIAL_ACCUMULATOR),
            torch.optim.Adam(network, lr=setup.learning_rate, fused=True),
        ]
        self.examples = 0
        self.seconds = 0.0

    def judged(self) -> AbstractContextManager[None]:
        """The model has what is evaluated and kept: the running mean, where there is one."""
        return nullcontext() if self._mean is None else self._mean.held()

    def run(self, rows: NDArray[np.intp]) -> None:
        """One step per batch of ``rows``."""
        start = time.perf_counter()
        # Adagrad builds sparse tensors; torch warns unless told whether to check them.
        with torch.sparse.check_sparse_tensor_invariants(enable=False):  # type: ignore[no-untyped-call]
            for first in range(0, len(rows), self._batch_size):
                batch = rows[first : first + self._batch_size]
                ids = torch.from_numpy(self._log.ids[batch])
                self._step(ids, torch.from_numpy(self._log.labels[batch]))
                if self._mean is not None:
                    self._mean.step()
                self._shown.advance(len(batch))
        self.examples += len(rows)
        self.seconds += time.perf_counter() - start

    def _step(self, ids: Tensor, labels: Tensor) -> None:
        vectors = self._model.embed(ids)
        seen = vectors if self._charge is None else self._charge.noisy(vectors)
        logits = self._model.interact(seen)
        loss = nn.functional.binary_cross_entropy_with_logits(logits, labels)
        # On the vectors looked up, not on the tables: each row is pulled as often as it is used.
        loss = loss + self._table_decay * vectors.square().sum() / len(vectors)
        if self._charge is not None:
            loss = loss + self._charge.cost(vectors, ids)
        loss.backward()  # type: ignore[no-untyped-call]
        for optimiser in self._optimisers:
            optimiser.step()
            optimiser.zero_grad()


class _BestState:
    """A copy of the model's state at its lowest loss; one copy, however often it is replaced."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._copy: dict[str, Tensor] = {}
        self._loss = math.inf
        self.refused = 0

    def offer(self, loss: float) -> None:
        """Keep the present state if its loss is the lowest; else count one more refusal."""
        if loss >= self._loss:
            self.refused += 1
            return
        self._loss, self.refused = loss, 0
        for name, value in self._model.state_dict().items():
            if name in self._copy:
                self._copy[name].copy_(value)
            else:
                self._copy[name] = value.clone()

    def restore(self) -> None:
        """Put the kept state back."""
        self._model.load_state_dict(self._copy)


def _table_settings(log: Log, optimiser: Optimiser, price: BitPrice | None) -> tuple[float, float]:
    """Learning rate and decay of the tables."""
    if optimiser == "adam":
        return ADAM_SETTINGS
    if price is not None:
        return price.table_rate, 0.0
    return TABLE_SETTINGS.get(log.name, DEFAULT_TABLE_SETTINGS)


def _parts(
    rows: NDArray[np.intp], stops: list[int], max_epochs: int, rng: np.random.Generator
) -> Iterator[tuple[float, NDArray[np.intp]]]:
    """The shuffled rows between two evaluations, with the number of epochs done after them."""
    for epoch in range(max_epochs):
        order = _shuffled(rows, rng)
        for start, stop in pairwise([0, *stops]):
            yield epoch + stop / len(rows), order[start:stop]


def _shuffled(rows: NDArray[np.intp], rng: np.random.Generator) -> NDArray[np.intp]:
    """The rows in random order, neighbours two by two; an odd last row comes last.

    A click and its sampled negative are neighbours in a log. In different batches, the first would
    leave its label in the vectors of a rare user, and the model would learn to predict the
    opposite for the second: good on training rows, bad on all others. In one batch they cancel.
    """
    pairs = rows[: len(rows) // 2 * 2].reshape(-1, 2)
    return np.concatenate([rng.permutation(pairs).ravel(), rows[pairs.size :]])


def _evaluation_points(rows: int, batch_size: int, evaluations: int) -> list[int]:
    """After how many rows of an epoch to evaluate: whole batches, the last one at the end."""
    batches = math.ceil(rows / batch_size)
    after = {math.ceil(batches * (k + 1) / evaluations) for k in range(evaluations)}
    return [min(count * batch_size, rows) for count in sorted(after)]


def _check(model: ClickModel, log: Log, settings: dict[str, float]) -> None:
    for name, value in settings.items():
        if not (value > 0 and math.isfinite(value)):
            raise DataError(f"{name} is {value}; it must be positive")
    if model.vocab_sizes != dict(log.vocab_sizes) or model.field_names != tuple(log.field_names):
        raise DataError(
            f"the model was built for {_fields(model.vocab_sizes)}, "
            f"the log {log.name!r} has {_fields(log.vocab_sizes)}"
        )
    if len(log.rows("train")) == 0:
        raise DataError(f"the log {log.name!r} has no training rows")
    check_labels(log.labels[log.rows("validation")], f"the validation rows of {log.name!r}")


def _fields(vocab_sizes: dict[str, int]) -> str:
    return ", ".join(f"{name} ({size})" for name, size in vocab_sizes.items())
