"""Compressed tables in the place of a click model's own."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from saec.baselines import RivalField
from saec.format.compressed import Compressed
from saec.reference.models import ClickModel
from saec.torch import replace_embeddings_

__all__ = ["hold"]


def hold(model: ClickModel, result: Compressed, prefix: str) -> None:
    """Put tables that take ids into a model; ``prefix`` begins the names of the fields.

    The model goes on being asked by the ids that it was trained with.
    """
    if any(isinstance(field, RivalField) for field in result.values()):
        _hold_rows(model, result, prefix)
        return
    replace_embeddings_(model, result, renumbered=True)
    for name, field in result.items():
        if field.renumbered:
            own = name.removeprefix(prefix)
            model.embeddings[own] = _Renumbered(field.new_ids, model.embeddings[own])


def _hold_rows(model: ClickModel, result: Compressed, prefix: str) -> None:
    """Put decoded rows into plain tables of their own: rivals have no modules."""
    for name, field in result.items():
        rows = torch.from_numpy(field.decode())
        table = nn.Embedding(len(rows), field.dim, _weight=rows)
        model.embeddings[name.removeprefix(prefix)] = table


class _Renumbered(nn.Module):
    """A table that is asked by old ids, as the log has them; who serves it renumbers the log."""

    def __init__(self, new_ids: NDArray[np.int64], table: nn.Module) -> None:
        super().__init__()
        self._new_ids = torch.from_numpy(new_ids)
        self.table = table

    def forward(self, ids: Tensor) -> Tensor:
        rows: Tensor = self.table(self._new_ids[ids])
        return rows
