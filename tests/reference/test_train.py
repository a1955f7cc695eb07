"""Training: one step by hand, then learning, stopping, determinism and refusals."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from saec.errors import DataError, OptionError
from saec.reference.evaluate import evaluate
from saec.reference.log import Log
from saec.reference.models import MODELS, build
from saec.reference.train import _evaluation_points, shuffled_pairs, train
from saec.reference.training_settings import Training
from saec.reference.training_steps import INITIAL_ACCUMULATOR


def make_log(ids: NDArray[np.int32], labels: NDArray[np.float32], split: NDArray[np.int8]) -> Log:
    """Fields a, b|c, … over the given columns; frequencies are the training rows' counts."""
    names = ("a", "b|c", "d//2")[: ids.shape[1]]
    counts = {
        name: np.bincount(column[split == 0], minlength=column.max() + 1)
        for name, column in zip(names, ids.T, strict=True)
    }
    return Log(
        name="made",
        field_names=names,
        ids=ids,
        labels=labels,
        split=split,
        frequencies=counts,
        vocabularies=None,
        truth=None,
    )


def planted_log(rows: int = 6000, noise_features: int = 0) -> Log:
    """Labels depend on the effects of two fields; a third field has no effect."""
    rng = np.random.default_rng(0)
    ids = np.stack(
        [
            rng.integers(1, 9, rows),
            rng.integers(1, 13, rows),
            rng.integers(1, noise_features + 2, rows),
        ],
        axis=1,
    ).astype(np.int32)
    effect_a, effect_b = rng.normal(size=9), rng.normal(size=13)
    logits = effect_a[ids[:, 0]] + effect_b[ids[:, 1]]
    labels = (rng.random(rows) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    split = np.repeat(np.array([0, 1, 2], np.int8), [rows * 2 // 3, rows // 6, rows // 6])
    return make_log(ids, labels, split)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[key], two[key]) for key in one)


def test_the_first_step_by_the_textbook() -> None:
    log = make_log(
        np.array([[1, 2], [1, 1], [2, 2], [1, 1], [2, 2]], np.int32),
        np.array([1, 0, 1, 0, 1], np.float32),
        np.array([0, 0, 0, 1, 1], np.int8),
    )
    model = build("deepfm", log.vocab_sizes, dim=2, seed=4)
    before = state(model)
    loss = nn.functional.binary_cross_entropy_with_logits(
        model(torch.from_numpy(log.ids[:3])), torch.from_numpy(log.labels[:3])
    )
    names = [name for name, _ in model.named_parameters()]
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    train(
        model,
        log,
        Training(learning_rate=1e-3, table_learning_rate=0.25, table_decay=0.0, max_epochs=1),
        progress=False,
    )
    for name, gradient in zip(names, gradients, strict=True):
        g = gradient.to_dense()
        if name.startswith("embeddings."):  # lr g / sqrt(accumulator + mean of g^2 over the row)
            mean = g.square().mean(dim=1, keepdim=True)
            step = 0.25 * g / (INITIAL_ACCUMULATOR + mean).sqrt()
        else:  # Adam's first step: lr g / |g|
            step = 1e-3 * g / (g.abs() + 1e-8)
        torch.testing.assert_close(
            model.state_dict()[name], before[name] - step, rtol=1e-3, atol=1e-6
        )


@pytest.mark.exhaustive(keep=2)
@pytest.mark.parametrize("name", MODELS)
def test_every_model_learns_a_planted_effect(name: str) -> None:
    log = planted_log()
    model = build(name, log.vocab_sizes, dim=4)
    untrained = evaluate(model, log, "validation", progress=False)
    result = train(model, log, Training(batch_size=256, max_epochs=5), progress=False)
    assert untrained.logloss == pytest.approx(math.log(2), abs=0.02)
    assert result.best.score.logloss < 0.56
    assert evaluate(model, log, "test", progress=False).auc > 0.77


def test_the_best_state_is_kept_not_the_last() -> None:
    log = planted_log(3000, noise_features=1500)  # each means nothing and can be learned by heart
    model = build("deepfm", log.vocab_sizes, dim=8)
    result = train(model, log, Training(batch_size=128, patience=5), progress=False)
    losses = [evaluation.score.logloss for evaluation in result.history]
    best = int(np.argmin(losses))
    assert 0 < best == len(losses) - 6  # improved, then five evaluations in vain
    assert losses[-1] > losses[best] + 0.01
    assert result.best == result.history[best]
    assert evaluate(model, log, "validation", progress=False) == result.best.score


@pytest.mark.exhaustive
def test_the_kept_state_is_that_of_training_stopped_in_time() -> None:
    log = planted_log(3000)
    validation = log.split == 1
    # Labels of the validation rows turned over: what is learned makes it worse, and soon.
    log = dataclasses.replace(log, labels=np.where(validation, 1 - log.labels, log.labels))
    long, short = (build("dcnv2", log.vocab_sizes, dim=4) for _ in range(2))
    options = {"batch_size": 128, "evaluations_per_epoch": 1}
    result = train(long, log, Training(patience=2, **options), progress=False)
    stop = result.best.epoch
    assert stop < result.epochs == stop + 2
    train(short, log, Training(max_epochs=int(stop), **options), progress=False)
    assert equal(state(long), state(short))


def test_training_stops_at_max_epochs_and_counts() -> None:
    log = planted_log(600)
    model = build("wide_deep", log.vocab_sizes, dim=2).eval()
    result = train(model, log, Training(batch_size=64, max_epochs=2, patience=100), progress=False)
    assert result.examples == 2 * 400
    assert result.epochs == 2.0
    # Seven batches of 64 in 400 rows; evaluated after 2, 4, 6 and 7 of them.
    fractions = [evaluation.epoch for evaluation in result.history]
    assert fractions == pytest.approx([0.32, 0.64, 0.96, 1.0, 1.32, 1.64, 1.96, 2.0])
    assert result.examples_per_second == result.examples / result.seconds > 0
    assert not model.training  # left as it was found


@pytest.mark.parametrize(
    ("rows", "batch_size", "evaluations", "expected"),
    [
        (10, 4, 1, [10]),
        (10, 4, 2, [8, 10]),
        (10, 4, 4, [4, 8, 10]),
        (8, 4, 2, [4, 8]),
        (3, 100, 5, [3]),
    ],
)
def test_evaluation_points(
    rows: int, batch_size: int, evaluations: int, expected: list[int]
) -> None:
    assert _evaluation_points(rows, batch_size, evaluations) == expected


def test_rows_are_shuffled_two_by_two() -> None:
    rows = np.arange(100, 111)
    order = shuffled_pairs(rows, np.random.default_rng(0))
    pairs = [tuple(pair) for pair in order[:10].reshape(5, 2)]
    assert sorted(pairs) == [(100, 101), (102, 103), (104, 105), (106, 107), (108, 109)]
    assert pairs != sorted(pairs)
    assert order[10] == 110
    np.testing.assert_array_equal(rows, np.arange(100, 111))
    assert shuffled_pairs(rows[:1], np.random.default_rng(0)).tolist() == [100]


def test_the_labels_of_rare_users_are_not_learned_from_their_pairs() -> None:
    """Each user has one click and one negative, which no feature distinguishes."""
    users = 2000
    ids = np.stack([np.arange(2 * users) // 2 + 1, np.ones(2 * users)], axis=1).astype(np.int32)
    labels = np.tile(np.array([1, 0], np.float32), users)
    log = make_log(ids, labels, np.repeat(np.array([0, 1], np.int8), [3000, 1000]))
    model = build("deepfm", log.vocab_sizes, dim=4)
    before = model.embeddings["a"].weight[1:1501].norm(dim=1).mean().item()
    train(
        model,
        log,
        Training(batch_size=100, table_learning_rate=0.05, max_epochs=1, patience=100),
        progress=False,
    )
    after = model.embeddings["a"].weight[1:1501].norm(dim=1).mean().item()
    # Both rows of a user are in one batch, so that their gradients cancel.
    assert after == pytest.approx(before, rel=0.2)


def test_the_seed_decides_the_result() -> None:
    log = planted_log(1500)

    def trained(seed: int) -> dict[str, Tensor]:
        model = build("deepfm", log.vocab_sizes, dim=4, seed=9)
        train(model, log, Training(batch_size=128, max_epochs=1), seed=seed, progress=False)
        return state(model)

    one = trained(1)
    assert equal(one, trained(1))
    assert not equal(one, trained(2))


def test_features_without_training_rows_do_not_change() -> None:
    log = planted_log(600)
    ids = log.ids.copy()
    ids[log.split != 0, 0] = np.where(ids[log.split != 0, 0] == 1, 0, 9)
    log = make_log(ids, log.labels, log.split)
    model = build("deepfm", log.vocab_sizes, dim=4)
    before = model.embeddings["a"].weight.detach().clone()
    train(model, log, Training(batch_size=64, max_epochs=2, patience=100), progress=False)
    moved = (model.embeddings["a"].weight != before).any(1)
    assert moved.tolist() == [False, *[True] * 8, False]


def test_tables_of_another_kind_are_trained_too() -> None:
    class Shared(nn.Module):
        """Two features per row, with a dense gradient."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(5, 4))

        def forward(self, ids: Tensor) -> Tensor:
            return self.weight[ids.long() // 2]

    log = planted_log(1500)
    model = build("deepfm", log.vocab_sizes, dim=4)
    model.embeddings["a"] = Shared()
    train(model, log, Training(batch_size=128, max_epochs=1), progress=False)
    assert model.embeddings["a"].weight.abs().sum(1).gt(0).all()


def test_the_log_is_not_changed_and_may_be_read_only() -> None:
    log = planted_log(600)
    copies = log.ids.copy(), log.labels.copy(), log.split.copy()
    for array in (log.ids, log.labels, log.split):
        array.setflags(write=False)
    train(build("dlrm", log.vocab_sizes, dim=2), log, Training(max_epochs=1), progress=False)
    for array, copy in zip((log.ids, log.labels, log.split), copies, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("value", [0, -1, math.nan])
@pytest.mark.parametrize(
    "name",
    [
        "batch_size",
        "learning_rate",
        "table_learning_rate",
        "max_epochs",
        "evaluations_per_epoch",
        "patience",
    ],
)
def test_settings_must_be_positive(name: str, value: float) -> None:
    with pytest.raises(OptionError, match=f"{name} is {value}; it must be positive"):
        Training(**{name: value})


def test_a_model_of_other_fields_is_refused() -> None:
    log = planted_log(60)
    with pytest.raises(
        DataError, match=r"the model was built for a \(3\), the log 'made' has a \("
    ):
        train(build("deepfm", {"a": 3}), log)
    turned = dict(reversed(log.vocab_sizes.items()))
    with pytest.raises(DataError, match=r"the model was built for d//2"):
        train(build("deepfm", turned), log)


def test_a_log_without_training_rows_is_refused() -> None:
    log = planted_log(60)
    log = dataclasses.replace(log, split=np.where(log.split == 0, 2, log.split).astype(np.int8))
    with pytest.raises(DataError, match="the log 'made' has no training rows"):
        train(build("deepfm", log.vocab_sizes), log)


def test_validation_rows_that_cannot_be_scored_are_refused_before_training() -> None:
    log = planted_log(60)
    model = build("deepfm", log.vocab_sizes)
    before = state(model)
    none = dataclasses.replace(log, split=np.where(log.split == 1, 2, log.split).astype(np.int8))
    with pytest.raises(DataError, match="the validation rows of 'made': there are none"):
        train(model, none)
    ones = dataclasses.replace(log, labels=np.ones_like(log.labels))
    with pytest.raises(DataError, match="the validation rows of 'made': all 10 labels are 1"):
        train(model, ones)
    assert equal(before, state(model))


def test_divergence_is_an_error() -> None:
    log = planted_log(600)
    with pytest.raises(DataError, match=r"the prediction for row \d+ is NaN"):
        train(
            build("dcnv2", log.vocab_sizes),
            log,
            Training(batch_size=16, learning_rate=1e30, max_epochs=1),
            progress=False,
        )
