"""Rows of all fields of a batch in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling
from torch.nn.modules import module as hooked

import saec._native as _native
from saec.format.native_lookup import RowRun
from saec.torch.lookup.opaque_calls import look_up, new_number, opaque, readable
from saec.torch.lookup.operator import DTYPES, Prepared
from saec.torch.lookup.recorded_calls import leaf, recorded
from saec.torch.lookup.run_reader import RunReader
from saec.torch.model.modules import CompressedEmbedding

__all__ = ["FieldEmbeddings"]


class FieldEmbeddings(nn.ModuleDict):
    """One embedding module per field: ids (n, fields) in, vectors (n, fields, dim) out.

    The result is that of calling each module and stacking the vectors. On a CPU and without
    gradients, one call of the native core reads all compressed modules and plain ``nn.Embedding``
    directly into the result, if at least one of them is compressed and none
    has hooks. Vectors are the same to the last bit.
    """

    def __init__(self, modules: dict[str, nn.Module] | None = None) -> None:
        super().__init__(modules)
        self._together: _Together | None = None
        self._number = new_number(self)

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors (n, fields, dim) of ``ids (n, fields)``, whose columns are in the fields' order.

        Raises:
            IdError: see :meth:`CompressedTable.forward`.
            ValueError: there are more or fewer columns than fields.
        """
        modules = self._modules
        node: Tensor | None = leaf(self, [ids])
        if node is not None:
            return node
        if is_dynamo_compiling():
            if (sample := self._sample(ids)) is not None and opaque(self._number):
                return look_up(self._number, sample, ids)
        elif (together := self._together) is not None:
            rows = together.rows(ids, modules)
            if rows is not None:
                return rows
        columns = zip(modules.values(), ids.unbind(1), strict=True)
        found = [module(column) for module, column in columns]
        if not (torch.is_grad_enabled() or recorded()):
            self._together = _together(tuple(modules.values()))
        return torch.stack(found, dim=1)

    def _sample(self, ids: Tensor) -> Tensor | None:
        """In traced code: numbers of the device, dtype and width of all vectors, if the call may be
        one operator of the graph; else None."""
        modules = self._modules.values()
        if ids.dim() != 2 or ids.shape[1] != len(modules):
            return None
        first: Tensor | None = None
        compressed = False
        for module in modules:
            if type(module) is CompressedEmbedding:
                sample, compressed = module.table.sample, True
            elif type(module) is nn.Embedding:
                sample = module.weight
            else:
                return None
            first = sample if first is None else first
            if not readable(ids, sample) or sample.dtype != first.dtype:
                return None
            if sample.shape[-1] != first.shape[-1]:
                return None
        learns = torch.is_grad_enabled() and any(part.requires_grad for part in self.parameters())
        return first if compressed and not learns else None

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._number = new_number(self)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_together": None}

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self._together = None  # it keeps tensors in memory that the modules may no longer hold
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]


@dataclass(frozen=True, eq=False)
class _Together:
    """Modules, and direct access to the rows of all of them."""

    modules: tuple[nn.Module, ...]
    shortcuts: _native.Shortcuts

    def rows(self, ids: Tensor, modules: Mapping[str, nn.Module]) -> Tensor | None:
        """Vectors (n, fields, dim), or None if the modules must be called."""
        if self.modules != tuple(modules.values()):
            return None
        rows: Tensor | None = self.shortcuts.rows(ids)
        return rows


# Of any module; there is no public name for them.
_HOOKS_OF_ALL: list[dict[int, Any]] = [
    hooked._global_forward_pre_hooks,
    hooked._global_forward_hooks,
]


def _together(modules: tuple[nn.Module, ...]) -> _Together | None:
    """None if a module has no direct access, or if PyTorch's own calls suffice for all."""
    if not any(type(module) is CompressedEmbedding for module in modules):
        return None
    shortcuts = [_shortcut(module) for module in modules]
    found = [shortcut for shortcut in shortcuts if shortcut is not None]
    alike = len({(shortcut.dim, shortcut.element) for shortcut in found}) == 1
    if len(found) < len(modules) or not alike:
        return None
    return _Together(modules, _native.Shortcuts(found, _guards(modules)))


def _guards(modules: Sequence[nn.Module]) -> _native.Guards:
    """The state in which a call of the modules does nothing but lookups; checked for changes."""
    hooks = list(_HOOKS_OF_ALL)
    entries: list[tuple[dict[str, Any], str, Any]] = []
    for module in modules:
        hooks += [module._forward_pre_hooks, module._forward_hooks]
        entries.append((module.__dict__, "forward", None))
        if isinstance(module, CompressedEmbedding):
            entries.append((module._modules, "table", module.table))
        else:
            entries.append((module.__dict__, "max_norm", None))
    return _native.Guards(hooks, entries)


def _shortcut(module: nn.Module) -> _native.Shortcut | None:
    """Direct access to the rows of a module whose call does nothing but a lookup."""
    if type(module) is CompressedEmbedding and "forward" not in module.__dict__:
        return module.table.prepared.shortcut
    if type(module) is nn.Embedding and "forward" not in module.__dict__:
        return _plain_shortcut(module)
    return None


def _plain_shortcut(module: nn.Embedding) -> _native.Shortcut | None:
    weight = module.weight
    if module.max_norm is not None or not weight.is_cpu or not weight.is_contiguous():
        return None
    if weight.dtype not in DTYPES or not len(weight):
        return None
    reader = RunReader(len(weight), (RowRun(0, 0, 0, 0),), ())
    no_codes = torch.zeros(1, dtype=torch.uint8, device="cpu")
    rest: dict[str, Any] = {"codes": no_codes, "columns": reader.columns}
    prepared = Prepared([(module._parameters, "weight"), (rest, "codes"), (rest, "columns")])
    prepared.table(reader, [weight, no_codes, reader.columns])
    return prepared.shortcut
