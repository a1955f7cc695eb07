"""Rows whose values have 0 to 6 bits each, by a width for each row: what MPE ends with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from saec.bits.packing import PackedRows, bits_for
from saec.reference.sizes import Ids
from saec.reference.small.tables import SmallTables, each_once

__all__ = ["WIDTHS", "FixedWidths", "quantised", "width_bytes"]

WIDTHS = (0, 1, 2, 3, 4, 5, 6)
"""Bits that a value may have."""


class FixedWidths(SmallTables):
    """Rows rounded to their widths, trained straight through the rounding.

    Stored are the packed codes of the rows of each width, one step for each width, one offset for
    each dimension, and each row's width.

    Args:
        vocabularies: as of :class:`~saec.reference.small.tables.SmallTables`.
        places: the row of each field and id, and where a field's ids begin.
        widths: (rows,) int64.
        initial: (rows, dim), what the rows start from.
        log_steps, offset: what they start from.
    """

    rows_of: Tensor
    firsts: Tensor
    widths: Tensor

    def __init__(
        self,
        vocabularies: Sequence[tuple[int, Ids]],
        places: tuple[Tensor, Tensor],
        widths: Tensor,
        initial: Tensor,
        log_steps: Tensor,
        offset: Tensor,
    ) -> None:
        super().__init__(vocabularies)
        for name, value in zip(("rows_of", "firsts", "widths"), (*places, widths), strict=True):
            self.register_buffer(name, value, persistent=False)
        self.rows = nn.Embedding(len(initial), len(offset), _weight=initial.clone(), sparse=True)
        self.log_steps = nn.Parameter(log_steps)
        self.offset = nn.Parameter(offset)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, fields) -> (B, fields, dim)."""
        return each_once(self.rows_of[ids + self.firsts], self._rounded)

    def _rounded(self, rows: Tensor) -> Tensor:
        bits = self.widths[rows].unsqueeze(-1)
        steps = self.log_steps.exp()[bits]
        return torch.where(bits > 0, quantised(self.rows(rows), steps, self.offset, bits), 0.0)

    @torch.no_grad()
    def stored(self) -> dict[str, NDArray[Any]]:
        """``codes`` of each width, ``steps`` and ``offset``; ``widths`` count those in use."""
        widths = self.widths.numpy()
        used, numbers = np.unique(widths, return_inverse=True)
        tensors: dict[str, NDArray[Any]] = {
            "used": used.astype(np.uint8),
            "widths": PackedRows.pack([numbers], [bits_for(len(used))]).data,
            "steps": self.log_steps.exp().numpy()[used],
            "offset": self.offset.numpy().copy(),
        }
        for width in used[used > 0].tolist():
            rows = self.rows.weight[torch.from_numpy(widths == width)]
            counted = (rows - self.offset) / self.log_steps[width].exp()
            codes = counted.round().clamp(*_limits(width)).numpy() + 2 ** (width - 1)
            packed = PackedRows.pack(list(codes.astype(np.uint32).T), [width] * codes.shape[1])
            tensors[f"codes.{width}"] = packed.data
        return tensors

    @torch.no_grad()
    def restore(self, stored: Mapping[str, NDArray[Any]]) -> None:
        """Rows become the numbers that their codes stand for."""
        count, dim = self.rows.weight.shape
        used = stored["used"].astype(np.int64)
        numbers = PackedRows(stored["widths"], 0, count, (bits_for(len(used)),)).unpack()[:, 0]
        widths = used[numbers]
        self.widths.copy_(torch.from_numpy(widths))
        self.offset.copy_(torch.from_numpy(stored["offset"]))
        self.rows.weight.zero_()
        for width, step in zip(used.tolist(), stored["steps"].tolist(), strict=True):
            self.log_steps[width] = float(np.log(step))
            if width:
                where = np.flatnonzero(widths == width)
                packed = PackedRows(stored[f"codes.{width}"], 0, len(where), (width,) * dim)
                codes = packed.unpack().astype(np.float32) - 2 ** (width - 1)
                self.rows.weight[torch.from_numpy(where)] = (
                    torch.from_numpy(codes) * step + self.offset
                )


def quantised(values: Tensor, step: Tensor, offset: Tensor, width: int | Tensor) -> Tensor:
    """Values on the grid ``offset + step * k`` of ``width`` bits; gradients pass the rounding
    straight through, and reach values within the grid, the step, and the offset (LSQ+)."""
    low, high = _limits(width)
    counted = (values - offset) / step
    rounded = counted + (counted.round() - counted).detach()
    if isinstance(low, Tensor):
        limited = torch.minimum(torch.maximum(rounded, low), high)
    else:
        limited = rounded.clamp(low, high)
    return limited * step + offset


def _limits(width: Any) -> tuple[Any, Any]:
    """The least and the largest k of a width."""
    half = 2.0 ** (width - 1)
    return -half, half - 1


def width_bytes(widths: NDArray[np.int64], dim: int) -> int:
    """Bytes that :meth:`FixedWidths.stored` takes for rows of such widths."""
    used, counts = np.unique(widths, return_counts=True)
    padding = 7  # of each packed tensor
    codes = sum(
        -(-count * width * dim // 8) + padding
        for width, count in zip(used.tolist(), counts.tolist(), strict=True)
        if width
    )
    numbers = -(-len(widths) * bits_for(len(used)) // 8) + padding
    return int(codes + numbers + 5 * len(used) + 4 * dim)
