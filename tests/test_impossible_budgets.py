"""Budgets below the smallest size are refused before anything is measured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import saec
import saec.torch
from saec import Axes, BudgetError, Clusters, Field, Ratio


@pytest.fixture(scope="module")
def fields() -> list[Field]:
    rng = np.random.default_rng(0)
    return [
        Field(name, rng.standard_normal((rows, 8), dtype=np.float32), rng.zipf(1.5, rows))
        for name, rows in (("user", 1000), ("item", 200))
    ]


def smallest_named(error: BudgetError) -> int:
    return int(str(error).partition("the smallest possible is ")[2].split()[0])


@pytest.mark.parametrize("codec", [Axes(), Axes(order="frequency"), Axes(order="code"), Clusters()])
def test_the_smallest_size_is_known_without_measuring(
    codec: Axes | Clusters, fields: list[Field], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(type(codec), "options", None)  # a call would fail
        with pytest.raises(BudgetError, match="the smallest possible is") as refused:
            saec.compress(fields, Ratio(1e5), codec, progress=False)
    smallest = smallest_named(refused.value)
    result = saec.compress(fields, saec.MaxBytes(smallest), codec, progress=False)
    assert 0.9 * smallest < result.nbytes <= smallest
    with pytest.raises(BudgetError, match="the smallest possible is"):
        saec.compress(fields, saec.MaxBytes(smallest - 1), codec, progress=False)


def test_inspection(fields: list[Field], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Clusters, "options", None)
    with pytest.raises(BudgetError, match="the smallest possible is"):
        saec.inspect(fields, ratio=1e5, progress=False)


def test_a_model_is_not_run_for_it() -> None:
    class Clicks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.user = nn.Embedding(300, 4)

        def forward(self, ids: Tensor) -> Tensor:
            raise AssertionError("it was run")

    def batches() -> Iterator[Any]:
        yield torch.arange(300), None

    with pytest.raises(BudgetError, match="the smallest possible is"):
        saec.torch.compress_(
            Clicks(), batches(), budget=Ratio(1e5), frequencies={"user": np.ones(300)}
        )
