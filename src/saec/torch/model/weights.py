"""Weights that several modules share, and weights that cannot be compressed."""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import nn

from saec.errors import ModuleError
from saec.torch.model.model_table import ModelTable

__all__ = ["is_plain_linear", "odd_weight", "tied"]

_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


def odd_weight(weight: torch.Tensor) -> str:
    """The reason why a weight is not a plain table of numbers; usually empty."""
    if type(weight) not in (torch.Tensor, nn.Parameter):
        return f"a weight of type {type(weight).__name__}: give it a plain tensor, of all its rows"
    if weight.layout != torch.strided:
        return f"a sparse weight ({weight.layout}): call to_dense() on it"
    if weight.is_quantized:
        return "a quantised weight: call dequantize() on it"
    if weight.dtype not in _DTYPES:
        return f"a weight of dtype {weight.dtype}: convert it to float32 or float16"
    return ""


def tied(model: nn.Module, table: ModelTable) -> dict[str, nn.Linear]:
    """Linear layers that share the table's weight; any other module that shares it is rejected."""
    owners = set(table.modules.values())
    tied: dict[str, nn.Linear] = {}
    for path, module in model.named_modules():
        if module in owners:
            continue
        for name, parameter in module._parameters.items():
            if parameter is not table.weight:
                continue
            if name != "weight" or not is_plain_linear(module):
                raise ModuleError(
                    f"embedding {table.path!r} cannot be compressed: it shares its weight with "
                    f"{f'{path}.{name}'.lstrip('.')!r}, which is neither an embedding nor a plain "
                    "nn.Linear"
                )
            tied[path] = module
    return tied


def is_plain_linear(module: nn.Module) -> TypeGuard[nn.Linear]:
    return (
        isinstance(module, nn.Linear)
        and type(module).forward is nn.Linear.forward
        and "forward" not in vars(module)
        and not any(getattr(module, name) for name in HOOKS)
    )
