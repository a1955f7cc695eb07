"""A price on bits: what a batch costs, by hand; the running mean; what training by it does."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from saec.errors import OptionError
from saec.reference.bit_price import BitPrice, Charge, RunningMean
from saec.reference.evaluate import evaluate
from saec.reference.log import Log
from saec.reference.models import build
from saec.reference.simulated import simulate
from saec.reference.train import train
from saec.reference.training_settings import Training


def two_fields() -> Log:
    """Field a has 4 rows, b has 2; row 1 of each occurs in both training examples."""
    ids = np.array([[1, 1], [1, 1], [2, 0], [3, 0]], np.int32)
    return Log(
        "made",
        ("a", "b"),
        ids,
        np.array([0, 1, 0, 1], np.float32),
        np.array([0, 0, 1, 1], np.int8),
        {"a": np.array([0.5, 2.0, 1.0, 8.0]), "b": np.array([0.0, 2.0])},
    )


def test_bits_by_hand() -> None:
    charge = Charge(BitPrice(1.0, noise=0.5), two_fields(), seed=0)
    # Field a: coordinates +-1.5 and 0, so C / s^2 = diag(9, 0): 1/2 log2 10 bits for 4 rows.
    # Field b: all alike, no bits.
    vectors = torch.tensor([[[1.5, 7.0], [1.0, 1.0]], [[-1.5, 7.0], [1.0, 1.0]]])
    assert float(charge.bits(vectors)) == pytest.approx(4 * 0.5 * math.log2(10), rel=1e-5)


def test_a_batch_pays_for_bits_and_for_lengths_by_frequency() -> None:
    charge = Charge(BitPrice(0.01, noise=0.5, row_decay=3.0), two_fields(), seed=0)
    vectors = torch.tensor([[[1.5, 0.0], [1.0, 1.0]], [[-1.5, 0.0], [1.0, 1.0]]])
    ids = torch.tensor([[3, 0], [0, 1]], dtype=torch.int32)
    # Squared lengths 2.25 and 2; frequencies 8 and 0, which counts as 1; then 0.5, as 1, and 2.
    lengths = (2.25 / 8 + 2 / 1 + 2.25 / 1 + 2 / 2) / 2
    expected = 0.01 * 4 * 0.5 * math.log2(10) + 3.0 * lengths
    assert float(charge.cost(vectors, ids)) == pytest.approx(expected, rel=1e-5)


def test_noise_is_of_the_size_that_was_said_and_of_the_seed() -> None:
    noise = [
        Charge(BitPrice(1.0, noise=0.5), two_fields(), seed).noisy(torch.zeros(500, 2, 4))
        for seed in (0, 0, 1)
    ]
    assert float(noise[0].std()) == pytest.approx(0.5, rel=0.05)
    assert torch.equal(noise[0], noise[1])
    assert not torch.equal(noise[0], noise[2])


def test_the_running_mean_halves_what_it_had_after_its_half_life() -> None:
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(0.0)
    mean = RunningMean(model, half_life=16)
    with torch.no_grad():
        model.weight.fill_(8.0)
    for _ in range(16):
        mean.step()
    with mean.held():
        assert model.weight.item() == pytest.approx(4.0)
    assert model.weight.item() == 8.0


def test_training_with_a_price_learns_with_fewer_bits() -> None:
    log = simulate(20_000, seed=0)
    found = {}
    for price in (1e-8, 1e-5):
        model = build("deepfm", log.vocab_sizes, dim=4, seed=0)
        result = train(model, log, Training(bit_price=price, max_epochs=3), progress=False)
        rows = torch.from_numpy(log.ids[log.rows("train")])
        with torch.no_grad():
            bits = float(Charge(BitPrice(price), log, 0).bits(model.embed(rows)))
        found[price] = bits
        # The state that is left is the mean that was judged best.
        assert evaluate(model, log, "validation", progress=False) == result.best.score
        assert result.best.score.auc > 0.6
    assert found[1e-5] < 0.5 * found[1e-8]


@pytest.mark.parametrize("price", [0.0, -1e-7, math.nan, math.inf])
def test_a_price_must_be_positive(price: float) -> None:
    log = simulate(2000, seed=0)
    model = build("deepfm", log.vocab_sizes, dim=4, seed=0)
    with pytest.raises(OptionError, match=f"bit_price is {price}; it must be positive"):
        train(model, log, Training(bit_price=price), progress=False)
