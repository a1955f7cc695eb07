"""Adagrad with one sum of squared gradients per row, for tables with sparse gradients.

What DLRM and TorchRec call row-wise Adagrad. One step length per row keeps the direction of the
gradient: a rare feature moves along the few directions that matter to the loss. Adagrad per value
moves it by the same length along every axis, which fills the table with noise: on MovieLens the
same validation AUC, but twice the loss of AUC at the same compressed size (docs/results.md).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

__all__ = ["RowAdagrad"]


class RowAdagrad(torch.optim.Optimizer):
    """e_i <- e_i - lr * g_i / sqrt(s_i), where s_i sums the mean squares of the row's gradients.

    Args:
        tables: (n, dim) parameters, as of ``nn.Embedding(sparse=True)``; dense gradients work, too.
        lr: step length of a row's first update, per value.
        initial_accumulator: what s_i starts from.
    """

    def __init__(
        self, tables: Iterable[nn.Parameter], lr: float, initial_accumulator: float
    ) -> None:
        super().__init__(tables, {"lr": lr})
        for group in self.param_groups:
            for table in group["params"]:
                start = torch.full((len(table),), initial_accumulator, dtype=table.dtype)
                self.state[table]["sum"] = start.to(table.device)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update the rows that the gradients name."""
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is not None:
                    _update(table, self.state[table]["sum"], group["lr"])


def _update(table: Tensor, sums: Tensor, rate: float) -> None:
    assert table.grad is not None
    if table.grad.is_sparse:
        gradient = table.grad.coalesce()
        rows, values = gradient.indices()[0], gradient.values()
    else:  # not by to_sparse, which goes row by row
        rows = table.grad.any(dim=1).nonzero().squeeze(1)
        values = table.grad[rows]
    total = sums[rows] + values.square().mean(dim=1)
    sums[rows] = total
    table.index_add_(0, rows, values * (-rate * total.rsqrt()).unsqueeze(1))
