"""Batches that are no pairs of inputs and labels are refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import saec.torch
from saec import DataError, Ratio


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.user = nn.Embedding(50, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.user(ids).sum(-1)


IDS, LABELS = torch.arange(8), torch.ones(8)


@pytest.mark.parametrize(
    ("batch", "found"),
    [
        ((IDS, LABELS, LABELS), r"a tuple of 3"),
        ({"ids": IDS, "labels": LABELS}, "a dict"),
        (torch.stack([IDS, IDS]), "a Tensor"),
    ],
)
@pytest.mark.parametrize(
    "call",
    [
        lambda batches: saec.torch.loss_metrics(Model(), batches, progress=False),
        lambda batches: saec.torch.compress_(Model(), batches, None, Ratio(2), progress=False),
    ],
)
def test_batches_that_are_no_pairs(call: Callable[[Any], Any], batch: Any, found: str) -> None:
    with pytest.raises(DataError, match=rf"batch 0 is {found}, not \(inputs, labels\)"):
        call([batch])
