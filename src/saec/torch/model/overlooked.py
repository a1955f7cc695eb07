"""Tables that compression does not reach, so that messages can name them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from saec.torch.model.modules import CompressedEmbedding, CompressedEmbeddingBag
from saec.torch.table.base import CompressedTable

__all__ = [
    "EmbeddingModule",
    "Overlooked",
    "about",
    "explained",
    "held_elsewhere",
    "model_bytes",
    "overlooked",
    "watching",
]

EmbeddingModule = nn.Embedding | nn.EmbeddingBag

_COMPRESSED = CompressedEmbedding | CompressedEmbeddingBag
_OWN = frozenset(vars(nn.Module()))  # attributes of any module, among them those that register
_MOST = 5  # names in a message
_NESTED = 3  # depth of nested containers that are searched

_UNREGISTERED = (
    "an attribute that PyTorch does not register; keep modules as attributes, or in an "
    "nn.ModuleList or nn.ModuleDict"
)
_ALREADY = "compressed already; saec.torch.decode_embeddings_ makes it plain again"
_QUANTISED = "a quantised module; compress the float model that it was made from"
_PARAMETER = (
    "a parameter of no embedding module; look rows up by nn.Embedding.from_pretrained(table, "
    "freeze=False)"
)
_BUFFER = "a buffer; look rows up by nn.Embedding.from_pretrained(table)"


@dataclass(frozen=True)
class Overlooked:
    """A table by name, its bytes, and the reason why it is not compressed."""

    name: str
    nbytes: int
    reason: str

    def __str__(self) -> str:
        return f"{self.name!r} ({self.nbytes:,} bytes) is {self.reason}"


def overlooked(model: nn.Module) -> list[Overlooked]:
    """Tables in attributes that PyTorch does not register, and in quantised modules."""
    known = set(model.modules())
    found: dict[object, Overlooked] = {}
    for name, held in _stored(model):
        if isinstance(held, EmbeddingModule) and held not in known:
            size = held.weight.nbytes
            found.setdefault(held, Overlooked(name, size, f"in {_UNREGISTERED}"))
    for name, module in model.named_modules():
        if _is_quantised(module):
            size = sum(value.nbytes for value in _packed(module))
            found.setdefault(module, Overlooked(name, size, _QUANTISED))
    return list(found.values())


def model_bytes(model: nn.Module) -> int:
    """Bytes of all parameters, buffers and overlooked tables, each counted once."""
    tensors = {id(value): value.nbytes for value in (*model.parameters(), *model.buffers())}
    return sum(tensors.values()) + sum(table.nbytes for table in overlooked(model))


def held_elsewhere(
    model: nn.Module, modules: Iterable[EmbeddingModule]
) -> Iterator[tuple[EmbeddingModule, str, nn.Module | Tensor | MethodType]]:
    """References to embedding modules outside of registered modules, with their places and the kind
    of reference: the module, its weight or a method of it.

    After a module was replaced, such an attribute would still refer to the plain one.
    """
    owners: dict[object, EmbeddingModule] = {module: module for module in modules}
    owners |= {module.weight: module for module in modules}
    for place, held in _stored(model):
        owner = held.__self__ if isinstance(held, MethodType) else held
        if isinstance(owner, nn.Module | Tensor) and owner in owners:
            yield owners[owner], place, held


def explained(model: nn.Module) -> str:
    """A suffix of messages that lists the model's other modules, in place of embedding modules."""
    found = list(map(str, _others(model)))
    more = f"; and {len(found) - _MOST} more" if len(found) > _MOST else ""
    return "; ".join(found[:_MOST]) + more or "it holds no nn.Embedding or nn.EmbeddingBag"


def _others(model: nn.Module) -> Iterator[Overlooked]:
    """Tensors that are or may be tables, and are in no embedding module."""
    for name, module in model.named_modules():
        if isinstance(module, _COMPRESSED):
            table = module.table
            stored = sum(tensor.nbytes for tensor in table.state_dict().values())
            yield Overlooked(name, stored, _ALREADY)
    yield from overlooked(model)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and not _of_pytorch(model, name):
            yield Overlooked(name, parameter.nbytes, _PARAMETER)


def about(model: nn.Module, name: str) -> str:
    """A suffix of messages on a ``name`` that does not belong to an embedding module."""
    return "".join(f"; {other}" for other in _others(model) if other.name == name)


@contextmanager
def watching(model: nn.Module) -> Iterator[list[Overlooked]]:
    """Fill a list with the tables outside of modules that the model's first call looks up."""
    known = {id(module.weight) for module in model.modules() if _has_rows(module)}
    known |= {id(held.weight) for _, held in _stored(model) if _has_rows(held)}
    watch = _Watch(known, _tensors(model))
    handles = [
        model.register_forward_pre_hook(watch.start, prepend=True),
        model.register_forward_hook(watch.stop, always_call=True),
    ]
    try:
        yield watch.found
    finally:
        for handle in handles:
            handle.remove()


