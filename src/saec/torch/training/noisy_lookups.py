"""Noise on the rows that a model looks up while it is trained, and a record of these rows."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from saec.torch.model.called_bags import CalledBags
from saec.torch.model.find_tables import EmbeddingModule
from saec.torch.model.model_table import ModelTable
from saec.torch.model.record_lookups import single_precision

__all__ = ["NoisyLookup", "NoisyLookups"]


@dataclass(frozen=True, eq=False)
class NoisyLookup:
    """The rows of one call of a module, without those at ``padding_idx``.

    Attributes:
        table: the table that was looked up.
        ids: (m,).
        rows: (m, dim), without noise, with the graph that leads to the table's weight.
        examples: length of the ids' first dimension, or the number of bags.
    """

    table: ModelTable
    ids: Tensor
    rows: Tensor
    examples: int


class NoisyLookups:
    """Hooks on the modules of tables: each looked-up row gets normal noise of its own.

    They act in training mode with gradients enabled, and leave other calls as they are.

    Attributes:
        lookups: all calls that were not taken yet.
    """

    def __init__(self, tables: Iterable[ModelTable], deviation: float, seed: int) -> None:
        self.lookups: list[NoisyLookup] = []
        self.deviation = deviation
        self._seed = seed
        self._generators: dict[str, torch.Generator] = {}
        self._handles = [
            module.register_forward_hook(partial(self._noisy, table), with_kwargs=True)
            for table in tables
            for module in table.modules.values()
        ]

    def taken(self) -> list[NoisyLookup]:
        """All lookups so far, which are then forgotten."""
        lookups, self.lookups = self.lookups, []
        return lookups

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.lookups.clear()

    def state(self) -> dict[str, Tensor]:
        """States of the random number generators by device."""
        return {device: each.get_state() for device, each in self._generators.items()}

    def set_state(self, state: dict[str, Tensor]) -> None:
        """Continue from a result of :meth:`state`."""
        for device, values in state.items():
            self._generator(torch.device(device)).set_state(values)

    def __getstate__(self) -> dict[str, Any]:
        """Without lookups, whose graph cannot be copied; generators by their states."""
        return vars(self) | {"lookups": [], "_generators": self.state()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _generators={})
        self.set_state(state["_generators"])

    def _noisy(
        self, table: ModelTable, module: EmbeddingModule, args: Any, kwargs: Any, output: Tensor
    ) -> Tensor | None:
        """The output with noise; None leaves it as it is."""
        if not (module.training and torch.is_grad_enabled()):
            return None
        called = inspect.signature(module.forward).bind(*args, **kwargs).arguments
        if isinstance(module, nn.EmbeddingBag):
            bags = CalledBags(module, called, len(output))
            # Bags give no rows: look them up once more, with the kind of gradient that bags have.
            rows = functional.embedding(
                bags.ids, module.weight, module.padding_idx, sparse=module.sparse
            )
            noise = self._record(table, module, bags.ids, rows, bags.count)
            return bags.pool(single_precision(rows) + noise).to(output.dtype)
        ids = called["input"]
        rows = output.reshape(-1, output.shape[-1])
        noise = self._record(table, module, ids.reshape(-1), rows, len(ids) if ids.ndim else 1)
        return output + noise.view_as(output).to(output.dtype)

    def _record(
        self, table: ModelTable, module: EmbeddingModule, ids: Tensor, rows: Tensor, examples: int
    ) -> Tensor:
        """Keep a lookup, and draw the noise (m, dim) for its rows, 0 at ``padding_idx``."""
        noise = self.deviation * torch.randn(
            rows.shape, generator=self._generator(rows.device), device=rows.device
        )
        if module.padding_idx is not None:
            used = ids != module.padding_idx
            noise = noise * used.unsqueeze(1)
            ids, rows = ids[used], rows[used]
        if len(ids):
            self.lookups.append(NoisyLookup(table, ids, rows, examples))
        return noise

    def _generator(self, device: torch.device) -> torch.Generator:
        if str(device) not in self._generators:
            self._generators[str(device)] = torch.Generator(device).manual_seed(self._seed)
        return self._generators[str(device)]
