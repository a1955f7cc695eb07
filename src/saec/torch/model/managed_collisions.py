"""Map from raw ids to rows in TorchRec's managed collisions, read without importing TorchRec.

A managed-collision collection maps raw ids to rows by a sorted tensor of ids, and looks these rows
up in an ordinary collection. If the lookups of all its tables take keys, raw ids are passed to it
unchanged, and the map is not needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from saec.errors import ModuleError
from saec.torch.model.table_keys import TableKeys

__all__ = ["RawIdCollection", "managed_keys", "raw_id_collections"]

_COLLECTION = "BaseManagedCollisionEmbeddingCollection"
_TABLES = ("embedding_bags", "embeddings")
_FREE = torch.iinfo(torch.int64).max  # replaces the raw id of a row without one


def managed_keys(model: nn.Module) -> dict[str, TableKeys]:
    """Read the raw ids of all tables that have a managed-collision module of TorchRec.

    The result can be the ``keys`` of :func:`saec.torch.compress_` and :func:`saec.torch.fields`.
    The row of ids that the module does not know is ``unseen``.

    Returns:
        By field, named as in :func:`saec.torch.fields`; (n,) int64 keys.

    Raises:
        ModuleError: a module is of another kind than ``MCHManagedCollisionModule``, or hashes ids
            before it searches for them.
    """
    found = {}
    for path, managed in _collections(model):
        modules = managed._managed_collision_collection._managed_collision_modules
        for place, _ in _tables(managed):
            name = ".".join(filter(None, (path, "_embedding_module", place)))
            found[name] = _keys(name, modules[place.rpartition(".")[2]])
    return found


class RawIdCollection(nn.Module):
    """Replaces a managed-collision collection whose tables take keys."""

    def __init__(self, embedding_module: nn.Module) -> None:
        super().__init__()
        self._embedding_module = embedding_module

    def forward(self, features: Any, mutate_miss_lengths: bool = True) -> tuple[Any, None]:
        """The collection's result for ``features``, a KeyedJaggedTensor of raw ids.

        ``mutate_miss_lengths`` is ignored. Remapped features are not returned.
        """
        return self._embedding_module(features), None


def raw_id_collections(model: nn.Module, keyed: set[nn.Module]) -> dict[nn.Module, RawIdCollection]:
    """The replacement of each managed-collision collection that has a table in ``keyed``.

    Raises:
        ModuleError: other tables of the collection have no keys, it returns remapped features, or
            it is the model itself.
    """
    result = {}
    for path, managed in _collections(model):
        tables = dict(_tables(managed))
        others = [place for place, table in tables.items() if table not in keyed]
        if len(others) == len(tables):
            continue
        reasons = {
            f"table {others[0]!r} of it keeps its ids" if others else "": bool(others),
            "it returns remapped features": managed._return_remapped_features,
            "it is the model itself: wrap it in another module": path == "",
        }
        for reason, holds in reasons.items():
            if holds:
                raise ModuleError(f"{_COLLECTION} {path!r} cannot take raw ids: {reason}")
        result[managed] = RawIdCollection(managed._embedding_module).train(managed.training)
    return result


def _collections(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """The managed-collision collections of a model, with their paths."""
    for path, module in model.named_modules():
        if _COLLECTION in (base.__name__ for base in type(module).__mro__ if _of_torchrec(base)):
            yield path, module


def _of_torchrec(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "torchrec"


def _tables(collection: Any) -> Iterator[tuple[str, nn.Module]]:
    """The collection's embedding modules by their paths in it."""
    inner: nn.Module = collection._embedding_module
    for kind in _TABLES:
        for name, module in getattr(inner, kind, nn.ModuleDict()).items():
            yield f"{kind}.{name}", module


def _keys(name: str, module: Any) -> TableKeys:
    if "MCHManagedCollisionModule" not in (base.__name__ for base in type(module).__mro__):
        raise ModuleError(
            f"table {name!r} has a {type(module).__name__}; raw ids are read from "
            "MCHManagedCollisionModule: give the keys of the others by saec.torch.TableKeys"
        )
    if module._input_hash_func is not None:
        raise ModuleError(
            f"table {name!r} has an input_hash_func: hash raw ids before they enter the model, and "
            "set it to None"
        )
    ids: Tensor = module._mch_sorted_raw_ids
    rows: Tensor = module._mch_remapped_ids_mapping - module._output_global_offset
    unseen = module._zch_size - 1  # result of _mch_remap for ids that it does not find
    used = (ids != _FREE) & (rows != unseen)
    return TableKeys(ids[used].cpu(), rows[used].cpu(), unseen)
