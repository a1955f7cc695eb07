"""Gradients on labelled rows that the tables have not seen, by hand and against dense sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from click_model import ClickModel
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

import saec
import saec.torch
from saec import DataError
from saec.tables.unseen_gradients import UnseenGradients
from saec.torch import loss_metrics
from saec.torch.measure import half_sums as module
from saec.torch.measure.half_sums import half_sums


class Linear(nn.Module):
    """The logit is the dot product of a looked-up row and (3, 4)."""

    def __init__(self, table: nn.Module) -> None:
        super().__init__()
        self.user = table

    def forward(self, *inputs: Tensor) -> Tensor:
        logits: Tensor = self.user(*inputs) @ torch.tensor([3.0, 4.0])
        return logits


def rows(*values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


THREE = rows([0.0, 0.0], [np.log(4) / 3, 0.0], [0.0, 0.0], [0.0, 0.0])  # p = 1/2, 0.8, 1/2, 1/2


def on_unseen(
    model: nn.Module, batches: Any, loss_fn: Any = None, **options: Any
) -> dict[str, UnseenGradients]:
    found = loss_metrics(
        model, batches, loss_fn, unseen=batches, examples=1, progress=False, **options
    )
    return dict(found.unseen)


def dense(gradients: UnseenGradients, count: int) -> NDArray[np.float64]:
    """Both halves together, (count, dim)."""
    result = np.zeros((count, gradients.halves[0].sums.shape[1]))
    for half in gradients.halves:
        assert (half.ids.dtype, half.sums.dtype) == (np.int64, np.float32)
        assert (np.diff(half.ids) > 0).all()
        result[half.ids] += half.sums
    return result


def test_the_log_loss_by_hand() -> None:
    batch = (torch.tensor([0, 1, 1, 2]), torch.tensor([0.0, 1.0, 0.0, 1.0]))
    found = on_unseen(Linear(nn.Embedding(4, 2, _weight=THREE)), [batch, batch])["user"]
    assert found.examples == 8
    # Sums of p - y, of two equal batches: 0.5; -0.2 + 0.8; -0.5; id 3 is not looked up.
    expected = np.outer([2 * 0.5, 2 * 0.6, 2 * -0.5, 0], [3, 4])
    np.testing.assert_allclose(dense(found, 4), expected, rtol=1e-6)
    assert all(3 not in half.ids for half in found.halves)


@pytest.mark.parametrize("loss_fn", [functional.mse_loss, lambda z, y: ((z - y) ** 2).mean()])
def test_another_loss_by_hand(loss_fn: Callable[..., Tensor]) -> None:
    model = Linear(nn.Embedding(2, 2, _weight=rows([1.0, 0.0], [0.0, 1.0])))
    batch = (torch.tensor([0, 1, 1]), torch.tensor([1.0, 0.0, 1.0]))
    found = on_unseen(model, [batch], loss_fn)["user"]
    # Of each example 2 (z - y) (3, 4) with z = 3 and 4.
    np.testing.assert_allclose(dense(found, 2), np.outer([2 * 2, 2 * 4 + 2 * 3], [3, 4]))


def test_a_bag_shares_its_gradient_and_padding_counts_for_nothing() -> None:
    table = nn.EmbeddingBag(4, 2, _weight=torch.zeros(4, 2), mode="mean", padding_idx=3)
    batch = (torch.tensor([[0, 1], [1, 3]]), torch.tensor([0.0, 1.0]))
    found = on_unseen(Linear(table), [batch])["user"]
    # A half of the first bag's 0.5 for ids 0 and 1; all of the second one's -0.5 for id 1.
    np.testing.assert_allclose(dense(found, 4), np.outer([0.25, 0.25 - 0.5, 0, 0], [3, 4]))


def test_fields_of_a_joint_table() -> None:
    model = Linear(nn.Embedding(4, 2, _weight=torch.zeros(4, 2)))
    batch = (torch.tensor([0, 3, 3]), torch.zeros(3))
    found = on_unseen(model, [batch], ranges={"user": {"a": (0, 1), "b": (1, 4)}})
    np.testing.assert_allclose(dense(found["a"], 1), [[1.5, 2]])
    np.testing.assert_allclose(dense(found["b"], 3), np.outer([0, 0, 1], [3, 4]))


def test_rows_that_a_model_computes_with() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.item = nn.Embedding(3, 2, _weight=rows([1.0, 0.0], [0.0, 1.0], [1.0, 1.0]))

        def forward(self, ids: Tensor) -> Tensor:
            scores: Tensor = self.item(ids) @ self.item.weight.T
            return scores

    model = Tied()
    ids, labels = torch.tensor([0, 2, 2]), torch.tensor([1, 2, 0])
    found = on_unseen(model, [(ids, labels)], functional.cross_entropy)["item"]
    (3 * functional.cross_entropy(model(ids), labels)).backward()
    assert model.item.weight.grad is not None
    np.testing.assert_allclose(dense(found, 3), model.item.weight.grad.numpy(), rtol=1e-5)


def test_many_batches_add_up_and_halves_are_drawn() -> None:
    # Zero rows: each lookup adds (p - y) (3, 4) = (1.5, 2). Lookups are merged several times.
    model = Linear(nn.Embedding(50_000, 2, _weight=torch.zeros(50_000, 2)))
    ids = torch.randint(0, 50_000, (20, 4_000), generator=torch.Generator().manual_seed(3))
    found = on_unseen(model, [(own, torch.zeros(4_000)) for own in ids])["user"]
    counts = np.bincount(ids.ravel().numpy(), minlength=50_000)
    np.testing.assert_allclose(dense(found, 50_000), np.outer(counts, [1.5, 2]), rtol=1e-6)
    halves = [half.sums[:, 0].sum() / 1.5 for half in found.halves]
    assert sum(halves) == pytest.approx(80_000)
    assert halves[0] == pytest.approx(40_000, abs=600)
    assert any((half.sums[:, 0] > 1.5).any() for half in found.halves)


def test_sequences_of_ids() -> None:
    # All ids of an example are in its half: (p - y) (3, 4) / 2 each, of the mean of two rows.
    class Mean(Linear):
        def forward(self, *inputs: Tensor) -> Tensor:
            logits: Tensor = self.user(*inputs).mean(dim=1) @ torch.tensor([3.0, 4.0])
            return logits

    model = Mean(nn.Embedding(40, 2, _weight=torch.zeros(40, 2)))
    batch = (torch.arange(40).reshape(20, 2), torch.zeros(20))
    found = on_unseen(model, [batch])["user"]
    np.testing.assert_allclose(dense(found, 40), np.tile([0.75, 1.0], (40, 1)))
    for half in found.halves:
        assert 2 <= len(half.ids) <= 38
        assert (half.ids[::2] % 2 == 0).all()
        assert (half.ids[1::2] == half.ids[::2] + 1).all()


@pytest.mark.parametrize("features", [5, 20_000])  # all kept from the beginning, and as they come
def test_sums_by_feature_and_half(features: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LEAST_WAITING", 2 if features > 5 else 10)
    sums = half_sums(features, 1)
    sums.add(torch.tensor([3, 1, 3]), torch.tensor([0, 0, 0]), rows([1.0], [2.0], [4.0]))
    sums.add(torch.tensor([0, 3, 3]), torch.tensor([0, 1, 0]), rows([8.0], [16.0], [32.0]))
    found = [(half.ids.tolist(), half.sums.ravel().tolist()) for half in sums.result()]
    assert found == [([0, 1, 3], [8, 2, 37]), ([3], [16])]


@pytest.mark.parametrize("moved", [1 << 14, 3_000])  # rows at once, in up to five blocks
def test_many_sums_in_any_order(moved: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOVED", moved)
    rng = np.random.default_rng(4)
    sums, all_ids, all_vectors = half_sums(30_000, 3), [], []
    for size in (100, 17_000, 3, 0, 9_000, 20_000):  # merged in the middle and in the end
        ids, vectors = rng.integers(30_000, size=size), rng.integers(9, size=(size, 3))
        sums.add(torch.from_numpy(ids), torch.from_numpy(ids % 2), torch.from_numpy(vectors))
        all_ids.append(ids)
        all_vectors.append(vectors)
    expected = np.zeros((30_000, 3))
    np.add.at(expected, np.concatenate(all_ids), np.concatenate(all_vectors))
    for half, found in enumerate(sums.result()):
        known = np.unique(np.concatenate(all_ids))
        assert found.ids.tolist() == known[known % 2 == half].tolist()
        np.testing.assert_array_equal(found.sums, expected[found.ids])


def test_the_model_is_as_it_was_and_its_loss_falls_along_the_gradient() -> None:
    model = ClickModel()
    model.train()
    generator = torch.Generator().manual_seed(0)
    inputs = (
        torch.randint(0, 30, (500,), generator=generator),
        torch.randint(0, 12, (500, 3), generator=generator),
    )
    labels = torch.randint(0, 2, (500,), generator=generator).float()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = on_unseen(model, [(inputs, labels)])
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    model.eval().double()
    for name in ("user", "tags"):
        weight = getattr(model, name).weight
        step = 1e-5 * torch.randn(weight.shape, generator=generator).double()
        losses = []
        for sign in (1, -1):
            with torch.no_grad():
                weight += sign * step
                losses.append(
                    functional.binary_cross_entropy_with_logits(model(*inputs), labels.double())
                )
                weight -= sign * step
        grown = float(losses[0] - losses[1]) / 2
        expected = float((dense(found[name], len(weight)) * step.numpy()).sum()) / 500
        assert grown == pytest.approx(expected, rel=1e-3)


def test_without_labels_or_rows() -> None:
    model = Linear(nn.Embedding(4, 2, _weight=THREE))
    ids = torch.tensor([0, 1])
    good = [(ids, torch.zeros(2))]
    with pytest.raises(DataError, match="unseen batch 1 has no labels"):
        loss_metrics(model, good, unseen=[*good, (ids, None)], progress=False)
    with pytest.raises(DataError, match="unseen: the batches are empty"):
        loss_metrics(model, good, unseen=[], progress=False)
    assert not loss_metrics(model, good, progress=False).unseen


def test_compressing_and_forecasting_with_slopes() -> None:
    model = Linear(nn.Embedding(500, 2, _weight=torch.randn(500, 2)))
    generator = torch.Generator().manual_seed(5)
    batches = [
        (torch.randint(0, 500, (2000,), generator=generator), torch.ones(2000)) for _ in range(2)
    ]
    with pytest.raises(DataError, match="needs labels of such rows: give calibration or unseen"):
        saec.torch.forecast(model, batches, progress=False)
    with pytest.raises(DataError, match="unseen must be iterable more than once"):
        saec.torch.forecast(model, batches, unseen=iter(batches), progress=False)
    curve = saec.torch.forecast(model, batches, unseen=batches, progress=False)
    assert curve.labelled
    result = saec.torch.compress_(
        model, batches, budget=saec.LossIncrease(1e-2), unseen=batches, progress=False
    )
    assert list(result.slope_shares) == ["user"]
    assert result.predicted_loss_increase is not None
    assert 0 < result.predicted_loss_increase <= 1.1e-2
