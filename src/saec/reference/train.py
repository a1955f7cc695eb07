"""Training of a click model: sparse updates of the tables, stopped by validation log loss."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from saec.errors import DataError
from saec.reference.best_state import BestState
from saec.reference.evaluate import Score, check_labels, evaluate
from saec.reference.log import Log
from saec.reference.models import ClickModel
from saec.reference.training_settings import Training
from saec.reference.training_steps import TrainingSteps
from saec.util.progress import bar

__all__ = ["Evaluation", "TrainResult", "shuffled_pairs", "train"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """Quality on the validation rows after ``epoch`` epochs (fractions count)."""

    epoch: float
    score: Score


@dataclass(frozen=True)
class TrainResult:
    """Result of a training run.

    Attributes:
        history: every evaluation on the validation rows, in order.
        examples: training rows seen, epochs counted, skipped ones included.
        seconds: wall time of the training steps, evaluations and copies of the state not counted.
        skipped: how many of ``examples`` were skipped, by ``skip_stale``.
    """

    history: tuple[Evaluation, ...]
    examples: int
    seconds: float
    skipped: int = 0

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
    training: Training | None = None,
    *,
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
        training: the settings; None for the defaults.
        seed: of the order of the rows, drawn anew for each epoch; neighbours stay together, two by
            two, because a click and its sampled negative should fall into one batch.
        progress: whether to show a bar.

    Raises:
        DataError: a model of other fields than the log's, no training rows, validation rows that
            cannot be scored, or a NaN prediction, which means that training diverged.
    """
    settings = training or Training()
    _check(model, log)
    rows, rng = log.rows("train"), np.random.default_rng(seed)
    stops = _evaluation_points(len(rows), settings.batch_size, settings.evaluations_per_epoch)
    history: list[Evaluation] = []
    best = BestState(model)
    mode = model.training
    model.train()
    with (
        bar("training", settings.epochs * len(rows), progress) as shown,
        closing(TrainingSteps(model, log, settings, seed, shown)) as steps,
    ):
        for epochs, part in _parts(rows, stops, settings.epochs, rng):
            steps.run(part)
            with steps.judged():
                now = Evaluation(epochs, evaluate(model, log, "validation", progress=False))
                best.offer(now.score.logloss)
            logger.info("after %.2f epochs: %s", now.epoch, now.score)
            history.append(now)
            if best.refused == settings.patience:
                break
    best.restore()
    model.train(mode)
    return TrainResult(tuple(history), steps.examples, steps.seconds, steps.skipped)


def _parts(
    rows: NDArray[np.intp], stops: list[int], max_epochs: int, rng: np.random.Generator
) -> Iterator[tuple[float, NDArray[np.intp]]]:
    """The shuffled rows between two evaluations, with the number of epochs done after them."""
    for epoch in range(max_epochs):
        order = shuffled_pairs(rows, rng)
        for start, stop in pairwise([0, *stops]):
            yield epoch + stop / len(rows), order[start:stop]


def shuffled_pairs(rows: NDArray[np.intp], rng: np.random.Generator) -> NDArray[np.intp]:
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


def _check(model: ClickModel, log: Log) -> None:
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
