"""Give a model the tables of another day without replacing its modules."""

from __future__ import annotations

import os
from collections.abc import Collection

import torch
from torch import nn

from saec.errors import ModuleError
from saec.format.compressed import Compressed
from saec.format.compressed_field import CompressedField
from saec.format.keyed_field import KeyedField
from saec.format.patched import Patched, with_patches
from saec.format.raw_field import RawField
from saec.torch.model.keyed_modules import KeyedModule
from saec.torch.model.modules import CompressedEmbedding, CompressedEmbeddingBag, CompressedLinear
from saec.torch.model.wrappers import check_unsharded
from saec.torch.table.base import CompressedTable
from saec.torch.table.joint import compressed_table
from saec.torch.table.keyed import KeyedTable

__all__ = ["apply_patch_", "put_tables_"]

_TableModule = CompressedEmbedding | CompressedEmbeddingBag | CompressedLinear | KeyedModule


def apply_patch_(model: nn.Module, result: Compressed, patch: str | os.PathLike[str]) -> Compressed:
    """Bring the tables of a model to the next day.

    Modules stay what they are, and get new tables; tables that the patch does not change stay, too.
    A compiled model is compiled again at its next call. A lookup that another thread makes
    meanwhile may see some tables of each day. After an error the model is unchanged.

    Args:
        model: a model, or a single module, whose tables are those of ``result``.
        result: the artifact whose rows the model has now, with its patches, if it has some.
        patch: a file written by :func:`saec.update` that follows ``result``.

    Returns:
        The artifact with the patch, for the next call. ``put_tables_(model, result)`` goes back.

    Raises:
        ArtifactError: the patch is missing, damaged or hostile.
        PatchError: it belongs to another artifact, is out of order, or was applied already.
        ModuleError: as :func:`put_tables_`, for the fields that the patch changes.
    """
    after = with_patches(result, [patch])
    assert isinstance(after, Patched), "it has a patch"
    _put(model, after, set(after.patches[-1].fields))
    return after


def put_tables_(model: nn.Module, result: Compressed) -> None:
    """Give the compressed modules of a model the tables of another state of its artifact.

    Training flag, device, dtype, ``requires_grad`` and rows at ``padding_idx`` are kept. Parameters
    change, so create optimizers afterwards.

    Args:
        model: holds tables of fields of ``result``, put there by :func:`replace_embeddings_`.
        result: the artifact, with patches or without.

    Raises:
        ModuleError: the model has no compressed module of any field, or not of one that the result
            holds uncompressed; a field differs in dim or in whether it has keys; other ids of a
            table would change because a field in it has another number of rows; or the model is
            sharded by FSDP. The model is then unchanged.
    """
    _put(model, result, set(result))


def _put(model: nn.Module, result: Compressed, names: Collection[str]) -> None:
    check_unsharded(model)
    modules = [module for module in model.modules() if isinstance(module, _TableModule)]
    tables = {module.table: None for module in modules if set(module.table.names) & set(names)}
    held = {name for table in tables for name in table.names}
    missing = sorted(set(names) - held)
    # A model need not have all fields; but uncompressed ones are in plain modules, and would stay.
    plain = [name for name in missing if isinstance(result[name], RawField)]
    if missing and (not held or (plain and not isinstance(model, _TableModule))):
        raise ModuleError(
            f"the model has no compressed module of field {[*plain, *missing][0]!r}, so its rows "
            "cannot be changed"
        )
    new = {table: _table_of(table, result) for table in tables}
    for module in modules:
        if module.table in new:
            _check_bias(module, new[module.table])
    for module in modules:
        if module.table in new:
            _set_table(module, new[module.table])


def _table_of(table: CompressedTable, result: Compressed) -> CompressedTable:
    """The table with the rows of ``result``."""
    fields = [result[name] for name in table.names]
    for field in fields:
        _check_kind(table, field)
    rows = tuple(field.vocab_size for field in fields)
    if len(fields) > 1 and rows != table.row_counts:
        raise ModuleError(
            f"fields {', '.join(table.names)} of one table have {_listed(table.row_counts)} rows, "
            f"and in the result {_listed(rows)}: ids would change"
        )
    with torch.no_grad():
        exact = table.rows(torch.tensor(table.pads, device=table.layout.device), None)
    pads = dict(zip(table.pads, exact, strict=True))
    like = table.sample.detach()
    if isinstance(table, KeyedTable):
        assert isinstance(fields[0], KeyedField), "this was checked"
        return KeyedTable(fields[0], pads, like).train(table.training)
    new = compressed_table(fields, pads, like)
    new.requires_grad_(any(own.requires_grad for own in table.parameters()))
    return new.train(table.training)


def _listed(numbers: Collection[int]) -> str:
    return ", ".join(map(str, numbers))


def _check_kind(table: CompressedTable, field: CompressedField) -> None:
    keyed = isinstance(table, KeyedTable)
    if keyed != isinstance(field, KeyedField) or field.dim != table.dim:
        raise ModuleError(
            f"field {field.name!r} has {'keys' if keyed else 'ids'} and dim {table.dim} in the "
            f"model, but {'ids' if keyed else 'keys'} or dim {field.dim} in the result"
        )


def _check_bias(module: _TableModule, table: CompressedTable) -> None:
    if not isinstance(module, CompressedLinear) or module.bias is None:
        return
    if len(module.bias) != table.vocab_size:
        raise ModuleError(
            f"the bias of a CompressedLinear has {len(module.bias)} values, and its table "
            f"{table.vocab_size} rows with the patch"
        )


def _set_table(module: _TableModule, table: CompressedTable) -> None:
    module.table = table
    if isinstance(module, CompressedLinear):
        module.out_features = table.vocab_size
    elif not isinstance(module, KeyedModule):
        module.num_embeddings = table.vocab_size
