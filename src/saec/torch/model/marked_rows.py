"""Mark the rows of a log that look up some features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from saec.torch.model.call import Batches, call, evaluating, pairs
from saec.torch.model.model_table import ModelTable

__all__ = ["marked_rows"]


def marked_rows(
    model: nn.Module,
    tables: Sequence[ModelTable],
    rows: Batches,
    chosen: Mapping[str, NDArray[np.bool_]],
) -> Tensor:
    """Mark the rows that look up one of the ``chosen`` features, by table.

    Args:
        model: see :func:`saec.torch.loss_metrics`.
        tables: of the model.
        rows: batches of rows that were not used to train a table.
        chosen: (vocab_size,) bool by field name, for some or all fields of the tables.

    Returns:
        (rows, m) bool, for the m tables that have chosen features and whose ids can be assigned to
        rows: ids of shape (rows, ...), or bags with one offset per row.
    """
    wanted: dict[str, Tensor] = {}
    for table in tables:
        own = torch.zeros(table.weight.shape[0], dtype=torch.bool)
        for part in table.parts:
            if part.name in chosen:
                own[part.first : part.last] = torch.from_numpy(chosen[part.name])
        if bool(own.any()):
            wanted[table.path] = own
    tables = [table for table in tables if table.path in wanted]
    device = next((parameter.device for parameter in model.parameters()), None)
    modules: dict[nn.Module, str] = {
        module: table.path for table in tables for module in table.modules.values()
    }
    found: list[dict[str, Tensor]] = []
    sizes: list[int] = []
    with _marking(modules, wanted, found), evaluating(model):
        for inputs, _ in pairs(rows):
            found.append({})
            sizes.append(len(call(model, inputs, device)))
    paths = [
        path
        for path in wanted
        if all(len(own.get(path, ())) == n for own, n in zip(found, sizes, strict=True))
    ]
    if not paths:
        return torch.zeros((sum(sizes), 0), dtype=torch.bool)
    return torch.cat([torch.stack([own[path] for path in paths], dim=1) for own in found])


@contextmanager
def _marking(
    modules: Mapping[nn.Module, str], wanted: Mapping[str, Tensor], found: list[dict[str, Tensor]]
) -> Iterator[None]:
    """Hooks that add the marks of a batch to the last dictionary of ``found``."""

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        path = modules[module]
        given = dict(zip(("input", "offsets"), args, strict=False)) | kwargs
        offsets = given.get("offsets")
        if offsets is not None and getattr(module, "include_last_offset", False):
            offsets = offsets[:-1]
        marks = _marks(wanted[path], given["input"], offsets)
        before = found[-1].get(path)
        same = before is not None and before.shape == marks.shape
        found[-1][path] = marks | before if same and before is not None else marks

    handles = [module.register_forward_pre_hook(hook, with_kwargs=True) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _marks(wanted: Tensor, ids: Tensor, offsets: Tensor | None) -> Tensor:
    """(rows,) bool of one call of a module."""
    marks = wanted[ids.cpu().long()]
    if offsets is None or ids.dim() != 1:
        return marks.reshape(len(marks) if marks.dim() else 1, -1).any(dim=1)
    before = torch.cat([torch.zeros(1, dtype=torch.int64), marks.long().cumsum(0)])
    starts = offsets.cpu().long()
    ends = torch.cat([starts[1:], torch.tensor([len(marks)])])
    return before[ends] > before[starts]
