"""Training of a click model over small tables, and what it is worth as stored."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from saec.reference.evaluate import evaluate
from saec.reference.log import Log
from saec.reference.lookup_time import module_ns
from saec.reference.models import ClickModel, build
from saec.reference.sizes import with_vocabularies
from saec.reference.small.features import FieldFeatures, asked_by_keys, table_bytes
from saec.reference.small.tables import SmallMethod, SmallTables
from saec.reference.train import TrainResult, train
from saec.reference.training_settings import Training
from saec.tables.field_keys import KEY_BYTES

__all__ = ["SmallTraining"]


@dataclass(frozen=True, eq=False)
class SmallTraining:
    """A log and a model, to train with the tables of one method after the other.

    Args:
        log: with an id for each key, as from :func:`~saec.reference.small.features.asked_by_keys`.
        fields: of the log.
        model: a key of :data:`saec.reference.models.MODELS`.
        dim: of the vectors that the model gets.
        seed: of the tables, the model, and the order of the rows.
    """

    log: Log
    fields: Sequence[FieldFeatures]
    model: str
    dim: int
    seed: int

    @classmethod
    def of(cls, log: Log, model: str, dim: int, seed: int) -> SmallTraining:
        """Of a log as it is loaded with keys.

        Raises:
            DataError: it was loaded without.
        """
        return cls(*asked_by_keys(log), model, dim, seed)

    def measured(
        self, method: SmallMethod, ratio: float, training: Training, *, progress: bool = False
    ) -> dict[str, Any]:
        """Train, store, and measure what is stored.

        Args:
            method: with its settings.
            ratio: bytes of the uncompressed tables by those of the small ones, at least.
            training: of the model.
            progress: whether to show bars.

        Returns:
            Sizes in bytes as of :func:`saec.reference.sizes.sizes`, ``auc`` and ``logloss`` of test
            rows, with ``validation_`` before them those of validation rows, ``epochs`` and
            ``train_seconds`` of all training that the method needs, and ``lookup_ns`` of
            :func:`saec.reference.lookup_time.module_ns`.

        Raises:
            BudgetError: the method has no tables so small.
            DataError: training diverged.
            FieldError: a number is too large to be stored.
        """
        start = time.perf_counter()
        nbytes = int(table_bytes(self.fields, self.dim) / ratio)
        net, results = self.trained(method, nbytes, training, progress=progress)
        seconds = time.perf_counter() - start
        tables = net.embeddings
        assert isinstance(tables, SmallTables)
        tables.restore(tables.stored())
        scores = {
            f"{prefix}{measure}": getattr(score, measure)
            for prefix, part in (("", "test"), ("validation_", "validation"))
            for score in [evaluate(net, self.log, part, progress=progress)]  # type: ignore[arg-type]
            for measure in ("auc", "logloss")
        }
        return {
            **self.sizes(tables),
            **scores,
            "epochs": sum(result.epochs for result in results),
            "train_seconds": seconds,
            "lookup_ns": module_ns(tables, self.log),
        }

    def trained(
        self, method: SmallMethod, nbytes: int, training: Training, *, progress: bool = False
    ) -> tuple[ClickModel, list[TrainResult]]:
        """A trained model, and the results of its trainings; the same seed gives the same model."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            tables: SmallTables | None = method.build(self.fields, self.dim, nbytes)
        net = build(self.model, self.log.vocab_sizes, self.dim, self.seed)
        results = []
        while tables is not None:
            net.embeddings = tables  # type: ignore[assignment]  # called in the same way
            results.append(train(net, self.log, training, seed=self.seed, progress=progress))
            tables = tables.settled()
        return net, results

    def sizes(self, tables: SmallTables) -> dict[str, Any]:
        """Bytes and ratios, of the tables alone and with all that takes keys to rows."""
        original, nbytes = table_bytes(self.fields, self.dim), tables.nbytes
        every = with_vocabularies(nbytes, tables.vocabularies)
        keys = KEY_BYTES * sum(field.count for field in self.fields)
        return {
            "nbytes": nbytes,
            "bytes_all_in": every,
            "ratio": original / nbytes,
            "ratio_all_in": (original + keys) / every,
        }
