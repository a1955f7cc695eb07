"""Replace embedding modules by modules whose lookups take keys."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from saec.errors import ModuleError
from saec.format.keyed_field import KeyedField
from saec.torch.model.keyed_modules import keyed_module
from saec.torch.model.model_table import ModelTable
from saec.torch.model.table_keys import TableKeys, padding_key
from saec.torch.table.keyed import KeyedTable

__all__ = ["check_keyed", "keyed_modules"]


def check_keyed(table: ModelTable, field: KeyedField) -> None:
    """Reject a table that has further fields, or that is used as a whole.

    Raises:
        ModuleError: in these cases.
    """
    if len(table.parts) > 1 or table.tied:
        raise ModuleError(
            f"field {field.name!r} has keys, and cannot be a part of the table "
            f"{table.path!r}: its rows are not all of it, or a linear layer needs them all"
        )


def keyed_modules(
    table: ModelTable, field: KeyedField, keys: Mapping[str, TableKeys], weight: Tensor
) -> dict[nn.Module, nn.Module]:
    """The replacement of each of the table's modules; they share one :class:`KeyedTable`.

    weight: (rows, dim), of which only rows at ``padding_idx`` are read.

    Raises:
        ModuleError: a module has a ``padding_idx``, and the key of that row is not known.
    """
    rows = {module: module.padding_idx for module in table.modules.values()}
    own = {row: _padding_key(field, keys, row) for row in rows.values() if row is not None}
    asked = KeyedTable(field, {key: weight[row] for row, key in own.items()}, like=weight)
    return {
        module: keyed_module(module, asked, None if row is None else own[row])
        for module, row in rows.items()
    }


def _padding_key(field: KeyedField, keys: Mapping[str, TableKeys], row: int) -> int:
    if field.name not in keys:
        raise ModuleError(
            f"the module of field {field.name!r} has padding_idx={row}, and the field has keys: "
            "give its keys"
        )
    return padding_key(field, keys[field.name], row)
