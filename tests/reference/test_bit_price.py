"""Training of the reference models with a price on bits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from saec.errors import OptionError
from saec.reference.evaluate import evaluate
from saec.reference.models import build
from saec.reference.simulated import simulate
from saec.reference.train import train
from saec.reference.training_settings import PricedTraining, Training
from saec.torch.training.surviving_bits import bits_of_rows


def test_training_with_a_price_learns_with_fewer_bits() -> None:
    log = simulate(8000, seed=0)
    found = {}
    for price in (1e-8, 1e-4):
        model = build("deepfm", log.vocab_sizes, dim=4, seed=0)
        result = train(model, log, Training(bit_price=price, max_epochs=3), progress=False)
        rows = torch.from_numpy(log.ids[log.rows("train")])
        counts = [
            log.frequencies[name][ids] for name, ids in zip(log.field_names, rows.T, strict=True)
        ]
        noise = PricedTraining.of(log.name).noise
        with torch.no_grad():
            vectors = model.embed(rows).transpose(0, 1)
            bits = bits_of_rows(vectors, torch.from_numpy(np.stack(counts)).float(), noise)
        found[price] = float(bits @ torch.tensor([*log.vocab_sizes.values()]).float())
        # The state that is left is the mean that was judged best, in a model without hooks.
        assert evaluate(model, log, "validation", progress=False) == result.best.score
        assert result.best.score.auc > 0.6
        assert not any(module._forward_hooks for module in model.modules())
    assert found[1e-4] < 0.6 * found[1e-8]


def test_a_running_mean_is_judged_and_kept() -> None:
    log = simulate(8000, seed=0)
    settings = Training(mean_half_life=0.1, max_epochs=1)
    model, other = (build("deepfm", log.vocab_sizes, dim=4, seed=0) for _ in range(2))
    found = train(model, log, settings, progress=False)
    assert evaluate(model, log, "validation", progress=False) == found.best.score
    plain = train(other, log, Training(max_epochs=1), progress=False)
    # The same steps, after which another state is judged.
    assert found.examples == plain.examples
    assert found.best.score != plain.best.score
    assert abs(found.best.score.auc - plain.best.score.auc) < 0.05
    with pytest.raises(OptionError, match="give bit_price or mean_half_life, not both"):
        Training(mean_half_life=0.1, bit_price=1e-9)


@pytest.mark.parametrize("price", [0.0, -1e-7, math.nan, math.inf])
def test_a_price_must_be_positive(price: float) -> None:
    log = simulate(2000, seed=0)
    model = build("deepfm", log.vocab_sizes, dim=4, seed=0)
    with pytest.raises(OptionError, match=f"bit_price is {price}; it must be positive"):
        train(model, log, Training(bit_price=price), progress=False)
