"""Modules whose lookups read compressed tables."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling

from saec.torch.lookup.opaque_calls import look_up, look_up_bags, new_number, opaque, readable
from saec.torch.lookup.recorded_calls import leaf, recorded, refuse_scripting
from saec.torch.table.base import CompressedTable
from saec.torch.table.decoded import DecodedWeight

__all__ = ["CompressedEmbedding", "CompressedEmbeddingBag", "CompressedLinear"]


class _CompressedModule(nn.Module):
    """Base class of both modules: the table, and the options of the plain module."""

    def __init__(
        self, table: CompressedTable, padding_idx: int | None = None, sparse: bool = False
    ) -> None:
        super().__init__()
        self.table = table
        self.num_embeddings = table.vocab_size
        self.embedding_dim = table.dim
        self.padding_idx = padding_idx
        self.sparse = sparse  # option of the plain module; a compressed table's gradients are dense
        self._number = new_number(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._number = new_number(self)

    def _opaque(self, ids: Tensor, weights: Tensor | None = None) -> bool:
        """In traced code: whether the call may be one operator of the graph."""
        if not readable(ids, self.table.sample):
            return False
        if torch.is_grad_enabled() and (
            any(parameter.requires_grad for parameter in self.table.parameters())
            or (weights is not None and weights.requires_grad)
        ):
            return False
        return bool(opaque(self._number))

    def decode(self) -> Tensor:
        """The whole table, (num_embeddings, embedding_dim), detached."""
        return self.table.decode()

    @property
    def weight(self) -> Tensor:
        """The whole table, (num_embeddings, embedding_dim), decoded in each access.

        For models that compute with the table themselves. Gradients pass through it, except for
        rows at ``padding_idx``. Scores of all rows are cheaper with :class:`CompressedLinear`. It
        is a copy, and writes to it raise an error.
        """
        return _read_only(self.table.weight())

    def __prepare_scriptable__(self) -> nn.Module:  # attribute that torch.jit.script reads
        refuse_scripting()

    def extra_repr(self) -> str:
        """Sizes, for ``print(model)``."""
        return (
            f"{self.num_embeddings}, {self.embedding_dim}, {self.table.summary}, "
            f"padding_idx={self.padding_idx}"
        )


class CompressedEmbedding(_CompressedModule):
    """Replaces an ``nn.Embedding``: the same call, with the values of the decoded table.

    The row at ``padding_idx`` is exact and gets no gradient.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (nn.Embedding's name)
        """Rows of ``input`` (any shape, int32 or int64), ``input.shape + (dim,)``.

        Raises:
            IdError: see :meth:`CompressedTable.forward`.
        """
        table: Any = self._modules["table"]  # read here, because this is faster than an attribute
        if is_dynamo_compiling():
            if self._opaque(input):
                return look_up(self._number, table.sample, input)
        elif (shortcut := table.prepared.shortcut) is not None:
            rows: Tensor | None = shortcut.rows(input)
            if rows is not None:
                return rows
        node: Tensor | None = leaf(self, [input])
        if node is not None:
            return node
        found: Tensor = table(input, self.padding_idx)
        return found


class CompressedEmbeddingBag(_CompressedModule):
    """Replaces an ``nn.EmbeddingBag``: the same call, with the values of the decoded table.

    Entries equal to ``padding_idx`` are left out of the reduction.
    """

    def __init__(
        self,
        table: CompressedTable,
        mode: str = "mean",
        padding_idx: int | None = None,
        sparse: bool = False,
        include_last_offset: bool = False,
    ) -> None:
        super().__init__(table, padding_idx, sparse)
        self.mode = mode
        self.include_last_offset = include_last_offset

    def forward(
        self,
        input: Tensor,  # noqa: A002  (nn.EmbeddingBag's name)
        offsets: Tensor | None = None,
        per_sample_weights: Tensor | None = None,
    ) -> Tensor:
        """Reduce bags of rows to (bags, dim); arguments are those of ``nn.EmbeddingBag``.

        Raises:
            IdError: see :meth:`CompressedTable.forward`.
        """
        if is_dynamo_compiling() and self._opaque(input, per_sample_weights):
            return self._one_node(input, offsets, per_sample_weights)
        node: Tensor | None = leaf(self, [input, offsets, per_sample_weights])
        if node is not None:
            return node
        return self.table.pool(
            input,
            offsets,
            per_sample_weights,
            self.mode,
            self.include_last_offset,
            self.padding_idx,
        )

    def _one_node(
        self,
        ids: Tensor,
        offsets: Tensor | None,
        weights: Tensor | None,
    ) -> Tensor:
        """The call as one operator of a graph."""
        bags = ids.shape[0]
        if offsets is not None:
            bags = offsets.shape[0] - int(self.include_last_offset)
        return look_up_bags(self._number, self.table.sample, ids, offsets, weights, bags)

    def extra_repr(self) -> str:
        """Sizes and mode, for ``print(model)``."""
        return f"{super().extra_repr()}, mode={self.mode}"


class CompressedLinear(nn.Module):
    """Replaces an ``nn.Linear`` that shares an embedding's weight: scores of all its rows.

    It shares the table of the embedding's :class:`CompressedEmbedding`. If the table has axes, it
    first multiplies with these, which is cheaper than with all rows.

    Args:
        table: table of the rows.
        bias: (vocab_size,) added to the scores, or None.
    """

    def __init__(self, table: CompressedTable, bias: nn.Parameter | None = None) -> None:
        super().__init__()
        self.table = table
        self.bias = bias
        self.in_features = table.dim
        self.out_features = table.vocab_size

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (nn.Linear's name)
        """Products of ``input`` (..., in_features) with all rows, (..., out_features)."""
        node: Tensor | None = leaf(self, [input])
        if node is not None:
            return node
        scores = self.table.products(input.reshape(-1, self.in_features))
        scores = scores.reshape(*input.shape[:-1], self.out_features)
        return scores if self.bias is None else scores + self.bias

    def decode(self) -> Tensor:
        """The whole table, (out_features, in_features), detached."""
        return self.table.decode()

    @property
    def weight(self) -> Tensor:
        """See :attr:`CompressedEmbedding.weight`."""
        return _read_only(self.table.weight())

    def __prepare_scriptable__(self) -> nn.Module:  # attribute that torch.jit.script reads
        refuse_scripting()

    def extra_repr(self) -> str:
        """Sizes, for ``print(model)``."""
        bias = self.bias is not None
        return f"{self.in_features}, {self.out_features}, {self.table.summary}, bias={bias}"


def _read_only(weight: Tensor) -> Tensor:
    """A copy that refuses writes; if calls are recorded, the tensor itself."""
    return weight if recorded() else weight.as_subclass(DecodedWeight)
