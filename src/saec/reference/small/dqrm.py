"""DQRM: rows trained with the rounding to 4 bits that they are served with.

Source: Zhou et al., DQRM: Deep Quantized Recommendation Models, 2024 (arXiv 2410.20046):
only the rows that are looked up are quantised, with the gradient passed straight through, and the
scale of a table is renewed every so many steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saec.bits.packing import PackedRows
from saec.reference.small.features import FieldFeatures
from saec.reference.small.tables import (
    INITIAL_STD,
    FieldModule,
    SeparateTables,
    SmallTables,
    normal_rows,
)

__all__ = ["Dqrm"]

_LEAST_SCALE = 1e-12  # of a table of zeros


@dataclass(frozen=True)
class Dqrm:
    """Every number is a whole multiple, from -7 to 7, of the scale of its table.

    See :class:`~saec.reference.small.tables.SmallMethod`.

    Args:
        every: steps of training from one renewal of the scales to the next.
    """

    every: int = 200

    space: ClassVar[Mapping[str, Sequence[Any]]] = {"every": (1, 20, 200)}
    has_one_size: ClassVar[bool] = True

    def build(self, fields: Sequence[FieldFeatures], dim: int, nbytes: int) -> SmallTables:
        """Tables of 4 bits a number, whatever bytes are asked for."""
        return QuantisedTables(fields, [QuantisedRows(field, dim, self.every) for field in fields])


class QuantisedRows(FieldModule):
    """Symmetric rounding by the largest absolute value of the table."""

    rows_of: Tensor
    scale: Tensor

    def __init__(self, field: FieldFeatures, dim: int, every: int) -> None:
        super().__init__()
        self._every, self._steps = every, 0
        self.register_buffer("rows_of", field.rows, persistent=False)
        self.rows = normal_rows(field.count, dim, INITIAL_STD)
        with torch.no_grad():
            self.rows.weight[0] = 0.0  # of unseen features
        self.register_buffer("scale", torch.zeros(1))
        self.renew()

    def forward(self, ids: Tensor) -> Tensor:
        """(B,) -> (B, dim), rounded; the gradient is that of the rows themselves."""
        if self.training:
            if self._steps % self._every == 0:
                self.renew()
            self._steps += 1
        rows: Tensor = self.rows(self.rows_of[ids])
        rounded = self.scale * self.codes(rows)
        return rows + (rounded - rows).detach()

    @torch.no_grad()
    def renew(self) -> None:
        """Take the scale from the table as it is."""
        self.scale.fill_(max(float(self.rows.weight.abs().max()) / _TOP, _LEAST_SCALE))

    def codes(self, rows: Tensor) -> Tensor:
        """The multiples of the scale, from -7 to 7."""
        return (rows / self.scale).round().clamp(-_TOP, _TOP)


class QuantisedTables(SeparateTables):
    """Stored as packed codes of 4 bits, and a float32 scale for each table."""

    parts: Any  # of QuantisedRows

    @torch.no_grad()
    def stored(self) -> dict[str, NDArray[Any]]:
        """``codes`` and ``scale`` of each field."""
        tensors: dict[str, NDArray[Any]] = {}
        for number, part in enumerate(self.parts):
            codes = (part.codes(part.rows.weight) + _TOP).numpy().astype(np.uint32)
            packed = PackedRows.pack(list(codes.T), [_BITS] * codes.shape[1])
            tensors[f"{number}.codes"] = packed.data
            tensors[f"{number}.scale"] = part.scale.numpy().copy()
        return tensors

    @torch.no_grad()
    def restore(self, stored: Mapping[str, NDArray[Any]]) -> None:
        """Rows become the numbers that their codes stand for."""
        for number, part in enumerate(self.parts):
            count, dim = part.rows.weight.shape
            packed = PackedRows(stored[f"{number}.codes"], 0, count, (_BITS,) * dim)
            codes = packed.unpack().reshape(count, dim).astype(np.float32) - _TOP
            part.scale.copy_(torch.from_numpy(stored[f"{number}.scale"]))
            part.rows.weight.copy_(part.scale * torch.from_numpy(codes))


_BITS = 4
_TOP = 2 ** (_BITS - 1) - 1
