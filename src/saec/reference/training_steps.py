"""Steps of training: sparse updates of the tables, Adam for the network."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from saec.reference.log import Log
from saec.reference.models import ClickModel
from saec.reference.row_adagrad import RowAdagrad
from saec.reference.schedules import schedule_of
from saec.reference.small.tables import SmallTables
from saec.reference.training_settings import PricedTraining, Training
from saec.torch import BitPrice
from saec.torch.training.running_mean import RunningMean
from saec.util.progress import Bar

__all__ = ["INITIAL_ACCUMULATOR", "TrainingSteps", "others"]


# What Adagrad's sums of squared gradients start from. A rare feature's share in the mean over a
# batch is tiny: from 0 its first step is as long as anyone's, from 0.1 (PyTorch's choice for dense
# layers) it never moves. This start lies between.
INITIAL_ACCUMULATOR = 4e-8


class TrainingSteps:
    """The optimisers and their state."""

    def __init__(
        self, model: ClickModel, log: Log, training: Training, seed: int, shown: Bar
    ) -> None:
        self._model, self._log, self._shown = model, log, shown
        self._schedule = schedule_of(training, log, model, seed)
        table_rate, self._table_decay = training.of_tables(log.name)
        self._price: BitPrice | None = None
        self._mean: RunningMean | None = None
        if training.mean_half_life is not None:
            self._mean = RunningMean(model, training.mean_half_life)
        if training.bit_price is not None:
            counts = {f"embeddings.{name}": log.frequencies[name] for name in log.field_names}
            own: Any = PricedTraining.of(log.name).options
            self._price = BitPrice(model, training.bit_price, counts, **own, seed=seed)
        tables = _row_parameters(model)
        self._optimisers: list[torch.optim.Optimizer] = [
            torch.optim.Adam(others(model, tables), lr=training.learning_rate, fused=True)
        ]
        if tables and training.optimiser == "adam":
            self._optimisers.append(torch.optim.SparseAdam(tables, lr=table_rate))
        elif tables:
            self._optimisers.append(RowAdagrad(tables, table_rate, INITIAL_ACCUMULATOR))
        self._epoch = len(log.rows("train"))
        self.examples = 0
        self.seconds = 0.0

    @property
    def skipped(self) -> int:
        """How many of ``examples`` were skipped."""
        return self._schedule.skipped

    def state_dict(self) -> dict[str, Any]:
        """What the optimisers hold, shared with them: 4 bytes for each row by row-wise Adagrad."""
        return {str(n): own.state_dict() for n, own in enumerate(self._optimisers)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the optimisers of other steps of the same model."""
        for n, own in enumerate(self._optimisers):
            own.load_state_dict(state[str(n)])

    def judged(self) -> AbstractContextManager[None]:
        """Put the parameters for evaluation into the model: the running mean, if there is one."""
        if self._price is not None:
            return self._price.averaged()
        return nullcontext() if self._mean is None else self._mean.held()

    def close(self) -> None:
        """Leave the model without hooks."""
        if self._price is not None:
            self._price.remove()

    def run(self, rows: NDArray[np.intp]) -> None:
        """One step per batch of ``rows``, some of which may be skipped."""
        start, skipped = time.perf_counter(), self.skipped
        # Adagrad builds sparse tensors; torch warns unless told whether to check them.
        with torch.sparse.check_sparse_tensor_invariants(enable=False):  # type: ignore[no-untyped-call]
            for batch in self._schedule.batches(rows):
                ids = torch.from_numpy(self._log.ids[batch])
                self._step(ids, torch.from_numpy(self._log.labels[batch]))
                self._shown.advance(len(batch))
        self._shown.advance(self.skipped - skipped)
        self.examples += len(rows)
        self.seconds += time.perf_counter() - start

    def _step(self, ids: Tensor, labels: Tensor) -> None:
        self._loss(ids, labels).backward()  # type: ignore[no-untyped-call]
        for optimiser in self._optimisers:
            optimiser.step()
            optimiser.zero_grad()
        if self._price is not None:
            self._price.step()
        if self._mean is not None:
            self._mean.step(len(labels) / self._epoch)
        tables: nn.Module = self._model.embeddings
        if isinstance(tables, SmallTables):
            tables.stepped(lambda: self._loss(ids, labels), len(labels))

    def _loss(self, ids: Tensor, labels: Tensor) -> Tensor:
        vectors = self._model.embed(ids)
        logits = self._model.interact(vectors)
        loss = nn.functional.binary_cross_entropy_with_logits(logits, labels)
        # On the vectors looked up, not on the tables: each row is pulled as often as it is used.
        loss = loss + self._table_decay * vectors.square().sum() / len(vectors)
        if self._price is not None:
            loss = loss + self._price.cost()
        penalty = _penalty(self._model)
        if penalty is not None:
            loss = loss + penalty
        return loss


def others(model: nn.Module, parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """The parameters of a model but these: its network, if these are its tables."""
    known = {id(parameter) for parameter in parameters}
    return [parameter for parameter in model.parameters() if id(parameter) not in known]


def _row_parameters(model: ClickModel) -> list[nn.Parameter]:
    """What is trained as rows; small tables also have parts that are trained as a network."""
    tables: nn.Module = model.embeddings
    if isinstance(tables, SmallTables):
        return tables.row_parameters()
    return list(tables.parameters())


def _penalty(model: ClickModel) -> Tensor | None:
    tables: nn.Module = model.embeddings
    return tables.penalty() if isinstance(tables, SmallTables) else None
