"""Calls that PyTorch records or transforms instead of running them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import nn
from torch.fx import Proxy

from saec.errors import ModuleError

__all__ = ["leaf", "recorded", "refuse_onnx", "refuse_scripting", "transformed"]

_NOT_IN_ONNX = (
    "torch.onnx.export does not know compressed tables: call saec.torch.decode_embeddings_ on a "
    "copy of the model and export that, then compress the file by saec.onnx.compress"
)
_NOT_SCRIPTED = (
    "torch.jit.script does not know compressed tables: use torch.export or torch.jit.trace, or "
    "call saec.torch.decode_embeddings_ before"
)


def recorded() -> bool:
    """Whether any part of PyTorch records or transforms the operations of this call.

    Values computed outside of PyTorch's operators would then become constants. This happens in
    ``torch.compile`` and ``torch.export``, ``torch.jit.trace``, ``make_fx`` and other dispatch
    modes, and in the transforms of ``torch.func``.

    Raises:
        ModuleError: the call is recorded for ONNX, which has no operator for compressed tables.
    """
    if torch.compiler.is_compiling():
        return True
    refuse_onnx()
    return bool(
        torch._C._get_tracing_state() or torch._C._len_torch_dispatch_stack() or transformed()
    )


def refuse_onnx() -> None:
    """Reject recording for ONNX.

    Raises:
        ModuleError: PyTorch is recording for ONNX.
    """
    if torch.onnx.is_in_onnx_export():
        raise ModuleError(_NOT_IN_ONNX)


def transformed() -> bool:
    """Whether a transform of ``torch.func`` is active, and no graph is recorded."""
    compiling = torch.compiler.is_compiling()
    return not compiling and bool(torch._C._are_functorch_transforms_active())


def leaf(module: nn.Module, arguments: Sequence[Any]) -> Any:
    """The call of ``module`` as one node of a graph, if FX traces it; None if it does not.

    Raises:
        ModuleError: the module itself is traced, so the node would stand for all of it.
    """
    proxies = [value for value in arguments if isinstance(value, Proxy)]
    if not proxies:
        return None
    tracer: Any = proxies[0].tracer
    if tracer.root is module:
        raise ModuleError(
            f"a {type(module).__name__} is a leaf of FX graphs, and cannot be their root: trace a "
            "module that contains it"
        )
    return tracer.create_proxy("call_module", tracer.path_of_module(module), tuple(arguments), {})


def refuse_scripting() -> NoReturn:
    """Raise the error for ``torch.jit.script``.

    Raises:
        ModuleError: always.
    """
    raise ModuleError(_NOT_SCRIPTED)
