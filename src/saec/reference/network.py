"""A network that is trained on after the tables of its model were compressed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from saec.reference.best_state import BestState
from saec.reference.evaluate import predict, score
from saec.reference.log import Log
from saec.reference.models import ClickModel
from saec.reference.train import shuffled_pairs
from saec.reference.training_steps import others
from saec.util.progress import track

__all__ = ["kept_network", "train_network"]

LEARNING_RATE = 1e-3
EPOCHS = 4
BATCHES = 100  # between two looks at the validation rows
BATCH = 2048
PATIENCE = 6


def train_network(
    model: ClickModel, log: Log, ids: NDArray[np.integer], *, seed: int, progress: bool = True
) -> None:
    """Train all of a model but its tables in place, on the labels of the training rows.

    Coarse tables give the network other vectors than those that it was trained with. The state with
    the lowest log loss on the validation rows is kept; the one before is one of them.

    Args:
        model: holds the tables.
        log: its labels and its split.
        ids: (rows, fields), what the tables are asked for in each row of ``log``.
        seed: of the order of the rows.
        progress: whether to show a bar.
    """
    network = others(model, model.embeddings.parameters())
    optimiser = torch.optim.Adam(network, lr=LEARNING_RATE, fused=True)
    rows, rng = log.rows("train"), np.random.default_rng(seed)
    order = np.concatenate([shuffled_pairs(rows, rng) for _ in range(EPOCHS)])
    best = BestState(model)
    for number in track(range(-(-len(order) // BATCH)), None, "training the network", progress):
        if number % BATCHES == 0 and not _offered(best, model, log, ids):
            break
        batch = order[number * BATCH : (number + 1) * BATCH]
        with torch.no_grad():
            vectors = model.embed(torch.from_numpy(ids[batch]))
        labels = torch.from_numpy(log.labels[batch])
        logits = model.interact(vectors)
        nn.functional.binary_cross_entropy_with_logits(logits, labels).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        optimiser.zero_grad()
    else:
        _offered(best, model, log, ids)
    best.restore()


@contextmanager
def kept_network(model: ClickModel) -> Iterator[None]:
    """Whatever is trained meanwhile, in the end the network is as it was."""
    network = others(model, model.embeddings.parameters())
    before = [parameter.detach().clone() for parameter in network]
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(network, before, strict=True):
                parameter.copy_(value)


def _offered(best: BestState, model: ClickModel, log: Log, ids: NDArray[np.integer]) -> bool:
    """Offer the present state; False if too many in a row were no better."""
    rows = log.rows("validation")
    best.offer(score(log.labels[rows], predict(model, ids[rows], progress=False)).logloss)
    return best.refused < PATIENCE
