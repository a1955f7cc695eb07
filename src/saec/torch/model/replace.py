"""Put compressed tables into a model, copy tuned codebooks back, and restore plain modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from saec.errors import ModuleError
from saec.format.compressed import Compressed
from saec.format.compressed_field import CompressedField
from saec.format.keyed_field import KeyedField
from saec.format.raw_field import RawField
from saec.torch.model.field_names import renamed
from saec.torch.model.find_tables import EmbeddingModule, Ranges, named_tables
from saec.torch.model.keyed_modules import KeyedModule
from saec.torch.model.managed_collisions import raw_id_collections
from saec.torch.model.model_table import ModelTable
from saec.torch.model.modules import CompressedEmbedding, CompressedEmbeddingBag, CompressedLinear
from saec.torch.model.replace_keyed import check_keyed, keyed_modules
from saec.torch.model.table_keys import KeysByField, TableKeys, as_table_keys
from saec.torch.model.wrappers import check_unsharded, check_unwrapped
from saec.torch.table.base import CompressedTable
from saec.torch.table.joint import compressed_table
from saec.torch.table.learned import LearnedTable

__all__ = [
    "decode_embeddings_",
    "is_raw",
    "replace_embeddings_",
    "replace_tables_",
    "sync_codebooks_",
]

_CompressedModule = CompressedEmbedding | CompressedEmbeddingBag | CompressedLinear


def replace_embeddings_(
    model: nn.Module,
    result: Compressed,
    ranges: Ranges | None = None,
    *,
    names: Mapping[str, str] | None = None,
    renumbered: bool = False,
    keys: KeysByField | None = None,
) -> nn.Module:
    """Replace embedding modules by the compressed tables that were made from them.

    Every occurrence of a module gets the same new one; modules that share a weight get modules
    that share one table; a linear layer that shares it becomes a :class:`CompressedLinear`.
    Training flag, device, dtype and ``requires_grad`` are kept. The row at ``padding_idx`` comes
    from the model, exact. A table that ``result`` holds uncompressed stays a plain module, with the
    rows of ``result``. Parameters change, so create optimizers afterwards.

    A model that was built on the meta device, ``with torch.device("meta")``, gets its tables on the
    CPU, and never holds the plain ones; rows at ``padding_idx`` are zeros, as in a new
    ``nn.Embedding``. Load its other parameters afterwards, with
    ``load_state_dict(..., assign=True)`` or after ``to_empty``. The latter does not change
    compressed tables, but empties a table that ``result`` holds uncompressed: load that one, too.

    Args:
        model: the model that was compressed, or a new one of the same architecture, on the meta
            device or not.
        result: compressed tables by the names that :func:`saec.torch.fields` gave them.
        ranges: the ranges that were given to :func:`saec.torch.fields`.
        names: by field of ``result``, the path of the model's embedding module, if the two have
            different names. Differences by the names of wrappers (``module.``, ``_orig_mod.``,
            ``_fsdp_wrapped_module.``) are ignored.
        renumbered: states that the model will be called with new ids, if compression renumbered
            features (a field is ``renumbered``, also after it was saved and loaded).
        keys: as for :func:`saec.torch.fields`; needed only for fields with keys whose module has a
            ``padding_idx``, to find the key of that row.

    The module of a field with keys becomes a :class:`KeyedEmbedding` or :class:`KeyedEmbeddingBag`.
    A managed-collision collection of TorchRec whose tables are all such passes raw ids on to
    them, and no longer maps them.

    Returns:
        ``model``.

    Raises:
        ModuleError: names, shapes or modules do not fit, or a field was renumbered and
            ``renumbered`` is false; the model is then unchanged.
        ArtifactError: a code lies beyond its codebook, or a tier index is inconsistent;
            the model is then unchanged.
    """
    ranges = renamed(model, set(result), ranges or {}, names or {})
    tables = named_tables(model, set(result), ranges, readable=False)
    replace_tables_(model, tables, result, renumbered=renumbered, keys=keys)
    return model


def replace_tables_(
    model: nn.Module,
    tables: Sequence[ModelTable],
    result: Compressed,
    *,
    renumbered: bool = False,
    keys: KeysByField | None = None,
) -> None:
    """Replace ``tables`` of the model by ``result``; see :func:`replace_embeddings_`."""
    for table in tables:
        _check_shapes(table, result)
    if not renumbered:
        _check_ids(result)
    raw = [table for table in tables if is_raw(table, result)]
    replacements: dict[nn.Module, nn.Module] = {}
    own = as_table_keys(keys)
    for table in tables:
        if table not in raw:
            replacements |= _compressed_modules(table, result, own)
    keyed = {old for old, new in replacements.items() if isinstance(new, KeyedModule)}
    replacements |= raw_id_collections(model, keyed)
    for table in raw:
        _restore(table, result)
    _swap(model, replacements)


def decode_embeddings_(model: nn.Module) -> nn.Module:
    """Turn compressed modules back into plain ones that hold the decoded tables.

    Options, training flag, device, dtype, ``requires_grad`` and sharing are those of the modules
    that :func:`replace_embeddings_` replaced. Returns ``model``.

    Raises:
        ModuleError: the model is itself a compressed module, is in a wrapper, such as
            DistributedDataParallel, or compiled; or a table has keys, which are not stored.
    """
    if isinstance(model, _CompressedModule):
        raise ModuleError("the model is itself a compressed module; wrap it in another module")
    check_unwrapped(model)
    weights: dict[CompressedTable, nn.Parameter] = {}
    replacements: dict[nn.Module, nn.Module] = {}
    for module in model.modules():
        if isinstance(module, KeyedModule):
            module.table.decode()  # raises an error for keyed tables
        if isinstance(module, _CompressedModule):
            if module.table not in weights:
                learns = any(value.requires_grad for value in module.table.parameters())
                weights[module.table] = nn.Parameter(module.decode(), requires_grad=learns)
            replacements[module] = _plain_module(module, weights[module.table])
    _swap(model, replacements)
    return model


def sync_codebooks_(model: nn.Module, result: Compressed) -> Compressed:
    """Copy the trained values of the model's tables into a result that can be saved.

    Codebooks, and values, axes and means, are rounded as ``result`` stores them, and the model's
    are set to the rounded ones: a float32 model and the saved artifact agree bit for bit. Rows at
    ``padding_idx`` stay in the model; an artifact does not hold them. Fields that ``result`` holds
    uncompressed, in a table of their own, are returned unchanged.

    Args:
        model: holds the tables of ``result``, put there by :func:`replace_embeddings_`.
        result: the result that was put there; it is not changed.

    Returns:
        The same fields and codes with the trained values. Its ``predicted_loss_increase`` is
        None: ``result`` predicts the loss before training, and the improvement by training is known
        only from a measurement, as with :func:`saec.torch.measure_loss_increase`.

    Raises:
        ModuleError: a field of ``result`` is not in the model, has other codes there, or its table
            holds values that are not finite; or the model is sharded by FSDP. The model is then
            unchanged.
    """
    check_unsharded(model)
    found = {
        name: module
        for module in model.modules()
        if isinstance(module, LearnedTable)
        for name in module.names
    }
    synced: dict[str, CompressedField] = {}
    for name, field in result.items():
        if name in found:
            synced[name] = found[name].tuned(field)
        elif isinstance(field, RawField | KeyedField):
            synced[name] = field
        else:
            raise ModuleError(f"the model holds no compressed table of field {name!r}")
    for name, table in found.items():
        if name in synced:
            table.take_(synced[name])
    return Compressed(list(synced.values()))


def _check_ids(result: Compressed) -> None:
    for name, field in result.items():
        if field.renumbered:
            raise ModuleError(
                f"the features of field {name!r} were renumbered, and the model's ids are the old "
                f"ones: compress with order='keep', or map the ids that the model gets by "
                f"result[{name!r}].new_ids and pass renumbered=True"
            )


def _check_shapes(table: ModelTable, result: Compressed) -> None:
    dim = table.weight.shape[1]
    for part in table.parts:
        field = result[part.name]
        rows = part.last - part.first
        if isinstance(field, KeyedField):
            check_keyed(table, field)
            rows = field.vocab_size  # a table may have rows without keys
        if (field.vocab_size, field.dim) != (rows, dim):
            raise ModuleError(
                f"field {part.name!r} is {rows} x {dim} in the model, but "
                f"{field.vocab_size} x {field.dim} in the compressed result"
            )


def is_raw(table: ModelTable, result: Compressed) -> bool:
    """Whether ``result`` holds all fields of the table uncompressed: its modules then stay."""
    return all(isinstance(result[part.name], RawField) for part in table.parts)


def _restore(table: ModelTable, result: Compressed) -> None:
    """Copy uncompressed rows into a plain table: the model may be a new one."""
    weight = table.weight
    if weight.is_meta:
        data = torch.empty_like(weight, device="cpu")
        weight = nn.Parameter(data, requires_grad=weight.requires_grad)
        for module in (*table.modules.values(), *table.tied.values()):
            module.weight = weight
    with torch.no_grad():
        for part in table.parts:
            rows = torch.from_numpy(result[part.name].decode())
            weight[part.first : part.last].copy_(rows)


def _compressed_modules(
    table: ModelTable, result: Compressed, keys: Mapping[str, TableKeys]
) -> dict[nn.Module, nn.Module]:
    """The replacement of each of the table's modules; they share one :class:`CompressedTable`."""
    padding = [module.padding_idx for module in table.modules.values()]
    weight = table.weight.detach()
    if weight.is_meta:  # all of it that is needed, with rows for padding as nn.Embedding makes them
        weight = torch.zeros(1, device="cpu", dtype=weight.dtype).expand(weight.shape)
    pads = {row: weight[row] for row in padding if row is not None}
    fields = [result[part.name] for part in table.parts]
    if isinstance(fields[0], KeyedField):
        return keyed_modules(table, fields[0], keys, weight)
    shared = compressed_table(fields, pads, like=weight)
    shared.requires_grad_(table.weight.requires_grad)
    modules = [*table.modules.values(), *table.tied.values()]
    return {module: _compressed_module(module, shared) for module in modules}