# Positions and names of the arguments table and ids.
_LOOKUPS: Mapping[Any, tuple[tuple[int, str], tuple[int, str]]] = {
    functional.embedding: ((1, "weight"), (0, "input")),
    functional.embedding_bag: ((1, "weight"), (0, "input")),
    torch.embedding: ((0, "weight"), (1, "indices")),
    Tensor.__getitem__: ((0, ""), (1, "")),
    torch.index_select: ((0, "input"), (2, "index")),
    Tensor.index_select: ((0, ""), (2, "index")),
    torch.gather: ((0, "input"), (2, "index")),
    Tensor.gather: ((0, ""), (2, "index")),
    torch.take_along_dim: ((0, "input"), (1, "indices")),
    Tensor.take_along_dim: ((0, ""), (1, "indices")),
}


def _tensors(model: nn.Module) -> dict[int, Overlooked]:
    """By its id, each parameter, and each buffer outside of PyTorch's layers and compressed
    tables."""
    found = {id(t): Overlooked(name, t.nbytes, _PARAMETER) for name, t in model.named_parameters()}
    for name, tensor in model.named_buffers():
        if not _of_pytorch(model, name):
            found[id(tensor)] = Overlooked(name, tensor.nbytes, _BUFFER)
    return found


class _Watch(TorchFunctionMode):
    """Detects lookups in parameters and buffers, and views of them, other than the ``known`` ones.

    known: tensors by their ids.
    tensors: of the model, by their ids.
    """

    def __init__(self, known: set[int], tensors: Mapping[int, Overlooked]) -> None:
        super().__init__()
        self.found: list[Overlooked] = []
        self._known, self._tensors = known, tensors
        self._active = self._done = False

    def start(self, *_: Any) -> None:
        """Start before a call of the model."""
        if not self._done:
            self._done = self._active = True
            self.__enter__()  # type: ignore[no-untyped-call]

    def stop(self, *_: Any) -> None:
        """Stop after it, also if it failed."""
        if self._active:
            self._active = False
            self.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        named = kwargs or {}
        if (places := _LOOKUPS.get(func)) is not None:
            table, ids = (
                args[place] if place < len(args) else named.get(name) for place, name in places
            )
            self._see(table, ids)
        return func(*args, **named)

    def _see(self, table: Any, ids: Any) -> None:
        if not isinstance(table, Tensor) or table.ndim < 2 or not table.is_floating_point():
            return
        whole = table if table._base is None else table._base
        if id(whole) not in self._known and _are_ids(ids):
            table_of_model = self._tensors.get(id(whole))
            if table_of_model is not None:
                self._known.add(id(whole))
                self.found.append(table_of_model)


def _are_ids(index: Any) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(p, Tensor) and p.dtype in (torch.int32, torch.int64) for p in parts)


def _stored(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Modules, methods and tensors in unregistered attributes, with their names."""
    registered = set(model.modules())
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if name not in _OWN:
                place = f"{path}.{name}".lstrip(".")
                yield from _held(place, value, module, registered, _NESTED)


def _held(
    place: str, value: Any, owner: nn.Module, registered: set[nn.Module], depth: int
) -> Iterator[tuple[str, Any]]:
    if isinstance(value, partial):
        value = value.func
    if isinstance(value, MethodType):
        if value.__self__ is not owner:
            yield place, value
    elif isinstance(value, nn.Module):
        # Content of another registered module is reported for that module.
        inside = [("", value)] if value in registered else value.named_modules()
        for path, module in inside:
            yield f"{place}.{path}".rstrip("."), module
    elif isinstance(value, Tensor):
        yield place, value
    elif isinstance(value, list | tuple | set | Mapping) and depth:
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in items:
            yield from _held(f"{place}[{key!r}]", item, owner, registered, depth - 1)


def _has_rows(module: Any) -> bool:
    return isinstance(module, EmbeddingModule)


def _is_quantised(module: nn.Module) -> bool:
    kind = type(module)
    named = kind.__name__ in ("Embedding", "EmbeddingBag")
    return named and kind.__module__.startswith("torch.ao.nn.quantized.")


def _packed(module: nn.Module) -> list[Tensor]:
    weight = getattr(module, "weight", None)
    found = weight() if callable(weight) else weight
    return [found] if isinstance(found, Tensor) else []


def _of_pytorch(model: nn.Module, name: str) -> bool:
    """Whether a parameter belongs to a layer of PyTorch's or to a compressed table."""
    owner = model.get_submodule(name.rpartition(".")[0])
    return type(owner).__module__.startswith("torch.") or isinstance(owner, CompressedTable)
