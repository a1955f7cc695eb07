"""Base class of compressed tables: checked ids, padding rows, bags, and training."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from saec.errors import IdError, ModuleError, SaecError
from saec.torch.lookup.bags import check_weights, flat_bags
from saec.torch.lookup.operator import DTYPES, Prepared
from saec.torch.lookup.recorded_calls import recorded, refuse_scripting

__all__ = ["CompressedTable"]

_DECODE_ROWS = 1 << 16
_ID_DTYPES = (torch.int32, torch.int64)


class CompressedTable(nn.Module):
    """The table of compressed modules; modules that share a weight hold the same object.

    Args:
        names: of the fields, whose rows follow each other in the table.
        row_counts: number of rows of each field.

    Attributes:
        vocab_size: number of rows of all fields.
        layout: buffer int64 that identifies the layout of this table's codes.
        pads: ids with exact rows of their own.
        prepared: direct access to rows, valid as long as nothing changes.
    """

    layout: Tensor
    pads: tuple[int, ...]

    def __init__(self, names: Sequence[str], row_counts: Sequence[int]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.row_counts = tuple(row_counts)
        self.vocab_size = sum(row_counts)
        self.prepared = Prepared()

    @property
    @abstractmethod
    def sample(self) -> Tensor:
        """A tensor with the device, dtype and width of rows."""

    @property
    def dim(self) -> int:
        """Width of a row."""
        return self.sample.shape[-1]

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of a row."""
        return self.sample.dtype

    @property
    @abstractmethod
    def _layout(self) -> Tensor:
        """The required content of the buffer ``layout``, on the CPU."""

    @property
    @abstractmethod
    def summary(self) -> str:
        """Description of the stored tensors, for ``print(model)``."""

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
        rows = self.rows(ids.reshape(-1), padding_idx)
        return rows.reshape(*ids.shape, rows.shape[1])

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
            ValueError: shapes or modes do not fit together.
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
        """The whole table, (vocab_size, dim), with gradients for all rows but the pads."""
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
        # Not from the decoded table, which compression is meant to avoid.
        found = [functional.linear(vectors, self.rows(ids, None)) for ids in self._blocks()]
        return found[0] if len(found) == 1 else torch.cat(found, dim=1)

    def __prepare_scriptable__(self) -> nn.Module:  # attribute that torch.jit.script reads
        refuse_scripting()

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        # to_empty allocates the other parameters of a model from the meta device, which are
        # loaded afterwards. A compressed table that already has its values keeps them.
        if getattr(fn, "__qualname__", "").startswith("Module.to_empty."):
            allocate, fn = fn, lambda tensor: _allocated(tensor, allocate)
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def _blocks(self) -> Sequence[Tensor]:
        """All ids, at most _DECODE_ROWS at a time."""
        return torch.split(torch.arange(self.vocab_size, device=self.layout.device), _DECODE_ROWS)

    def _check(self, ids: Tensor) -> None:
        self._check_given(ids, "ids", _ID_DTYPES, "int32 or int64", IdError)

    def _check_given(
        self,
        ids: Tensor,
        noun: str,
        dtypes: tuple[torch.dtype, ...],
        allowed: str,
        failure: type[SaecError],
    ) -> None:
        """Raise ``failure`` if ids, or keys, are not a tensor of one of the dtypes; ModuleError if
        they are on another device than the table."""
        if not isinstance(ids, Tensor):
            raise failure(
                f"{self._place}: {noun} must be a tensor, not {type(ids).__name__}: "
                "torch.as_tensor makes one"
            )
        if ids.dtype not in dtypes:
            raise failure(f"{self._place}: {noun} must be {allowed}, not {ids.dtype}")
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
        # Codes of other widths may have the same number of bytes, and would be decoded wrongly.
        layout = state_dict.get(prefix + "layout")
        # Not from the buffer, which is empty on the meta device and after to_empty.
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


def _allocated(tensor: Tensor, allocate: Any) -> Tensor:
    """The result of ``to_empty``'s function for a tensor: only meta tensors get new memory."""
    made: Tensor = allocate(tensor if tensor.is_meta else tensor[:0])
    return made if tensor.is_meta else tensor.to(made.device)
