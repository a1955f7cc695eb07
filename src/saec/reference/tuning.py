"""Fine-tuning of compressed click models."""

from __future__ import annotations

import numpy as np

from saec.format.compressed import Compressed
from saec.reference.batches import Batches
from saec.reference.log import Log
from saec.reference.models import ClickModel
from saec.torch import (
    finetune,
    finetune_on_unseen_rows,
    predictions,
    sync_codebooks_,
)

__all__ = ["Tuning"]


# Chosen by validation log loss on ml-1m and globo (docs/results.md).
TUNING_LEARNING_RATE = 3e-4
TUNING_EPOCHS = 2
TUNING_EVALUATIONS = 4
UNSEEN_LEARNING_RATE = 1e-4
UNSEEN_EPOCHS = 8


class Tuning:
    """Fine-tuning of compressed models: the uncompressed one's predictions are the targets.

    Labels of the training rows are not: tables have memorised those of rare features, see
    :func:`saec.torch.finetune_on_unseen_rows`.
    """

    def __init__(self, model: ClickModel, log: Log, seed: int, progress: bool) -> None:
        """Ask the teacher: ``model`` holds its own tables now."""
        self._model, self._progress = model, progress
        order = np.random.default_rng(seed).permutation(log.rows("train"))
        self._batches = Batches(log, order)
        self._logits = predictions(model, self._batches, progress=progress)
        rows = log.rows("validation")
        # Neighbours, a click and its sampled negative, stay together.
        half = len(rows) // 4 * 2
        self._validation = Batches(log, rows)
        self._unseen, self._judged = (
            Batches(log, rows[:half]),
            Batches(log, rows[half:]),
        )

    def run(self, result: Compressed, kind: str) -> Compressed:
        """Train the tables of the model, which holds ``result``; return the tuned result."""
        finetune(
            self._model,
            self._batches,
            validation=self._judged if kind == "unseen" else self._validation,
            teacher=self._logits,
            learning_rate=TUNING_LEARNING_RATE,
            epochs=TUNING_EPOCHS,
            evaluations=TUNING_EVALUATIONS,
            progress=self._progress,
        )
        if kind == "unseen":
            finetune_on_unseen_rows(
                self._model,
                self._unseen,
                validation=self._judged,
                learning_rate=UNSEEN_LEARNING_RATE,
                epochs=UNSEEN_EPOCHS,
                evaluations=TUNING_EVALUATIONS,
                progress=self._progress,
            )
        return sync_codebooks_(self._model, result)
