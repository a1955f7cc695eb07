"""Lookups of embedding modules in a forward pass, and the gradient of each looked-up row."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from saec.errors import ModuleError
from saec.torch.model.called_bags import CalledBags
from saec.torch.model.find_tables import EmbeddingModule
from saec.torch.model.model_table import ModelTable

__all__ = [
    "RecordedLookup",
    "all_finite",
    "gradients_of",
    "recording",
    "single_precision",
    "split_fields",
    "without_padding",
]


@dataclass(eq=False)
class RecordedLookup:
    """One call of a module: the rows that it returned, and their units: examples or bags."""

    path: str
    table: ModelTable
    ids: Tensor  # (m,)
    rows: Tensor  # a leaf, (..., dim) with m rows
    numbered: Callable[[], Tensor]  # makes ``units``
    count: int  # number of units, including those without ids
    alone: bool  # whether each unit has one id, in order
    padding_idx: int | None

    @cached_property
    def units(self) -> Tensor:
        """The number of the unit of each id, (m,)."""
        return self.numbered()

    def spread(self, values: Tensor) -> Tensor:
        """``values`` (count,) of the units, for each id (m,)."""
        values = values.to(self.ids.device)
        return values if self.alone else values[self.units]

    def unpadded(self, *values: Tensor) -> tuple[Tensor, ...]:
        """The ids, and ``values`` (m, ...) of each, without those of padding."""
        own = (self.ids, *values)
        if self.padding_idx is None:
            return own
        kept = self.ids != self.padding_idx
        return tuple(value[kept] for value in own)


@contextmanager
def recording(tables: Iterable[ModelTable], lookups: list[RecordedLookup]) -> Iterator[None]:
    """Append every call of the tables' modules to ``lookups``."""
    with ExitStack() as stack:
        for table in tables:
            for path, module in table.modules.items():
                hook = partial(_record, path, table, lookups)
                handle = module.register_forward_hook(hook, with_kwargs=True)
                stack.callback(handle.remove)
        yield


def gradients_of(
    loss: Tensor, lookups: Sequence[RecordedLookup], tables: Iterable[ModelTable]
) -> tuple[list[tuple[RecordedLookup, Tensor]], list[ModelTable]]:
    """Gradients of the loss with respect to looked-up rows; and the tables on which it depends.

    Lookups are detached from the weights of their tables, so these are tables with whose
    weights the model computes directly. The graph is kept. A lookup that the model does not
    use is left out, if the model uses another one of the same table.

    Raises:
        ModuleError: the loss depends on no lookup of a table, as far as PyTorch knows.
    """
    learning = [table for table in tables if table.weight.requires_grad]
    inputs = [*(lookup.rows for lookup in lookups), *(table.weight for table in learning)]
    found: Sequence[Tensor | None] = [None] * len(inputs)
    if inputs and loss.requires_grad:
        found = torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True)
    gradients = []
    pairs = list(zip(lookups, found[: len(lookups)], strict=True))
    used = {lookup.table for lookup, gradient in pairs if gradient is not None}
    for lookup, gradient in pairs:
        if gradient is not None:
            gradients.append((lookup, gradient))
        elif lookup.table not in used:
            raise ModuleError(
                f"no gradient reaches the output of embedding {lookup.path!r}: the model detaches "
                "it, disables gradients or does not use it; leave its field out of names if the "
                "outputs do not depend on it"
            )
    at_weights = zip(learning, found[len(lookups) :], strict=True)
    return gradients, [table for table, gradient in at_weights if gradient is not None]


def without_padding(table: ModelTable, gradients: Tensor) -> Tensor:
    """Gradients (rows, dim) of a table's weight, 0 at the rows that its modules pad with."""
    padding = [module.padding_idx for module in table.modules.values()]
    pads = torch.tensor([pad for pad in padding if pad is not None], dtype=torch.long)
    return gradients.index_fill(0, pads.to(gradients.device), 0)


def split_fields(table: ModelTable, ids: Tensor) -> Iterator[tuple[str, Tensor | slice]]:
    """The fields of ids (m,), each with the positions of its own."""
    if len(table.parts) == 1:
        yield table.parts[0].name, slice(None)
        return
    starts = torch.tensor([part.first for part in table.parts[1:]], device=ids.device)
    numbers = torch.bucketize(ids.long(), starts, right=True)
    sizes = torch.bincount(numbers, minlength=len(table.parts)).tolist()
    chosen_ids = torch.split(numbers.argsort(stable=True), sizes)
    for part, chosen in zip(table.parts, chosen_ids, strict=True):
        yield part.name, chosen


def all_finite(values: Tensor) -> bool:
    """Whether no value is infinite or NaN."""
    # A sum with such a value is not finite either, and takes much less time.
    return math.isfinite(float(values.sum())) or bool(values.isfinite().all())


def single_precision(values: Tensor) -> Tensor:
    """At least float32: sums in half precision lose small gradients."""
    return values.float() if values.dtype.itemsize < 4 else values


# With gradients, even where the model disables them, for example around a frozen table.
@torch.inference_mode(False)
def _record(
    path: str,
    table: ModelTable,
    lookups: list[RecordedLookup],
    module: EmbeddingModule,
    args: Any,
    kwargs: Any,
    output: Tensor,
) -> Tensor:
    """Put a leaf under the output of a module, so that each looked-up row has a gradient."""
    called = inspect.signature(module.forward).bind(*args, **kwargs).arguments
    if isinstance(module, nn.EmbeddingBag):
        result, parts = _bags(module, called, output)
    else:
        result, parts = _single(called, output)
    lookups.append(RecordedLookup(path, table, padding_idx=module.padding_idx, **parts))
    return result


def _single(called: Mapping[str, Any], output: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """An embedding's output with a leaf under it, and the lookup's parts."""
    ids = called["input"]
    rows = output.detach().clone().requires_grad_()
    count = ids.shape[0] if ids.ndim else 1
    each = ids.numel() // max(count, 1)
    parts = {
        "ids": ids.reshape(-1),
        "rows": rows,
        "numbered": lambda: torch.arange(count, device=ids.device).repeat_interleave(each),
        "count": count,
        "alone": each == 1,
    }
    # A clone, because the model may write into it, which is not allowed for a leaf.
    return rows.clone(), parts


def _bags(
    module: nn.EmbeddingBag, called: Mapping[str, Any], output: Tensor
) -> tuple[Tensor, dict[str, Any]]:
    """A bag's output, recomputed from the rows that it looked up, and the lookup's parts."""
    bags = CalledBags(module, called, len(output))
    rows = single_precision(module.weight.detach()[bags.ids]).requires_grad_()
    parts = {
        "ids": bags.ids,
        "rows": rows,
        "numbered": lambda: bags.units,
        "count": bags.count,
        "alone": False,
    }
    return bags.pool(rows).to(output.dtype), parts
