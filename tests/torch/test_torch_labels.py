"""Labels, outputs and losses that do not belong together are refused by name, everywhere."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import saec
from saec.errors import DataError, OptionError
from saec.format.compressed import Compressed
from saec.torch import (
    compress_,
    finetune,
    finetune_on_unseen_rows,
    loss_metrics,
    measure_loss_increase,
    predictions,
    replace_embeddings_,
)

Make = Callable[..., Any]
Batches = list[tuple[Any, Any]]

ROWS = 128


@pytest.fixture
def batches(click_inputs: Make) -> Make:
    """Makes two batches with the same labels, or with 0 and 1 in turn."""

    def make(labels: Any = None) -> Batches:
        own = torch.arange(ROWS) % 2.0 if labels is None else labels
        return [(click_inputs(ROWS, seed), own) for seed in range(2)]

    return make


class Sigmoid(nn.Module):
    """A model that ends in a sigmoid."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.sigmoid(self.model(*inputs))


def measures(model: nn.Module, rows: Batches, good: Batches, result: Compressed) -> None:
    measure_loss_increase(model, result, rows, labelled=True)


def measures_metrics(model: nn.Module, rows: Batches, good: Batches, result: Compressed) -> None:
    loss_metrics(model, rows, progress=False)


def compresses(model: nn.Module, rows: Batches, good: Batches, result: Compressed) -> None:
    compress_(model, good, None, saec.LossIncrease(1e-3), calibration=rows, progress=False)


def forecasts(model: nn.Module, rows: Batches, good: Batches, result: Compressed) -> None:
    saec.torch.forecast(model, good, calibration=rows, progress=False)


def tunes(model: nn.Module, rows: Batches, good: Batches, result: Compressed) -> None:
    replace_embeddings_(model, result)
    finetune_on_unseen_rows(model, rows, validation=good, progress=False)


def validates(model: nn.Module, rows: Batches, good: Batches, result: Compressed) -> None:
    teacher = predictions(model, good, progress=False)
    replace_embeddings_(model, result)
    finetune(model, good, teacher=teacher, validation=rows, progress=False)


USES = [measures, measures_metrics, compresses, forecasts, tunes, validates]


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.arange(ROWS) % 2 * 2 - 1, "labels are between -1 and 1; the log loss expects 0 for"),
        (torch.arange(ROWS) % 2 * 100, "labels are between 0 and 100; the log loss expects 0 for"),
        (torch.full((ROWS,), torch.nan), "labels are between nan and nan; the log loss expects"),
        (torch.ones(ROWS, 1), f"labels have shape ({ROWS}, 1), the model's outputs ({ROWS},)"),
        (torch.ones(ROWS - 1), f"the model gives {ROWS} logits for {ROWS - 1} labels"),
    ],
)
def test_wrong_labels_are_refused(
    use: Callable[..., None],
    labels: Tensor,
    message: str,
    click_model: Make,
    click_result: Make,
    batches: Make,
) -> None:
    with pytest.raises(DataError, match=rf"batch 0: {re.escape(message)}"):
        use(click_model(), batches(labels), batches(), click_result())


@pytest.mark.parametrize("labels", [torch.ones(ROWS, dtype=torch.bool), torch.full((ROWS,), 0.3)])
def test_labels_of_any_dtype_and_probabilities_are_taken(
    labels: Tensor, click_model: Make, click_result: Make, batches: Make
) -> None:
    for use in (measures, measures_metrics, tunes):
        use(click_model(), batches(labels), batches(), click_result())


def test_labels_in_a_column_fit_logits_in_a_column(
    click_model: Make, click_result: Make, batches: Make
) -> None:
    class Column(type(click_model())):  # type: ignore[misc]
        def forward(self, *inputs: Tensor) -> Tensor:
            logits: Tensor = super().forward(*inputs)
            return logits[:, None]

    column, result = batches(torch.ones(ROWS, 1)), click_result()
    found = measure_loss_increase(Column(), result, column, labelled=True)
    assert found == measure_loss_increase(
        click_model(), result, batches(torch.ones(ROWS)), labelled=True
    )


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("labels", [np.ones(ROWS), [1.0] * ROWS, ["click"] * ROWS])
def test_labels_that_are_no_tensor_are_refused(
    use: Callable[..., None], labels: Any, click_model: Make, click_result: Make, batches: Make
) -> None:
    message = f"batch 0: labels are a {type(labels).__name__}, not a tensor; give torch.as_tensor"
    with pytest.raises(DataError, match=message):
        use(click_model(), batches(labels), batches(), click_result())


def test_squared_errors_of_labels_in_a_column_are_refused(
    click_model: Make, click_result: Make, batches: Make
) -> None:
    """PyTorch would compare each output with each label."""
    rows = batches(torch.ones(ROWS, 1))
    message = re.escape(f"labels have shape ({ROWS}, 1), the model's outputs ({ROWS},); the squar")
    with pytest.raises(DataError, match=message):
        loss_metrics(click_model(), rows, nn.MSELoss(), progress=False)
    with pytest.raises(DataError, match=message):
        measure_loss_increase(click_model(), click_result(), rows, nn.MSELoss(), labelled=True)


# Logits and probabilities.


@pytest.mark.parametrize("use", [measures_metrics, measures])
def test_probabilities_are_not_taken_for_logits(
    use: Callable[..., None], click_model: Make, clustered: Make, batches: Make
) -> None:
    model, result = Sigmoid(click_model()), Compressed([clustered("model.user", 30)])
    message = f"batch 0: all {ROWS} outputs of the model lie between 0 and 1.*binary_cross_entropy,"
    with pytest.raises(DataError, match=message):
        use(model, batches(), batches(), result)
    # Users can state that the outputs are logits.
    explicit = functional.binary_cross_entropy_with_logits
    loss_metrics(model, batches(), explicit, progress=False)


def test_logits_are_not_taken_for_probabilities(click_model: Make, batches: Make) -> None:
    with pytest.raises(DataError, match=r"outputs reach from -.* but the loss_fn takes probabilit"):
        loss_metrics(click_model(), batches(), functional.binary_cross_entropy, progress=False)


def test_fine_tuning_warns_of_probabilities(
    click_model: Make, clustered: Make, batches: Make, caplog: pytest.LogCaptureFixture
) -> None:
    model, result = Sigmoid(click_model()), Compressed([clustered("model.user", 30)])
    with caplog.at_level(logging.WARNING, logger="saec"):
        validates(model, batches(), batches(), result)
    assert caplog.text.count(f"all {ROWS} outputs of the model lie between 0 and 1") == 1


# Swapped arguments.


def test_a_budget_in_the_place_of_the_loss(
    click_model: Make, click_result: Make, batches: Make
) -> None:
    model, rows = click_model(), batches()
    message = r"loss_fn must be a function .* not Ratio\(value=10\); pass it as budget=Ratio"
    with pytest.raises(OptionError, match=message):
        compress_(model, rows, saec.Ratio(10))  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=message):
        saec.torch.forecast(model, rows, saec.Ratio(10), calibration=rows)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="must be a function of outputs and labels, not 'bce'"):
        loss_metrics(model, rows, "bce")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="must be a function of outputs and labels, not 'bce'"):
        measure_loss_increase(model, click_result(), rows, "bce", labelled=True)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="must be a function of outputs and labels, not 'bce'"):
        finetune(model, rows, validation=rows, loss_fn="bce")  # type: ignore[arg-type]