def _compressed_module(module: EmbeddingModule | nn.Linear, table: CompressedTable) -> nn.Module:
    new: nn.Module
    if isinstance(module, nn.Linear):
        new = CompressedLinear(table, module.bias)
    elif isinstance(module, nn.Embedding):
        new = CompressedEmbedding(table, module.padding_idx, module.sparse)
    else:
        new = CompressedEmbeddingBag(
            table, module.mode, module.padding_idx, module.sparse, module.include_last_offset
        )
    return new.train(module.training)


def _plain_module(module: _CompressedModule, weight: nn.Parameter) -> nn.Module:
    plain: nn.Embedding | nn.EmbeddingBag | nn.Linear
    rows, dim = weight.shape
    if isinstance(module, CompressedLinear):
        plain = nn.Linear(dim, rows, bias=False, device="meta")
        plain.register_parameter("bias", module.bias)
    elif isinstance(module, CompressedEmbedding):
        plain = nn.Embedding(
            rows, dim, module.padding_idx, sparse=module.sparse, _weight=weight.detach()
        )
    else:
        plain = nn.EmbeddingBag(
            rows,
            dim,
            _weight=weight.detach(),
            mode=module.mode,
            sparse=module.sparse,
            include_last_offset=module.include_last_offset,
            padding_idx=module.padding_idx,
        )
    plain.weight = weight  # one object for all modules of the table
    return plain.train(module.training)


def _swap(model: nn.Module, replacements: Mapping[nn.Module, nn.Module]) -> None:
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is not None and child in replacements:
                parent._modules[name] = replacements[child]
