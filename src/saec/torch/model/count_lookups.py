"""Count the lookups of each feature, at the embedding modules."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from saec.errors import DataError, ModuleError, ModuleWarning
from saec.torch.model.call import Batches, call, evaluating, pairs
from saec.torch.model.find_tables import EmbeddingModule
from saec.torch.model.model_table import ModelTable
from saec.torch.model.overlooked import explained
from saec.util.messages import listed
from saec.util.progress import track

__all__ = ["count_lookups", "more_frequent", "with_unseen"]

# Difference of two counts, in standard errors, that is significant among a million features.
_CLEAR = 6.0


def count_lookups(
    model: nn.Module, tables: Sequence[ModelTable], batches: Batches, *, progress: bool = True
) -> dict[str, NDArray[np.float64]]:
    """Count the lookups of every feature while ``batches`` pass through the model.

    For models whose log cannot be counted without them; :func:`saec.count_columns` counts a log
    itself.

    Args:
        model: see :func:`saec.torch.loss_metrics`.
        tables: of the model.
        batches: (inputs, labels) pairs, the training log.
        progress: show a progress bar on stderr for work over two seconds.

    Returns:
        (vocab_size,) float64 by the field names of :func:`saec.torch.fields`, for all tables that
        were looked up; all fields of a joint table if one of them was.

    Raises:
        DataError: the batches are empty.
        ModuleError: there are no tables, or none of them was looked up.
    """
    if not tables:
        raise ModuleError(f"no embedding tables to count: {explained(model)}")
    counts = {table.path: torch.zeros(table.weight.shape[0]).double() for table in tables}
    device = tables[0].weight.device
    empty = True
    with _recording(tables, counts), evaluating(model):
        for inputs, _ in pairs(track(batches, description="counting features", show=progress)):
            call(model, inputs, device)
            empty = False
    if empty:
        raise DataError("batches are empty")
    called = [table for table in tables if bool(counts[table.path].any())]
    if not called:
        raise ModuleError(
            f"no batch calls {listed(repr(table.path) for table in tables)}; if the model uses "
            "weights or forward of these embeddings directly, give frequencies"
        )
    for table in tables:
        if table not in called:
            warnings.warn(
                f"embedding {table.path!r} ({table.weight.nbytes:,} bytes) stays as it is: no "
                "batch calls it; if the model uses its weight or forward directly, give "
                "frequencies",
                ModuleWarning,
                stacklevel=3,
            )
    return {
        part.name: counts[table.path][part.first : part.last].numpy()
        for table in called
        for part in table.parts
    }


def with_unseen(
    frequencies: Mapping[str, ArrayLike],
    model: nn.Module,
    tables: Sequence[ModelTable],
    rows: Batches,
) -> dict[str, ArrayLike]:
    """``frequencies`` of a training log, corrected by lookups in ``rows`` that are not in the log.

    The id that stands for values unseen in training may occur in half of all later rows, but not in
    the training log, or only as often as values are missing there. With that frequency its row
    would get few bits, and its error would shift the model's predictions for all of these rows. So
    a feature that is not in the log, or clearly more frequent in ``rows`` than in the log, gets its
    share of the field's lookups in ``rows``.

    Args:
        frequencies: (vocab_size,) by field name.
        model: see :func:`count_lookups`.
        tables: of the model.
        rows: batches of rows that were not used to train a table.
    """
    later = count_lookups(model, tables, rows, progress=False)
    return {
        name: _with_later(counts, later[name]) if name in later else counts
        for name, counts in frequencies.items()
    }


def more_frequent(
    counts: Mapping[str, ArrayLike], later: Mapping[str, ArrayLike]
) -> dict[str, NDArray[np.bool_]]:
    """The features whose counts :func:`with_unseen` changed, (vocab_size,) bool by field name.

    Args:
        counts: of the training log.
        later: result of :func:`with_unseen`.
    """
    return {
        name: np.asarray(now) > np.asarray(counts[name])
        for name, now in later.items()
        if now is not counts[name]
    }


def _with_later(counts: ArrayLike, later: NDArray[np.float64]) -> ArrayLike:
    own = np.asarray(counts)
    if own.shape != later.shape or own.dtype.kind not in "biuf":
        return counts  # rejected when the fields are made
    scale = own.sum(dtype=np.float64) / max(later.sum(), 1.0)
    expected = own / max(scale, np.finfo(np.float64).tiny)
    more = later - expected > _CLEAR * np.sqrt(later + expected)
    return np.where(more | ((own == 0) & (later > 0)), later * scale, own)


@contextmanager
def _recording(tables: Sequence[ModelTable], counts: dict[str, Tensor]) -> Iterator[None]:
    """Hooks that count every id that the tables' modules are called with."""
    handles = [
        module.register_forward_pre_hook(_counter(module, counts[table.path]), with_kwargs=True)
        for table in tables
        for module in table.modules.values()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _counter(module: EmbeddingModule, counts: Tensor) -> Any:
    def count(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = (args[0] if args else kwargs["input"]).reshape(-1).long().cpu()
        if module.padding_idx is not None:
            ids = ids[ids != module.padding_idx]
        counts.add_(torch.bincount(ids, minlength=len(counts))[: len(counts)])

    return count
