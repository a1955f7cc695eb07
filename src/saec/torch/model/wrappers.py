"""Modules around a model that keep its parameters or code, recognised by the names of classes.

Such a wrapper refers to parts of the plain model: DistributedDataParallel to the parameters
whose gradients it exchanges, a compiled module to the code without hooks. If tables inside it are
replaced, it still refers to the old ones.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from saec.errors import ModuleError
from saec.torch.table.base import CompressedTable

__all__ = ["check_unsharded", "check_unwrapped"]

_DDP = (
    "exchanges the gradients of the parameters that it was made with, not those of compressed "
    "tables: pass its .module, in the same way on every rank, and wrap that anew afterwards"
)
_FSDP = (
    "holds shards of the tables: pass the plain model, with its full weights, in the same way on "
    "every rank, and shard it afterwards"
)
_SCRIPT = "keeps code of its own: pass the nn.Module that it was scripted or traced from"
_REASONS = {
    ("torch", "DistributedDataParallel"): _DDP,
    ("torch", "DataParallel"): "copies its module: pass its .module, and wrap that afterwards",
    ("torch", "FullyShardedDataParallel"): _FSDP,
    ("torch", "FSDPModule"): _FSDP,
    ("torch", "ScriptModule"): _SCRIPT,
    ("torch", "OptimizedModule"): (
        "is compiled, and compiled code calls no hooks and may keep the old tables: pass its "
        "._orig_mod, and call torch.compile afterwards"
    ),
}
_SHARDED = ("FullyShardedDataParallel", "FSDPModule")


def check_unwrapped(model: nn.Module) -> None:
    """Reject a model whose tables are in a wrapper; its other layers may be in one.

    Raises:
        ModuleError: in that case; the message names the module to pass instead.
    """
    for path, name in _wrappers(model):
        raise ModuleError(f"{_place(path)} is in {name}, which {_REASONS['torch', name]}")
    for path, module in model.named_modules():
        if getattr(module, "_compiled_call_impl", None) is not None and _holds_tables(module):
            raise ModuleError(
                f"{_place(path)} was compiled by its .compile(), and compiled code calls no hooks "
                "and may keep the old tables: pass a model that was not, and compile it afterwards"
            )


def check_unsharded(model: nn.Module) -> None:
    """Reject a model whose parameters are spread over processes.

    Raises:
        ModuleError: in that case; the message names the module to pass instead.
    """
    for path, name in _wrappers(model):
        if name in _SHARDED:
            raise ModuleError(f"{_place(path)} is in {name}, which {_FSDP}")


def _wrappers(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Path and name of the class of each wrapper around tables."""
    for path, module in model.named_modules():
        for base in type(module).__mro__:
            known = (base.__module__.partition(".")[0], base.__name__) in _REASONS
            if known and _holds_tables(module):
                yield path, base.__name__
                break


def _holds_tables(module: nn.Module) -> bool:
    """The name of a class, also of a scripted module, which keeps only the names of classes."""
    return any(
        isinstance(part, nn.Embedding | nn.EmbeddingBag | CompressedTable)
        or getattr(part, "original_name", None) in ("Embedding", "EmbeddingBag")
        for part in module.modules()
    )


def _place(path: str) -> str:
    return f"module {path!r}" if path else "the model"
