"""Fields whose tables have another name in the model than in a compressed result."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from saec.errors import ModuleError
from saec.sources.naming import bare_name
from saec.torch.model.find_tables import Ranges, check_known, find_modules

__all__ = ["renamed"]


def renamed(model: nn.Module, fields: set[str], ranges: Ranges, names: Mapping[str, str]) -> Ranges:
    """``ranges``, and whole tables of ``fields`` that have other names in the model.

    Other names are those in ``names``, and those that differ only by the names of wrappers.

    Raises:
        ModuleError: ``names`` contains an unknown field or table.
    """
    found, aliases = find_modules(model)
    for field, path in names.items():
        check_known(path, found, aliases, "table", model)
        if field not in fields:
            listed = ", ".join(map(repr, sorted(fields)))
            raise ModuleError(f"names has {field!r}, which is no field; there are: {listed}")
    split = {name for spans in ranges.values() for name in spans}
    others = dict(names)
    for field in fields - set(found) - split - set(names):
        paths = [path for path in found if bare_name(path) == bare_name(field)]
        if len(paths) == 1:
            others[field] = paths[0]
    rows = {path: next(iter(modules.values())).num_embeddings for path, modules in found.items()}
    return {**ranges, **{path: {field: (0, rows[path])} for field, path in others.items()}}
