"""What all compressed tables share: checked ids, padding rows, bags, and how they learn."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from saec.codes import check_ids
from saec.errors import IdError
from saec.stored.field import CompressedField

__all__ = ["CompressedTable", "LearnedTable", "Snapshot", "words"]

_DECODE_ROWS = 1 << 16
_ID_DTYPES = (torch.int32, torch.int64)


class CompressedTable(nn.Module):
    """What compressed modules look rows up in; modules that share a weight hold the same object.

    Args:
        names: of the fields whose rows follow each other in the table.
        vocab_size: number of rows.
        pads: rows (dim,) by id that lookups return instead of what is stored, exact.

    Attributes:
        layout: buffer int64, all that tells this table's codes from those of another.
        pad_rows: buffer (pads, dim).
    """

    layout: Tensor
    pad_rows: Tensor

    def __init__(self, names: Sequence[str], vocab_size: int, pads: Mapping[int, Tensor]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.vocab_size = vocab_size
        self.pads = tuple(pads)
        if pads:
            self.register_buffer("pad_rows", torch.stack(list(pads.values())))

    @property
    @abstractmethod
    def dim(self) -> int:
        """Width of a row."""

    @property
    @abstractmethod
    def summary(self) -> str:
        """What is stored, for ``print(model)``."""

    @abstractmethod
    def stored_rows(self, ids: Tensor) -> Tensor:
        """Rows (m, dim) of checked ids (m,) int64, before padding."""

    def forward(self, ids: Tensor, padding_idx: int | None = None) -> Tensor:
        """Rows of ``ids`` (any shape, int32 or int64), ``ids.shape + (dim,)``.

        No gradient reaches the row at ``padding_idx``, which is one of the table's pads.

        Raises:
            IdError: ids are of another dtype or, on a CPU and not while a graph is captured, out
                of range.
        """
        flat = self.checked(ids)
        rows = self.stored_rows(flat)
        for pad, row in zip(self.pads, self.pad_rows if self.pads else (), strict=True):
            rows = torch.where((flat == pad)[:, None], row, rows)
        return rows.reshape(*ids.shape, self.dim)

    def pool(
        self,
        ids: Tensor,
        offsets: Tensor | None,
        per_sample_weights: Tensor | None,
        mode: str,
        include_last_offset: bool,
        padding_idx: int | None,
    ) -> Tensor:
        """Reduce bags of rows as ``nn.EmbeddingBag`` does; ``offsets`` are int64.

        Raises:
            IdError: see :meth:`forward`.
        """
        rows = self(ids).reshape(-1, self.dim)
        positions = torch.arange(rows.shape[0], device=rows.device).reshape(ids.shape)
        if padding_idx is not None:
            # A row of its own for padding in front, since no id of a position says "leave out".
            rows = torch.cat([rows.new_zeros(1, self.dim), rows])
            positions = torch.where(ids == padding_idx, 0, positions + 1)
        return functional.embedding_bag(
            positions,
            rows,
            offsets,
            mode=mode,
            per_sample_weights=per_sample_weights,
            include_last_offset=include_last_offset,
            padding_idx=None if padding_idx is None else 0,
        )

    @torch.no_grad()
    def decode(self) -> Tensor:
        """The whole table, (vocab_size, dim)."""
        ids = torch.arange(self.vocab_size, device=self.layout.device)
        return torch.cat([self(block) for block in torch.split(ids, _DECODE_ROWS)])

    def checked(self, ids: Tensor) -> Tensor:
        """Flat ids, int64; see :meth:`forward`."""
        if ids.dtype not in _ID_DTYPES:
            raise IdError(f"{self._place}: ids must be int32 or int64, not {ids.dtype}")
        # In a captured graph values are unknown: there the gather's own bounds check stands.
        if type(ids) is Tensor and ids.device.type == "cpu" and not torch.compiler.is_compiling():
            check_ids(ids.numpy(), self.vocab_size, self._place)
        return ids.reshape(-1).long().contiguous()  # bucketize warns of strided input

    @property
    def _place(self) -> str:
        return f"table {', '.join(self.names)}"

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        # Codes of other widths may fill as many bytes, and would be read as garbage.
        layout = state_dict.get(prefix + "layout")
        if layout is not None and layout.tolist() != self.layout.tolist():
            error_msgs.append(f"{prefix}layout is of another compression than this {self._place}")
        super()._load_from_state_dict(
            state_dict,
            prefix,
            local_metadata,
            strict,
            missing_keys,
            unexpected_keys,
            error_msgs,
        )


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A state of a table's parameters, and what they were rounded to last."""

    parameters: tuple[Tensor, ...]
    stored: tuple[Any, ...]


class LearnedTable(CompressedTable):
    """A table of one codec, whose parameters learn and whose codes stay.

    stored: what parameters were rounded to last, where rounding them again may give other values.
    """

    stored: tuple[Any, ...] = ()

    @abstractmethod
    def tuned(self, field: CompressedField) -> CompressedField:
        """``field`` with the table's present values, rounded as it stores them.

        Raises:
            ModuleError: the field has other codes than the table, or values are not finite.
        """

    @abstractmethod
    def take_(self, field: CompressedField) -> None:
        """Set the parameters to what :meth:`tuned` gave."""

    @abstractmethod
    def round_(self) -> None:
        """Round the parameters, which are finite, as an artifact would."""

    def settle_(self) -> None:
        """Take back what a step of an optimizer did to parameters that no artifact can store."""

    def snapshot(self) -> Snapshot:
        """The present state."""
        return Snapshot(
            tuple(parameter.detach().clone() for parameter in self.parameters()), self.stored
        )

    @torch.no_grad()
    def restore_(self, snapshot: Snapshot) -> None:
        """Return to a state."""
        for parameter, value in zip(self.parameters(), snapshot.parameters, strict=True):
            parameter.copy_(value)
        self.stored = snapshot.stored


def words(codes: Tensor, bits: Tensor, count: int) -> Tensor:
    """Little-endian words that start at ``bits`` (m,) of ``codes`` (bytes,) uint8, (m,) int64.

    At least the first ``8 * count - 7`` bits of each are right.
    """
    starts = bits >> 3
    # index_select, not indexing: it refuses negative positions instead of wrapping around.
    found = codes.index_select(0, starts).long()
    for byte in range(1, count):
        found |= codes.index_select(0, starts + byte).long() << (8 * byte)
    return found >> (bits & 7)
