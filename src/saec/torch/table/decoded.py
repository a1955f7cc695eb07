"""The decoded weight of a compressed module. It is a copy, so writes to it raise an error."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from saec.errors import ModuleError

__all__ = ["DecodedWeight"]

# Names with the suffix of functions that write, which do not write.
_HARMLESS = {"requires_grad_", "detach_", "rename_"}


class DecodedWeight(Tensor):
    """Decoded rows. Results of computations with them are plain tensors; views of them are again of
    this class, so that writes to a view are also rejected.

    Raises:
        ModuleError: by any write to it.
    """

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        written = [*_written(func, [*args, *options.values()]), *_tensors(options.get("out"))]
        if any(isinstance(tensor, DecodedWeight) for tensor in written):
            raise ModuleError(
                f"{_name(func)} would write to a copy: the weight of a compressed module is "
                "decoded anew by each access; change the parameters of module.table, or return to "
                "plain modules by saec.torch.decode_embeddings_ before"
            )
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **options)
        if func in (Tensor.numpy, Tensor.__array__):
            result.flags.writeable = False
            return result
        return _views(result, {_storage(tensor) for tensor in _tensors([args, options])})

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        return copy.deepcopy(self.as_subclass(Tensor), memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        # Saved as a plain tensor.
        plain: Any = self.as_subclass(Tensor)
        return plain.__reduce_ex__(protocol)


def _name(func: Callable[..., Any]) -> str:
    """Name of a function; for an attribute's setter the attribute's name, with an equals sign."""
    name = str(getattr(func, "__name__", func))
    if name == "__set__":
        return f"{getattr(getattr(func, '__self__', None), '__name__', '')} ="
    return name


def _written(func: Callable[..., Any], args: Sequence[Any]) -> Iterator[Tensor]:
    """The arguments that ``func`` writes to."""
    name = _name(func)
    in_place = name.endswith("_") and not name.endswith("__") and name not in _HARMLESS
    if in_place or name in ("__setitem__", "data ="):
        yield from _tensors(args[:1])


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)


def _storage(tensor: Tensor) -> int:
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.untyped_storage().data_ptr() if tensor.layout == torch.strided else 0


def _views(result: Any, storages: set[int]) -> Any:
    """``result`` with tensors in these storages converted to the class."""
    if type(result) is Tensor and result.layout == torch.strided:
        shared = result.numel() > 0 and _storage(result) in storages
        return result.as_subclass(DecodedWeight) if shared else result
    if type(result) in (list, tuple):
        return type(result)(_views(part, storages) for part in result)
    return result
