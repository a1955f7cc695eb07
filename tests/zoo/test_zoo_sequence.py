"""A sequential model whose item table is both its input and its output."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from zoo_sequence import (
    LENGTH,
    SelfAttentive,
    Sequences,
    evaluate,
    measured,
    next_item_loss,
    restores,
    train,
)

import saec
from saec.reference.log import Log
from saec.torch import CompressedEmbedding, CompressedLinear, compress_


def made(log: Log) -> tuple[SelfAttentive, Sequences]:
    torch.manual_seed(0)
    data = Sequences.of(log)
    return SelfAttentive(data.vocab_size, 16), data


def test_sequences_end_with_a_users_last_movies(log: Log) -> None:
    data = Sequences.of(log)
    users, movies = log.ids[:, 0], log.ids[:, 1]
    row = int(np.unique(users).tolist().index(users[-1]))
    own = movies[users == users[-1]][-LENGTH - 2 :]
    assert data.items[row].tolist() == [0] * (LENGTH + 2 - len(own)) + own.tolist()
    seen, wanted = data.batches("test")[0]
    assert (wanted[:, :-1] == 0).all()
    assert torch.equal(wanted[:, -1], data.items[: len(seen), -1])
    assert torch.equal(seen[:, 1:], data.items[: len(seen), 3:-1])
    seen, wanted = data.batches("train")[0]
    assert torch.equal(seen[:, 1:], wanted[:, :-1])


@pytest.mark.exhaustive
def test_one_table_serves_the_lookup_and_the_scores(log: Log) -> None:
    model, data = made(log)
    train(model, data, seed=0, epochs=2)
    original, test = copy.deepcopy(model), data.batches("test")
    before = evaluate(model, test)
    result = compress_(
        model,
        data.batches("train"),
        next_item_loss,
        saec.Ratio(5),
        frequencies={"item": data.frequencies()},
        progress=False,
    )
    assert result.compression_ratio >= 5
    assert isinstance(model.item, CompressedEmbedding)
    assert isinstance(model.scores, CompressedLinear)
    assert model.item.table is model.scores.table
    assert torch.equal(model.item.weight[0], original.item.weight[0])  # padding, exact
    assert abs(evaluate(model, test)["loss"] - before["loss"]) < 0.1
    assert restores(model, original, result, test[0][0])


def test_the_metric_knows_the_scores_as_well_as_the_lookups(log: Log) -> None:
    model, data = made(log)
    batches = data.batches("train")
    tied = saec.torch.loss_metrics(model, batches, next_item_loss, progress=False)["item"]
    untied = copy.deepcopy(model)
    untied.scores.weight = torch.nn.Parameter(model.scores.weight.detach().clone())
    alone = saec.torch.loss_metrics(
        untied, batches, next_item_loss, names=["item"], progress=False
    )["item"]
    assert np.linalg.eigvalsh(tied - alone).min() > 0


@pytest.mark.exhaustive
def test_the_benchmark_measures_it(log: Log) -> None:
    (row,) = measured(log, [5.0], 16, 0, 1)
    assert row["ratio"] >= 5
    assert row["restores"]
    assert 0 < row["auc"] < 1
