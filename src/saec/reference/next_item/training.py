"""Training of a next-item model, alone or with an uncompressed model as its teacher.

Source of the distillation: Xia et al. 2022 and 2023, see
:mod:`~saec.reference.next_item.item_tables`: soft targets, and a contrast of the two models'
states of the same user with those of other users.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.optim.lr_scheduler import LinearLR

from saec.reference.best_state import BestState
from saec.reference.next_item.item_tables import ItemTable
from saec.reference.next_item.self_attentive import Ranking, SelfAttention, rank_all
from saec.reference.next_item.sequences import ItemSequences
from saec.torch.table.learned import LearnedTable

__all__ = ["NextItemTraining", "TrainedRanker", "train_next_item"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class NextItemTraining:
    """Settings of a training.

    Args:
        learning_rate: of Adam, for all parameters.
        last_rate: share of it that is left after the last step; it falls evenly.
        batch: users in a step; each has one sequence.
        places: in a step, at most so many places of the sequences are drawn for the loss.
        epochs: most passes over the users.
        patience: passes in a row without a better NDCG of validation items after which to stop.
        soft: weight of the soft targets, with a teacher.
        contrast: weight of the contrast, with a teacher.
        temperature: of the contrast's similarities.
    """

    learning_rate: float = 3e-3
    last_rate: float = 1.0
    batch: int = 64
    places: int = 512
    epochs: int = 20
    patience: int = 3
    soft: float = 1.0
    contrast: float = 0.1
    temperature: float = 0.2


@dataclass(frozen=True)
class TrainedRanker:
    """Result of a training.

    Attributes:
        best: the ranking of validation items in the state that the model is left with.
        epochs: passes done, those after the best one included.
    """

    best: Ranking
    epochs: int


def train_next_item(
    model: SelfAttention,
    data: ItemSequences,
    training: NextItemTraining,
    *,
    teacher: SelfAttention | None = None,
    seed: int = 0,
) -> TrainedRanker:
    """Train in place; leave the state with the best NDCG of validation items, rounded as stored.

    The state before the first step is one of those that are compared.

    Args:
        model: with any item table.
        data: the sequences.
        training: the settings.
        teacher: the uncompressed model, whose rankings the model also learns; it stays as it is.
        seed: of the users' order and places, and of dropout.
    """
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=training.learning_rate)
    steps = training.epochs * data.batches(training.batch)
    rate = LinearLR(optimiser, 1.0, training.last_rate, total_iters=steps)
    history, best = [_ranked(model, data, training.batch)], BestState(model)
    best.offer(-history[0].ndcg)
    while len(history) <= training.epochs and best.refused < training.patience:
        model.train()
        for seen, wanted in data.training(training.batch, rng):
            optimiser.zero_grad()
            loss = _loss(model, seen, wanted, training, teacher)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            rate.step()
        history.append(_ranked(model, data, training.batch))
        best.offer(-history[-1].ndcg)
        logger.info("after %d epochs: %s", len(history) - 1, history[-1])
    best.restore()
    model.eval()
    return TrainedRanker(max(history, key=lambda found: found.ndcg), len(history) - 1)


def _loss(
    model: SelfAttention,
    seen: Tensor,
    wanted: Tensor,
    training: NextItemTraining,
    teacher: SelfAttention | None,
) -> Tensor:
    """The log loss of the items that came next, and with a teacher what it adds."""
    places = (wanted > 0).flatten().nonzero()[:, 0]
    places = places[torch.randperm(len(places))[: training.places]]
    hidden = model.hidden(seen)
    scores = model.scores(hidden.flatten(0, 1)[places])
    loss = functional.cross_entropy(scores, wanted.flatten()[places])
    if teacher is None:
        return loss
    with torch.no_grad():
        known = teacher.hidden(seen)
        taught = teacher.scores(known.flatten(0, 1)[places]).log_softmax(1)
    soft = functional.kl_div(scores.log_softmax(1), taught, reduction="batchmean", log_target=True)
    contrast = contrasted(hidden[:, -1], known[:, -1], training.temperature)
    return loss + training.soft * soft + training.contrast * contrast


def contrasted(own: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """InfoNCE of states (B, dim): each user's own state with that of the teacher, against the
    teacher's states of all users; similarities are cosines by ``temperature``."""
    similar = functional.normalize(own, dim=1) @ functional.normalize(taught, dim=1).T
    return functional.cross_entropy(similar / temperature, torch.arange(len(own)))


def _ranked(model: SelfAttention, data: ItemSequences, batch: int) -> Ranking:
    """Of validation items, by the model as it would be stored."""
    for part in model.modules():
        if isinstance(part, ItemTable | LearnedTable):
            part.round_()
    return rank_all(model, data.held_out("validation", batch))
