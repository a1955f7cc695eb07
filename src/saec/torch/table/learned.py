"""Tables with parameters that can be trained, codes fixed."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saec.bits.packing import check_ids
from saec.format.compressed_field import CompressedField
from saec.torch.lookup.operator import DTYPES, Place, Prepared, native_pool, pool
from saec.torch.lookup.reader import TableReader, plain
from saec.torch.lookup.recorded_calls import recorded, transformed
from saec.torch.table.base import CompressedTable

__all__ = ["LearnedTable", "Snapshot"]


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A state of a table's parameters, and the last stored form to which they were rounded."""

    parameters: tuple[Tensor, ...]
    stored: tuple[Any, ...]


class LearnedTable(CompressedTable):
    """A table of one codec, with trainable parameters and fixed codes.

    stored: the last form to which parameters were rounded; used where repeated rounding may give
    other values.
    """

    stored: tuple[Any, ...] = ()

    def __init__(
        self, names: Sequence[str], row_counts: Sequence[int], reader: TableReader
    ) -> None:
        super().__init__(names, row_counts)
        self.reader = reader
        self.pads = reader.pads
        self._spec = reader.spec

    def _prepare(self) -> None:
        """Complete the constructor once all tensors exist."""
        self.prepared = Prepared(self.places)

    @property
    @abstractmethod
    def places(self) -> list[Place]:
        """Places of the tensors that the reader reads, in its order."""

    @property
    @abstractmethod
    def tensors(self) -> list[Tensor]:
        """Tensors that the reader reads, in its order.

        Those of ``places``. Compiled calls guard every value that this reads, so it is short.
        """

    @property
    def _layout(self) -> Tensor:
        return self.reader.columns

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "prepared"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._prepare()

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        result = super()._apply(fn, recurse)
        self.prepared.forget()
        return result

    def rows(self, ids: Tensor, padding_idx: int | None) -> Tensor:
        """See :class:`CompressedTable`."""
        return self._read(ids, None, None, "sum", padding_idx)

    def bags(
        self,
        ids: Tensor,
        offsets: Tensor,
        per_sample_weights: Tensor | None,
        mode: str,
        padding_idx: int | None,
    ) -> Tensor:
        """See :class:`CompressedTable`."""
        return self._read(ids, offsets, per_sample_weights, mode, padding_idx)

    def _read(
        self,
        ids: Tensor,
        offsets: Tensor | None,
        weights: Tensor | None,
        mode: str,
        padding_idx: int | None,
    ) -> Tensor:
        tensors = self.tensors
        skipped = -1 if padding_idx is None else padding_idx
        if torch.compiler.is_compiling():  # each value read is a guard
            compiled: Tensor = pool(
                ids.contiguous(), offsets, weights, tensors, self._spec, mode, skipped
            )
            return compiled
        eager = type(ids) is Tensor and not recorded()
        learns = torch.is_grad_enabled() and (
            any(parameter.requires_grad for parameter in tensors[: self.reader.parameters])
            or (weights is not None and weights.requires_grad)
        )
        dtype = self.reader.dtype(tensors)
        native = ids.is_cpu and dtype in DTYPES
        if eager and native and not learns:
            table = self.prepared.table(self.reader, tensors)
            factors = None if weights is None else weights.float()
            left_out = -1 if offsets is None else skipped
            return native_pool(
                table, ids.contiguous(), offsets, factors, mode, left_out, dtype, self._place
            )
        if learns and (eager or transformed()):
            # Gradients need plain operations; rows from the core would be extra work.
            if ids.is_cpu and eager:
                check_ids(ids.numpy(), self.vocab_size, self._place)
            return plain(self.reader, ids, offsets, weights, tensors, mode, skipped)
        flat = ids.contiguous()
        rows: Tensor = pool(flat, offsets, weights, tensors, self._spec, mode, skipped)
        return rows

    @abstractmethod
    def tuned(self, field: CompressedField) -> CompressedField:
        """``field`` with the table's present values, rounded as it stores them.

        Raises:
            ModuleError: the field has other codes than the table, or values are not finite.
        """

    @abstractmethod
    def take_(self, field: CompressedField) -> None:
        """Set the parameters to the values of :meth:`tuned`."""

    @abstractmethod
    def round_(self) -> None:
        """Round the parameters, which are finite, as an artifact would."""

    def settle_(self) -> None:
        """Undo an optimizer's step for parameters that no artifact can store."""

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
