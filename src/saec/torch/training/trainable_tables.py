"""Tables of a model that can be trained with a price on their bits."""

from __future__ import annotations

from collections.abc import Mapping

from numpy.typing import ArrayLike
from torch import nn

from saec.errors import ModuleError
from saec.tables.field import Field
from saec.torch.model.find_tables import Ranges, fields_of, named_tables
from saec.torch.model.model_table import ModelTable

__all__ = ["trainable_tables"]


def trainable_tables(
    model: nn.Module, frequencies: Mapping[str, ArrayLike], ranges: Ranges | None
) -> tuple[list[ModelTable], dict[str, Field]]:
    """The tables of the fields in ``frequencies``, and the fields by name.

    Raises:
        ModuleError: a table is frozen, or shares its weight with an output layer; or see
            :func:`saec.torch.fields`.
        FieldError: frequencies do not fit their table, or are invalid.
    """
    tables = named_tables(model, set(frequencies), ranges or {})
    if not tables:
        raise ModuleError("no tables to put a price on: frequencies name none")
    for table in tables:
        if table.tied:
            raise ModuleError(
                f"embedding {table.path!r} cannot have a price on bits: {next(iter(table.tied))!r} "
                "has the same weight and would read its rows without noise"
            )
        if not table.weight.requires_grad:
            raise ModuleError(
                f"embedding {table.path!r} is frozen: call requires_grad_() on its weight, or "
                "leave its name out of frequencies"
            )
    return tables, {field.name: field for field in fields_of(tables, frequencies)}
