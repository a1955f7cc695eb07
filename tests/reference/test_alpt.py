"""ALPT's rounding and its learned steps, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from saec.reference.small.alpt import Alpt, rounded
from saec.reference.small.features import FieldFeatures

pytestmark = pytest.mark.usefixtures("one_thread")


def field(count: int) -> FieldFeatures:
    return FieldFeatures("f", 0, np.ones(count), np.arange(count, dtype=np.uint64))


def test_values_and_the_gradients_of_steps_are_those_of_the_paper() -> None:
    rows = torch.tensor([[0.26, -0.9], [0.0, 0.04], [99.0, 0.0], [0.0, -99.0]])
    steps = torch.full((4, 1), 0.1).requires_grad_()
    values = rounded(rows, steps)
    expected = torch.tensor([[0.3, -0.9], [0.0, 0.0], [12.7, 0.0], [0.0, -12.8]])
    assert torch.allclose(values, expected)
    values.sum().backward()
    assert steps.grad is not None
    # Rounding moves 2.6 steps by +0.4 and 0.4 steps by -0.4; beyond the limits these count.
    assert torch.allclose(steps.grad[:, 0], torch.tensor([0.4, -0.4, 127.0, -128.0]), atol=1e-4)


def test_looked_up_rows_get_new_steps_and_lie_on_them() -> None:
    """Adam's first update has the length of its rate, and the sign of the gradient."""
    torch.manual_seed(0)
    tables = Alpt(largest=1.27, step_rate=1e-3).build([field(5)], 2, 0)
    (part,) = tables.parts  # type: ignore[attr-defined]
    with torch.no_grad():
        part.rows.weight.copy_(torch.tensor([[0.0, 0.0]] * 3 + [[0.026, 0.026], [0.014, 0.0]]))
    before = part.rows.weight.detach().clone()
    tables.train()
    ids = torch.tensor([[3], [4], [3]])
    tables(ids)
    asked: list[torch.Tensor] = []

    def loss() -> torch.Tensor:
        asked.append(tables(ids).detach())
        return 1e3 * tables(ids).sum()  # type: ignore[no-any-return]

    tables.stepped(loss, examples=3)
    # The loss sees rows rounded to the nearest multiples of the old steps of 0.01.
    assert torch.allclose(asked[0][0, 0], torch.tensor([0.03, 0.03]))
    assert torch.allclose(asked[0][1, 0], torch.tensor([0.01, 0.0]))
    # Row 3 is moved by +0.4 steps: a smaller step lowers the loss; row 4 by -0.4.
    assert part.steps[:, 0].tolist() == pytest.approx([0.01, 0.01, 0.01, 0.009, 0.011], rel=1e-3)
    assert (part.rows.weight[:3] == before[:3]).all()
    codes = part.rows.weight / part.steps
    assert torch.allclose(codes, codes.round(), atol=1e-4)
    assert codes[3].min() > 1.9  # 2.9 steps: 2 or 3
    assert codes[3].max() < 3.1


def test_random_rounding_keeps_the_mean() -> None:
    torch.manual_seed(0)
    tables = Alpt(largest=1.27, step_rate=1e-9).build([field(4001)], 2, 0)
    (part,) = tables.parts  # type: ignore[attr-defined]
    with torch.no_grad():
        part.rows.weight.copy_(torch.tensor([0.0025, -0.0925]).expand(4001, 2))
    tables.train()
    ids = torch.arange(4001)[:, None]
    tables(ids)
    tables.stepped(lambda: tables(ids).sum(), examples=4001)
    rows = part.rows.weight.detach()
    assert sorted(set((rows / 0.01).round().flatten().tolist())) == [-10, -9, 0, 1]
    # The standard error of the mean is 0.01 * sqrt(0.25 * 0.75 / 4001) = 0.00007.
    assert rows.mean(dim=0).tolist() == pytest.approx([0.0025, -0.0925], abs=3e-4)


def test_a_row_takes_a_byte_a_number_and_four_for_its_step() -> None:
    tables = Alpt().build([field(7), field(3)], 16, 0)
    assert tables.nbytes == (7 + 3) * (16 + 4)
