"""Modules whose lookups take keys."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saec.errors import ModuleError
from saec.format.compressed_field import CompressedField
from saec.format.keyed_field import KeyedField
from saec.torch.lookup.recorded_calls import leaf, refuse_scripting
from saec.torch.table.keyed import KeyedTable

__all__ = ["KeyedEmbedding", "KeyedEmbeddingBag", "KeyedModule", "keyed_module"]


class KeyedModule(nn.Module):
    """Base class of modules whose lookups take keys."""

    def __init__(self, table: CompressedField | KeyedTable, padding_key: int | None) -> None:
        super().__init__()
        if not isinstance(table, KeyedTable):
            if not isinstance(table, KeyedField):
                raise ModuleError(f"{table.place} has ids, and no keys: use CompressedEmbedding")
            row = torch.zeros(table.dim)
            pads = {} if padding_key is None else {padding_key: row}
            table = KeyedTable(table, pads, like=row)
        self.table = table
        self.embedding_dim = table.dim
        self.padding_key = padding_key

    def __prepare_scriptable__(self) -> nn.Module:  # attribute that torch.jit.script reads
        refuse_scripting()

    def extra_repr(self) -> str:
        """Sizes, for ``print(model)``."""
        return f"{self.embedding_dim}, {self.table.summary}, padding_key={self.padding_key}"


class KeyedEmbedding(KeyedModule):
    """Like ``nn.Embedding``, but takes raw keys instead of ids; it has no trainable parameters.

    An unknown key gets the field's default row.

    Args:
        table: a field with keys, such as ``saec.load("model.saec")["user"]``.
        padding_key: a key whose row is zeros.

    Raises:
        ModuleError: the field has ids.
    """

    def __init__(self, table: CompressedField | KeyedTable, padding_key: int | None = None) -> None:
        super().__init__(table, padding_key)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (nn.Embedding's name)
        """Rows of keys ``input`` (any shape), ``input.shape + (dim,)``.

        Keys are int64, int32 or uint64. For a field of strings they are hashes,
        ``saec.hash_keys(strings, seed=field.seed).view(numpy.int64)``.

        Raises:
            KeysError: keys are of another dtype or, on a CPU, one is of another kind than the
                field's, such as a negative one if the field has none.
        """
        node: Tensor | None = leaf(self, [input])
        return self.table(input, self.padding_key) if node is None else node


class KeyedEmbeddingBag(KeyedModule):
    """Like ``nn.EmbeddingBag``, but takes raw keys instead of ids.

    Args:
        table: see :class:`KeyedEmbedding`.
        mode: sum, mean or max.
        padding_key: a key that is left out of bags.
        include_last_offset: see ``nn.EmbeddingBag``.

    Raises:
        ModuleError: the field has ids.
    """

    def __init__(
        self,
        table: CompressedField | KeyedTable,
        mode: str = "mean",
        padding_key: int | None = None,
        include_last_offset: bool = False,
    ) -> None:
        super().__init__(table, padding_key)
        self.mode = mode
        self.include_last_offset = include_last_offset

    def forward(
        self,
        input: Tensor,  # noqa: A002  (nn.EmbeddingBag's name)
        offsets: Tensor | None = None,
        per_sample_weights: Tensor | None = None,
    ) -> Tensor:
        """Reduce bags of rows to (bags, dim); keys as for :class:`KeyedEmbedding`, other arguments
        as for ``nn.EmbeddingBag``.

        Raises:
            KeysError: see :meth:`KeyedEmbedding.forward`.
            IdError: an offset is out of range.
        """
        node: Tensor | None = leaf(self, [input, offsets, per_sample_weights])
        if node is not None:
            return node
        return self.table.pool(
            input,
            offsets,
            per_sample_weights,
            self.mode,
            self.include_last_offset,
            self.padding_key,
        )

    def extra_repr(self) -> str:
        """Sizes and mode, for ``print(model)``."""
        return f"{super().extra_repr()}, mode={self.mode}"


def keyed_module(
    module: nn.Embedding | nn.EmbeddingBag, table: KeyedTable, padding_key: int | None
) -> KeyedModule:
    """The replacement of an embedding module, with the same options."""
    new: KeyedModule
    if isinstance(module, nn.Embedding):
        new = KeyedEmbedding(table, padding_key)
    else:
        new = KeyedEmbeddingBag(table, module.mode, padding_key, module.include_last_offset)
    return new.train(module.training)
