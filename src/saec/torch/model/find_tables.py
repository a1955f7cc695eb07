"""Find the embedding tables of any ``nn.Module``: named by module path, checked for support."""

from __future__ import annotations

import warnings
from collections.abc import Container, Iterable, Mapping
from dataclasses import replace
from types import MethodType
from typing import Any

import ml_dtypes
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from saec.errors import ModuleError, ModuleWarning
from saec.tables.field import Field
from saec.torch.model.model_table import ModelTable, RowRange
from saec.torch.model.overlooked import EmbeddingModule, about, explained, held_elsewhere
from saec.torch.model.table_keys import KeysByField, as_table_keys, keyed_table
from saec.torch.model.torchrec import check_collections
from saec.torch.model.weights import HOOKS, odd_weight, tied
from saec.torch.model.wrappers import check_unwrapped

__all__ = [
    "EmbeddingModule",
    "Ranges",
    "check_known",
    "fields",
    "fields_of",
    "find_modules",
    "named_tables",
    "only",
]

Ranges = Mapping[str, Mapping[str, tuple[int, int]]]

_FORWARDS = (nn.Embedding.forward, nn.EmbeddingBag.forward)


def fields(
    model: nn.Module,
    frequencies: Mapping[str, ArrayLike],
    ranges: Ranges | None = None,
    *,
    keys: KeysByField | None = None,
) -> list[Field]:
    """Read the embedding tables named in ``frequencies`` from ``model``; others are ignored.

    A table is named by the path of its module, such as ``embeddings.user``. A module with two
    paths, or a weight that two embedding modules share, is one table, named by
    its first path. The same holds for a weight of an embedding and an ``nn.Linear``, as in
    sequential models that score all items by their embeddings.

    Args:
        model: any module that holds ``nn.Embedding`` or ``nn.EmbeddingBag`` modules.
        frequencies: (vocab_size,) counts in the training log by field name; see
            :class:`saec.Field`.
        ranges: joint tables; ``{"embedding": {"user": (0, 6041), "movie": (6041, 9747)}}``
            means: rows 0..6040 of the module ``embedding`` are the field ``user``. The ranges of a
            table cover it without gap or overlap, and all of its fields have frequencies.
        keys: keys of the rows of some fields, whose lookups then take keys: (vocab_size,) integers
            or strings, or :class:`saec.torch.TableKeys`.

    Returns:
        The fields in the order of the model's modules. On a CPU their weights share memory with
        the model (bfloat16 as ``ml_dtypes.bfloat16``), so compress before training continues.

    Raises:
        ModuleError: a name does not belong to an embedding; ranges do not fit; or a module has a
            property that compressed tables do not support: ``max_norm``, ``scale_grad_by_freq``, a
            weight shared with a module that is neither an embedding nor an ``nn.Linear``, its own
            ``forward``, hooks or parametrisation, or an unregistered place in the model, such as a
            list; a weight is sparse, quantised, sharded or of fewer than 16 bits; a TorchRec
            collection is sharded or fused; or the model is in a wrapper, such as
            DistributedDataParallel, or compiled.
        FieldError: weights or frequencies cannot be used.
    """
    return fields_of(named_tables(model, set(frequencies), ranges or {}), frequencies, keys)


def fields_of(
    tables: Iterable[ModelTable],
    frequencies: Mapping[str, ArrayLike],
    keys: KeysByField | None = None,
) -> list[Field]:
    """The fields of ``tables``, in their order; see :func:`fields`."""
    tables, own = list(tables), as_table_keys(keys)
    _check_keys(own, tables)
    return [
        keyed_table(part.name, weights[part.first : part.last], counts, own[part.name])
        if part.name in own
        else Field(part.name, weights[part.first : part.last], counts)
        for table in tables
        for weights in [_as_array(table.weight)]
        for part in table.parts
        for counts in [np.asanyarray(frequencies[part.name])]
    ]


def _check_keys(keys: Mapping[str, object], tables: Iterable[ModelTable]) -> None:
    alone = {table.path: table for table in tables if len(table.parts) == 1}
    whole = {table.parts[0].name: table for table in alone.values()}
    for name in keys:
        if name not in whole:
            raise ModuleError(
                f"keys are given for {name!r}, which is no table that is compressed by itself; "
                f"there are: {', '.join(map(repr, whole)) or 'none'}"
            )
        if whole[name].tied:
            raise ModuleError(
                f"keys are given for {name!r}, whose weight {next(iter(whole[name].tied))!r} has, "
                "too: it needs all rows, and a table with keys cannot list them"
            )


def named_tables(
    model: nn.Module, names: set[str] | None, ranges: Ranges, *, readable: bool = True
) -> list[ModelTable]:
    """The tables of the fields ``names``, or all, after a check that they can be replaced.

    readable: whether weights will be read; otherwise they may be on the meta device.

    Raises:
        ModuleError: see :func:`fields`.
    """
    check_unwrapped(model)
    check_collections(model, names)
    found, aliases = find_modules(model)
    for path in ranges:
        check_known(path, found, aliases, "table", model)
    tables = [_table(modules, ranges.get(path)) for path, modules in found.items()]
    owners: dict[str, ModelTable] = {}
    for table in tables:
        for part in table.parts:
            if part.name in owners:
                raise ModuleError(
                    f"{owners[part.name].path!r} and {table.path!r} both have a field named "
                    f"{part.name!r}; give one of them another name in ranges"
                )
            owners[part.name] = table
    if names is None:
        names = set(owners)
    for name in sorted(names):
        check_known(name, owners, aliases, "field", model)
    chosen = [table for table in tables if any(part.name in names for part in table.parts)]
    _check_held_once(model, chosen)
    for table in chosen:
        _check_complete(table, names)
        _check_modules(table)
        if readable and table.weight.is_meta:
            raise ModuleError(
                f"embedding {table.path!r} cannot be compressed: it has no data, its weight is on "
                "the meta device; load the weights first (saec.torch.replace_embeddings_ alone "
                "works without them)"
            )
    return [replace(table, tied=tied(model, table)) for table in chosen]


