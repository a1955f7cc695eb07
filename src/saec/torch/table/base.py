"""What all compressed tables share: checked ids, padding rows, bags, and how they learn."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from saec.bits.packing import check_ids
from saec.errors import IdError, ModuleError
from saec.format.compressed_field import CompressedField
from saec.torch.lookup.bags import check_weights, flat_bags
from saec.torch.lookup.operator import DTYPES, Place, Prepared, native_pool, pool
from saec.torch.lookup.reader import TableReader, plain
from saec.torch.lookup.recorded_calls import recorded, refuse_scripting, transformed

__all__ = ["CompressedTable", "LearnedTable", "Snapshot"]

_DECODE_ROWS = 1 << 16
_ID_DTYPES = (torch.int32, torch.int64)


class CompressedTable(nn.Module):
    """What compressed modules look rows up in; modules that share a weight hold the same object.

    Args:
        names: of the fields whose rows follow each other in the table.
        vocab_size: number of rows.

    Attributes:
        layout: buffer int64, all that tells this table's codes from those of another.
        pads: ids with exact rows of their own.
        prepared: the shortest way to rows, as long as nothing changes.
    """

    layout: Tensor
    pads: tuple[int, ...]

    def __init__(self, names: Sequence[str], vocab_size: int) -> None:
        super().__init__()
        self.names = tuple(names)
        self.vocab_size = vocab_size
        self.prepared = Prepared()

    @property
    @abstractmethod
    def dim(self) -> int:
        """Width of a row."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """Of a row."""

    @property
    @abstractmethod
    def _layout(self) -> Tensor:
        """What the buffer ``layout`` must be, on the CPU."""

    @property
    @abstractmethod
    def summary(self) -> str:
        """What is stored, for ``print(model)``."""

    @abstractmethod
    def rows(self, ids: Tensor, padding_idx: int | None) -> Tensor:
        """Rows (m, dim) of flat ids (m,), int32 or int64, with pads in their places.

        Raises:
            IdError: on a CPU and not while a graph is captured, an id is out of range.
        """

    @abstractmethod
    def bags(
        self,
        ids: Tensor,
        offsets: Tensor,
        per_sample_weights: Tensor | None,
        mode: str,
        padding_idx: int | None,
    ) -> Tensor:
        """Bags (bags, dim) of flat ids (m,), int32 or int64, that start at ``offsets``, int64.

        Raises:
            IdError: see :meth:`rows`; also of an offset.
        """

    def forward(self, ids: Tensor, padding_idx: int | None = None) -> Tensor:
        """Rows of ``ids`` (any shape, int32 or int64), ``ids.shape + (dim,)``.

        No gradient reaches the row at ``padding_idx``, which is one of the table's pads.

        Raises:
            IdError: ids are of another dtype or, on a CPU and not while a graph is captured, out
                of range.
        """
        self._check(ids)
        return self.rows(ids.reshape(-1), padding_idx).reshape(*ids.shape, self.dim)

    def pool(
        self,
        ids: Tensor,
        offsets: Tensor | None,
        per_sample_weights: Tensor | None,
        mode: str,
        include_last_offset: bool,
        padding_idx: int | None,
    ) -> Tensor:
        """Reduce bags of rows as ``nn.EmbeddingBag`` does.

        Raises:
            IdError: see :meth:`forward`; also of an offset.
            ValueError: shapes or modes do not go together.
        """
        self._check(ids)
        check_weights(ids, per_sample_weights, mode)
        open_end = mode == "sum" and padding_idx is None and self.dtype in DTYPES
        flat = flat_bags(ids, offsets, include_last_offset, open_end, self._place)
        if per_sample_weights is not None:
            count = flat.ids.shape[0]
            per_sample_weights = per_sample_weights.reshape(-1)[:count].contiguous()
        pooled = self.bags(flat.ids, flat.starts, per_sample_weights, mode, padding_idx)
        return pooled[:-1] if flat.surplus else pooled

    @torch.no_grad()
    def decode(self) -> Tensor:
        """The whole table, (vocab_size, dim)."""
        return torch.cat([self.rows(ids, None) for ids in self._blocks()])

    def weight(self) -> Tensor:
        """The whole table, (vocab_size, dim), whose gradients reach all but the pads."""
        if not torch.is_grad_enabled():
            return self.decode()
        rows = self.rows(torch.arange(self.vocab_size, device=self.layout.device), None)
        exact = torch.zeros(self.vocab_size, 1, dtype=torch.bool, device=rows.device)
        exact[list(self.pads)] = True
        return torch.where(exact, rows.detach(), rows)

    def products(self, vectors: Tensor) -> Tensor:
        """Products of vectors (m, dim) with all rows, (m, vocab_size)."""
        if torch.is_grad_enabled():
            return functional.linear(vectors, self.weight())
        # A whole decoded table would be what compression was to avoid.
        found = [functional.linear(vectors, self.rows(ids, None)) for ids in self._blocks()]
        return found[0] if len(found) == 1 else torch.cat(found, dim=1)

    def __prepare_scriptable__(self) -> nn.Module:  # what torch.jit.script asks for
        refuse_scripting()

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        # to_empty allocates the other parameters of a model from the meta device, which are then
        # loaded. A compressed table that has its numbers already keeps them.
        if getattr(fn, "__qualname__", "").startswith("Module.to_empty."):
            allocate, fn = fn, lambda tensor: _allocated(tensor, allocate)
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def _blocks(self) -> Sequence[Tensor]:
        """All ids, at most _DECODE_ROWS at a time."""
        return torch.split(torch.arange(self.vocab_size, device=self.layout.device), _DECODE_ROWS)

    def _check(self, ids: Tensor) -> None:
        if not isinstance(ids, Tensor):
            raise IdError(
                f"{self._place}: ids must be a tensor, not {type(ids).__name__}: torch.as_tensor "
                "makes one"
            )
        if ids.dtype not in _ID_DTYPES:
            raise IdError(f"{self._place}: ids must be int32 or int64, not {ids.dtype}")
        if type(ids) is not Tensor or ids.device == self.layout.device or recorded():
            return
        if self.layout.is_meta:
            raise ModuleError(
                f"{self._place} is on the meta device and holds no numbers: load a state by "
                "load_state_dict(state, assign=True), or by to_empty(device=...) and "
                "load_state_dict(state)"
            )
        raise ModuleError(
            f"{self._place} is on {self.layout.device}, and the ids are on {ids.device}"
        )

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
        # Not by the buffer, which holds nothing on the meta device and after to_empty.
        expected = self._layout.tolist()
        if layout is not None and not layout.is_meta and layout.tolist() != expected:
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

    def __init__(self, names: Sequence[str], vocab_size: int, reader: TableReader) -> None:
        super().__init__(names, vocab_size)
        self.reader = reader
        self.pads = reader.pads
        self._spec = reader.spec

    def _prepare(self) -> None:
        """To be called when all tensors are there."""
        self.prepared = Prepared(self.places)

    @property
    @abstractmethod
    def places(self) -> list[Place]:
        """Where the tensors are that the reader reads, in its order."""

    @property
    def tensors(self) -> list[Tensor]:
        """What the reader reads, in its order."""
        return [tensors[name] for tensors, name in self.prepared.places]

    @property
    def dim(self) -> int:
        """Width of a row."""
        return self.reader.dim(self.tensors)

    @property
    def dtype(self) -> torch.dtype:
        """See :class:`CompressedTable`."""
        return self.reader.dtype(self.tensors)

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
            # Gradients go through plain operations; the core's rows would come on top.
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


def _allocated(tensor: Tensor, allocate: Any) -> Tensor:
    """What ``to_empty`` makes of a tensor by its function: one without numbers gets memory."""
    made: Tensor = allocate(tensor if tensor.is_meta else tensor[:0])
    return made if tensor.is_meta else tensor.to(made.device)
