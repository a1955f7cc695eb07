"""Rows of gradients that are rounded to int8, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from saec.reference.small.row_gradients import RowGradients, mean_of_rows

pytestmark = pytest.mark.usefixtures("one_thread")


def test_what_rounding_loses_is_added_to_the_rows_next_gradient() -> None:
    exchange = RowGradients([nn.Parameter(torch.zeros(5, 2))])
    rows = torch.tensor([1, 4])
    codes, scale = exchange.compensated(0, rows, torch.tensor([[1.27, 0.004], [-0.5, 0.0]]))
    assert scale.tolist() == pytest.approx([0.01])
    assert codes.tolist() == [[127, 0], [-50, 0]]
    # Row 1 has kept 0.004, so that 0.004 more make 0.008, which is nearer to one step than to none.
    codes, scale = exchange.compensated(0, rows[:1], torch.tensor([[1.27, 0.004]]))
    assert scale.tolist() == pytest.approx([0.01])
    assert codes.tolist() == [[127, 1]]
    codes, scale = exchange.compensated(0, rows[:1], torch.tensor([[0.0, 0.002]]))
    assert (codes * scale).tolist()[0] == pytest.approx([0.0, 0.0], abs=1e-6)  # 0.002 - 0.002
    codes, _ = exchange.compensated(0, rows[:0], torch.zeros(0, 2))
    assert codes.shape == (0, 2)


def test_the_mean_adds_rows_that_several_processes_sent() -> None:
    one = (torch.tensor([0, 3]), torch.tensor([[2], [4]], dtype=torch.int8), torch.tensor([0.5]))
    other = (torch.tensor([3]), torch.tensor([[1]], dtype=torch.int8), torch.tensor([2.0]))
    found = mean_of_rows([one, other], torch.zeros(4, 1))
    assert found.to_dense().flatten().tolist() == [0.5, 0.0, 0.0, 2.0]