def only(tables: Iterable[ModelTable], names: Container[str]) -> list[ModelTable]:
    """Those of ``tables`` whose fields are among ``names``, all or none of each table."""
    return [table for table in tables if table.parts[0].name in names]


def find_modules(model: nn.Module) -> tuple[dict[str, dict[str, EmbeddingModule]], dict[str, str]]:
    """Embedding modules by path, grouped by weight under their first path; and the other paths."""
    groups: dict[int, str] = {}
    found: dict[str, dict[str, EmbeddingModule]] = {}
    aliases: dict[str, str] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        if not isinstance(module, nn.Embedding | nn.EmbeddingBag):
            continue
        if path == "":
            raise ModuleError("the model is itself an embedding; wrap it in a module that names it")
        weight = module._parameters.get("weight")
        first = groups.setdefault(id(module if weight is None else weight), path)
        modules = found.setdefault(first, {})
        if module not in modules.values():
            modules[path] = module
        if path != first:
            aliases[path] = first
    return found, aliases


def check_known(
    name: str,
    known: Mapping[str, object],
    aliases: Mapping[str, str],
    kind: str,
    model: nn.Module,
) -> None:
    """Raise ModuleError for a ``name`` that is not known; lists the known ones."""
    if name in known:
        return
    if name in aliases:
        raise ModuleError(f"{name!r} is the same table as {aliases[name]!r}; use that name")
    listed = ", ".join(map(repr, known)) + about(model, name)
    raise ModuleError(
        f"no embedding {kind} is named {name!r}; there are: "
        f"{listed if known else f'none; {explained(model)}'}"
    )


def _table(modules: dict[str, EmbeddingModule], spec: Mapping[str, Any] | None) -> ModelTable:
    path, module = next(iter(modules.items()))
    rows = module.num_embeddings
    if spec is None:
        return ModelTable(modules, (RowRange(path, 0, rows),))
    parts = sorted(
        (RowRange(name, *span) for name, span in spec.items()),
        key=lambda part: (part.first, part.last),
    )
    for part in parts:
        if not 0 <= part.first < part.last <= rows:
            raise ModuleError(
                f"ranges of {path!r}: {part.name!r} is ({part.first}, {part.last}), which is no "
                f"range of rows in [0, {rows})"
            )
    end, previous = 0, ""
    for part in [*parts, RowRange("", rows, rows)]:
        if part.first > end:
            raise ModuleError(f"ranges of {path!r} leave out rows {end}..{part.first - 1}")
        if part.first < end and part.name:
            raise ModuleError(
                f"ranges of {path!r}: {previous!r} and {part.name!r} overlap in rows "
                f"{part.first}..{min(end, part.last) - 1}"
            )
        end, previous = part.last, part.name
    return ModelTable(modules, tuple(parts))


def _check_complete(table: ModelTable, names: set[str]) -> None:
    missing = [repr(part.name) for part in table.parts if part.name not in names]
    if missing:
        raise ModuleError(
            f"the joint table {table.path!r} is compressed as a whole, but these of its fields "
            f"were not given: {', '.join(missing)}"
        )


def _check_held_once(model: nn.Module, tables: Iterable[ModelTable]) -> None:
    paths = {module: path for table in tables for path, module in table.modules.items()}
    for module, place, held in held_elsewhere(model, paths):
        if isinstance(held, Tensor):  # for example in a list of regularised modules
            warnings.warn(
                f"the model keeps the weight of {paths[module]!r} in {place!r} as well: its "
                f"{held.nbytes:,} bytes stay in memory there, uncompressed",
                ModuleWarning,
                stacklevel=3,
            )
            continue
        how = f"its method {held.__name__!r}" if isinstance(held, MethodType) else "it"
        raise ModuleError(
            f"embedding {paths[module]!r} cannot be compressed: the model keeps {how} in "
            f"{place!r}, an attribute that PyTorch does not register, and would go on with the "
            "plain table there: call the module by its name, or keep modules in an nn.ModuleList"
        )


def _check_modules(table: ModelTable) -> None:
    for path, module in table.modules.items():
        reasons = {
            "max_norm, which renormalises the table during lookups": module.max_norm is not None,
            "scale_grad_by_freq, which has no meaning once features share centroids": (
                module.scale_grad_by_freq
            ),
            "a parametrised weight": module._parameters.get("weight") is None,
            "a forward of its own": (
                type(module).forward not in _FORWARDS or "forward" in vars(module)
            ),
            "hooks, which would be lost (finish() of a saec.torch.BitPrice removes its own)": any(
                getattr(module, name) for name in HOOKS
            ),
            odd_weight(module.weight): odd_weight(module.weight) != "",
        }
        for reason, holds in reasons.items():
            if holds:
                raise ModuleError(f"embedding {path!r} cannot be compressed: it has {reason}")


def _as_array(weight: torch.Tensor) -> NDArray[Any]:
    tensor = weight.detach().cpu()
    if tensor.dtype == torch.bfloat16:  # not known to numpy itself
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    array: NDArray[Any] = tensor.numpy()
    return array
