"""Tables whose fields are stored by several codecs: each id range has its own table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from saec.bits.packing import check_ids
from saec.format.compressed_field import CompressedField
from saec.format.tiered_field import TieredField
from saec.torch.lookup.reader import pool_rows
from saec.torch.lookup.recorded_calls import recorded
from saec.torch.table.base import CompressedTable
from saec.torch.table.clustered import ClusteredTable
from saec.torch.table.tiered import TieredTable

__all__ = ["JointTable", "compressed_table"]


def compressed_table(
    fields: Sequence[CompressedField], pads: Mapping[int, Tensor], like: Tensor
) -> CompressedTable:
    """The table of consecutive fields; arguments as of its classes.

    Raises:
        ModuleError: a field of a codec that has no PyTorch module.
        ArtifactError: codes or a tier index are damaged.
    """
    if not any(isinstance(field, TieredField) for field in fields):
        return ClusteredTable(fields, pads, like)
    if len(fields) == 1 and isinstance(fields[0], TieredField):
        return TieredTable(fields[0], pads, like)
    return JointTable(fields, pads, like)


class JointTable(CompressedTable):
    """Tables whose rows follow each other; arguments as of :class:`ClusteredTable`.

    Attributes:
        tables: one for each tiered field, and one for each run of other fields.
        layout: buffer (tables,) int64, their first rows.
        pad_rows: buffer (pads, dim), or None.
    """

    pad_rows: Tensor | None

    def __init__(
        self, fields: Sequence[CompressedField], pads: Mapping[int, Tensor], like: Tensor
    ) -> None:
        tables = [compressed_table(run, {}, like) for run in _runs(fields)]
        rows = [table.vocab_size for table in tables]
        super().__init__([field.name for field in fields], [field.vocab_size for field in fields])
        self.pads = tuple(pads)
        self.register_buffer("pad_rows", torch.stack(list(pads.values())) if pads else None)
        self.tables = nn.ModuleList(tables)
        self._firsts = [sum(rows[:index]) for index in range(len(rows))]
        self.register_buffer("layout", torch.tensor(self._firsts, device=like.device))

    @property
    def sample(self) -> Tensor:
        """See :class:`CompressedTable`."""
        return self._parts[0].sample

    @property
    def _layout(self) -> Tensor:
        return torch.tensor(self._firsts, device="cpu")

    @property
    def summary(self) -> str:
        """Description of each table."""
        return "; ".join(f"{table.names}: {table.summary}" for table in self._parts)

    @property
    def _parts(self) -> list[CompressedTable]:
        return list(self.tables)  # type: ignore[arg-type]

    def rows(self, ids: Tensor, padding_idx: int | None) -> Tensor:
        """See :class:`CompressedTable`."""
        eager = type(ids) is Tensor and not recorded()
        if eager and ids.is_cpu:
            check_ids(ids.numpy(), self.vocab_size, self._place)
        numbers = torch.bucketize(ids.contiguous(), self.layout[1:], right=True)
        found = self._gathered if eager and not ids.is_meta else self._selected
        rows = found(ids, numbers)
        for pad, row in zip(self.pads, () if self.pad_rows is None else self.pad_rows, strict=True):
            rows = torch.where((ids == pad)[:, None], row, rows)
        return rows

    def bags(
        self,
        ids: Tensor,
        offsets: Tensor,
        per_sample_weights: Tensor | None,
        mode: str,
        padding_idx: int | None,
    ) -> Tensor:
        """See :class:`CompressedTable`."""
        rows = self.rows(ids, padding_idx)
        return pool_rows(rows, ids, offsets, per_sample_weights, mode, padding_idx)

    def products(self, vectors: Tensor) -> Tensor:
        """See :class:`CompressedTable`; for each table."""
        if torch.is_grad_enabled():
            return super().products(vectors)
        products = torch.cat([table.products(vectors) for table in self._parts], dim=1)
        if self.pad_rows is not None:
            products[:, list(self.pads)] = functional.linear(vectors, self.pad_rows)
        return products

    def _gathered(self, ids: Tensor, numbers: Tensor) -> Tensor:
        """Look up in each table only its own ids."""
        chosen, rows = [], []
        for number, (first, table) in enumerate(zip(self._firsts, self._parts, strict=True)):
            own = (numbers == number).nonzero()[:, 0]
            chosen.append(own)
            rows.append(table.rows(ids[own] - first, None))
        order = torch.cat(chosen)
        back = torch.empty_like(order).scatter_(
            0, order, torch.arange(len(order), device=order.device)
        )
        return torch.cat(rows).index_select(0, back)

    def _selected(self, ids: Tensor, numbers: Tensor) -> Tensor:
        """Look up all ids in each table, for graphs whose shapes must not depend on ids."""
        last = len(self._firsts) - 1
        rows: Tensor | None = None
        for number, (first, table) in enumerate(zip(self._firsts, self._parts, strict=True)):
            # Ids outside of the range of all tables are unchanged: the table's gather rejects them.
            low, high = 0 if number else None, table.vocab_size - 1 if number < last else None
            found = table.rows((ids - first).clamp(low, high), None)
            own = (numbers == number)[:, None]
            rows = found if rows is None else torch.where(own, found, rows)
        assert rows is not None
        return rows


def _runs(fields: Sequence[CompressedField]) -> list[list[CompressedField]]:
    """Tiered fields are alone; consecutive other fields are together."""
    runs: list[list[CompressedField]] = []
    for field in fields:
        if runs and not any(isinstance(part, TieredField) for part in (field, runs[-1][-1])):
            runs[-1].append(field)
        else:
            runs.append([field])
    return runs
