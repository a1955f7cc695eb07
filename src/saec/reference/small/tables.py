"""Tables that are small from the start, in the place of a click model's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from saec.baselines.rival import as_half
from saec.errors import BudgetError
from saec.reference.sizes import Ids
from saec.reference.small.features import FieldFeatures

__all__ = [
    "FieldModule",
    "IndexedRows",
    "SeparateTables",
    "SmallMethod",
    "SmallTables",
    "each_once",
    "largest",
    "normal_rows",
]

HALF_BYTES = 2  # of a stored number

INITIAL_STD = 0.01  # of the rows that lookups give before training, as of the models' own tables


class SmallTables(nn.Module):
    """The tables of all fields: ids (B, fields) -> vectors (B, fields, dim).

    Weights of ``nn.Embedding`` within are trained as rows, by the optimiser of the tables; all
    other parameters by Adam, with the network.

    Args:
        vocabularies: how many features a field has, and what takes their keys to ids.
    """

    def __init__(self, vocabularies: Sequence[tuple[int, Ids]]) -> None:
        super().__init__()
        self.vocabularies = tuple(vocabularies)

    def row_parameters(self) -> list[nn.Parameter]:
        """The parameters that are trained as rows."""
        return [
            parameter
            for part in self.modules()
            if isinstance(part, nn.Embedding)
            for parameter in part.parameters()
        ]

    def penalty(self) -> Tensor | None:
        """What is added to the loss of the last batch; None for nothing."""
        return None

    def stepped(self, loss: Callable[[], Tensor], examples: int) -> None:
        """Called after each step of training.

        Args:
            loss: computes the loss of the step's batch with the parameters as they are now.
            examples: in the batch.
        """

    def settled(self) -> SmallTables | None:
        """Called after training: tables to train further, with the same network, or None."""
        return None

    def stored(self) -> dict[str, NDArray[Any]]:
        """All that serving needs beside the vocabulary: numbers of 16 bits, unless overridden.

        Raises:
            FieldError: a number is too large for float16.
        """
        return {
            name: as_half(value.detach().numpy(), name)
            for name, value in self.state_dict().items()
            if value.is_floating_point()
        }

    @torch.no_grad()
    def restore(self, stored: Mapping[str, NDArray[Any]]) -> None:
        """Take the values of ``stored``, of tables that were built in the same way."""
        own = self.state_dict()
        for name, value in stored.items():
            own[name].copy_(torch.from_numpy(value.astype(np.float32)))

    @property
    def nbytes(self) -> int:
        """Bytes of what :meth:`stored` gives."""
        return sum(value.nbytes for value in self.stored().values())


class SmallMethod(Protocol):
    """A way to train small tables, as a frozen dataclass of its settings.

    Attributes:
        space: by name of a setting, the values that trials draw from; the defaults are those of
            the paper where it names them.
        has_one_size: whether the bytes that are asked for are ignored.
    """

    space: ClassVar[Mapping[str, Sequence[Any]]]
    has_one_size: ClassVar[bool]

    def build(self, fields: Sequence[FieldFeatures], dim: int, nbytes: int) -> SmallTables:
        """New tables of at most ``nbytes`` as stored, drawn from torch's random state.

        Raises:
            BudgetError: the method needs more bytes.
        """


class FieldModule(nn.Module):
    """One field's part of :class:`SeparateTables`: ids (B,) -> vectors (B, dim)."""

    ids: Ids = "dense"


class SeparateTables(SmallTables):
    """Tables of fields that share nothing."""

    def __init__(self, fields: Sequence[FieldFeatures], parts: Iterable[FieldModule]) -> None:
        parts = list(parts)
        super().__init__(
            [(field.count, part.ids) for field, part in zip(fields, parts, strict=True)]
        )
        self.parts = nn.ModuleList(parts)

    def forward(self, ids: Tensor) -> Tensor:
        """Each field's vectors, side by side."""
        columns = zip(self.parts, ids.unbind(1), strict=True)
        return torch.stack([part(column) for part, column in columns], dim=1)


class IndexedRows(FieldModule):
    """Rows that an index finds: ``rows[index[id]]``."""

    index: Tensor

    def __init__(self, index: Tensor, count: int, dim: int, ids: Ids) -> None:
        super().__init__()
        self.ids = ids
        self.register_buffer("index", index, persistent=False)
        self.rows = normal_rows(count, dim, INITIAL_STD)
        if ids != "keys":
            with torch.no_grad():
                self.rows.weight[0] = 0.0  # of unseen features

    @classmethod
    def whole(cls, field: FieldFeatures, dim: int) -> IndexedRows:
        """A row for each feature."""
        return cls(field.rows, field.count, dim, "dense")

    def forward(self, ids: Tensor) -> Tensor:
        """(B,) -> (B, dim)."""
        rows: Tensor = self.rows(self.index[ids])
        return rows


def each_once(ids: Tensor, vectors_of: Callable[[Tensor], Tensor]) -> Tensor:
    """``vectors_of(ids)``, with each different id computed once."""
    asked, places = torch.unique(ids, return_inverse=True)
    vectors = vectors_of(asked)
    return vectors.index_select(0, places.flatten()).view(*ids.shape, vectors.shape[-1])


def normal_rows(count: int, dim: int, std: float, mean: float = 0.0) -> nn.Embedding:
    """A table of normal numbers with sparse gradients."""
    return nn.Embedding(count, dim, _weight=mean + std * torch.randn(count, dim), sparse=True)


def largest(nbytes_of: Callable[[int], int], most: int, nbytes: int, method: str) -> int:
    """The largest size from 1 to ``most`` that takes at most ``nbytes``; bytes grow with the size.

    Raises:
        BudgetError: size 1 takes more.
    """
    if nbytes_of(1) > nbytes:
        raise BudgetError(
            f"{method} needs at least {nbytes_of(1)} bytes for these tables; {nbytes} were allowed"
        )
    low, high = 1, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if nbytes_of(middle) <= nbytes else (low, middle - 1)
    return low
