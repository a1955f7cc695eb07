"""The search for a price: which prices it tries, and the trials of ``BitPrice.for_ratio``."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import saec
from saec.torch import BitPrice
from saec.torch.training.price_search import search


@pytest.mark.parametrize(
    ("lowest", "tried"),
    [
        (0, [-2, -1, 0, 1, 2]),
        (3, [0, 1, 2, 3, 4]),
        (5, [0, 2, 3, 4, 5, 6]),
        (-4, [-6, -5, -4, -3, -2, 0, 2]),
    ],
)
def test_prices_move_by_4_and_then_by_2(lowest: int, tried: list[int]) -> None:
    trials = search(lambda price: (math.log2(price) - lowest) ** 2, 1.0)
    assert [math.log2(trial.price) for trial in trials] == tried
    assert min(trials, key=lambda trial: trial.loss).price == 2.0**lowest


def test_prices_without_a_finite_loss_are_passed_over() -> None:
    trials = search(lambda price: math.nan if price > 1 else 1 / price, 1.0)
    assert min(trials, key=lambda trial: trial.loss).price == 1.0
    assert [trial.loss for trial in trials if trial.price > 1] == [math.inf, math.inf]
    with pytest.raises(saec.DataError, match=r"no price from 0\.25 to 4 gave a finite loss"):
        search(lambda price: math.nan, 1.0)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.user, self.item = nn.Embedding(300, 4), nn.Embedding(100, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return (self.user(ids[:, 0]) * self.item(ids[:, 1])).sum(1)


@pytest.fixture(scope="module")
def task() -> dict[str, Any]:
    """Arguments of ``for_ratio``, for labels that depend on the ids."""
    rng = np.random.default_rng(0)
    ids = torch.from_numpy(rng.zipf(1.4, (3000, 2)) % np.array([300, 100]))
    labels = (torch.sin(ids[:, 0] * 1.0) * torch.cos(ids[:, 1] * 2.0) > 0).float()
    frequencies = {
        name: torch.bincount(ids[:2000, column], minlength=rows)  # any tensor is accepted
        for column, (name, rows) in enumerate({"user": 300, "item": 100}.items())
    }

    def train(model: nn.Module, price: BitPrice) -> None:
        optimizer = torch.optim.Adam(model.parameters(), 0.02)
        loss_fn = price.charged(nn.functional.binary_cross_entropy_with_logits)
        price.follow(optimizer)
        for first in range(0, 2000, 100):
            loss_fn(model(ids[first : first + 100]), labels[first : first + 100]).backward()
            optimizer.step()
            optimizer.zero_grad()

    return {
        "ratio": 8,
        "frequencies": frequencies,
        "train": train,
        "batches": [(ids[:2000], labels[:2000])],
        "validation": [(ids[2000:2600], labels[2000:2600]), (ids[2600:], labels[2600:])],
        "progress": False,
    }


def test_the_price_with_the_lowest_loss_after_compression_is_taken(task: dict[str, Any]) -> None:
    model = Model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    price = BitPrice.for_ratio(model, **task, start=1e-4, noise=0.1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert price.price == min(price.trials, key=lambda trial: trial.loss).price
    assert 5 <= len(price.trials) < 12
    # The trial can be repeated outside of the search.
    task["train"](model, price)
    price.finish()
    saec.torch.compress_(
        model,
        task["batches"],
        budget=saec.Ratio(8),
        frequencies=task["frequencies"],
        progress=False,
    )
    with torch.no_grad():
        ids, labels = (torch.cat(parts) for parts in zip(*task["validation"], strict=True))
        loss = nn.functional.binary_cross_entropy_with_logits(model(ids), labels)
    assert loss.item() == pytest.approx(min(trial.loss for trial in price.trials), rel=1e-5)


@pytest.mark.exhaustive
def test_the_first_price_follows_from_the_number_of_lookups(task: dict[str, Any]) -> None:
    given = task | {"train": lambda *_: None, "ratio": saec.MaxBytes(2000)}
    price = BitPrice.for_ratio(Model(), **given)
    # Nothing is trained, so all prices are equally good, and five are tried.
    prices = [trial.price for trial in price.trials]
    assert prices == pytest.approx(
        [math.log(2) / 8 / 2000 * factor for factor in (0.25, 0.5, 1, 2, 4)]
    )


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"ratio": 0.5}, saec.BudgetError, "0.5"),
        ({"ratio": saec.LossIncrease(1)}, saec.BudgetError, "a ratio must be a number"),
        ({"ratio": 1e6}, saec.BudgetError, "the smallest possible is"),
        ({"validation": []}, saec.DataError, "validation are empty"),
        ({"validation": iter([])}, saec.DataError, "validation must be iterable more than once"),
        ({"batches": iter([])}, saec.DataError, "batches must be iterable more than once"),
        ({"start": -1.0}, saec.OptionError, r"price is -1\.0; it must be positive"),
        ({"loss_fn": "log"}, saec.OptionError, "loss_fn must be a function"),
        ({"frequencies": {"users": np.ones(300)}}, saec.ModuleError, "no embedding field is named"),
    ],
)
def test_arguments_are_checked(
    task: dict[str, Any], given: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        BitPrice.for_ratio(Model(), **task | {"train": lambda *_: None} | given)
