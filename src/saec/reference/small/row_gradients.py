"""Gradients of tables between processes: DQRM's rows of int8 with error compensation.

Source: Zhou et al., DQRM: Deep Quantized Recommendation Models, 2024 (arXiv 2410.20046): only the
rows that were looked up are sent, each number rounded to 8 bits; what the rounding loses is added
to the row's next gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = ["RowGradients", "mean_of_rows"]

_TOP = 127
_LEAST_SCALE = 1e-30  # of gradients that are all 0


class RowGradients:
    """Replaces the sparse gradients of tables by their means over all processes.

    All processes of the default group call :meth:`exchange` after each backward pass.

    Args:
        tables: (n, dim) parameters of one dim with sparse gradients, the same in all processes.
        rounded: send int8 and one float32 scale for each table; else float32.

    Attributes:
        sent: bytes that this process has sent to each of the others: numbers of rows, 4 bytes each,
            values, and for each table how many and the scale.
    """

    def __init__(self, tables: Sequence[nn.Parameter], *, rounded: bool = True) -> None:
        self._tables, self._rounded = list(tables), rounded
        self._errors = [torch.zeros_like(table) for table in self._tables]
        self.sent = 0

    @torch.no_grad()
    def exchange(self) -> None:
        """See above; a table without a gradient sends none."""
        own = []
        for place, table in enumerate(self._tables):
            rows, values = _of(table)
            if self._rounded:
                own.append((rows, *self.compensated(place, rows, values)))
            else:
                own.append((rows, values, torch.ones(1)))
        for rows, values, scale in own:
            self.sent += 4 * rows.numel() + values.nbytes + 4 + scale.nbytes * self._rounded
        shares = _gathered(own)
        for place, table in enumerate(self._tables):
            table.grad = mean_of_rows([share[place] for share in shares], table)

    @torch.no_grad()
    def compensated(self, place: int, rows: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Codes (k, dim) int8 and a scale (1,) of the values and what earlier ones lost.

        Args:
            place: of the table.
            rows: (k,) different row numbers.
            values: (k, dim) their gradients.
        """
        wanted = values + self._errors[place][rows]
        largest = wanted.abs().max() if wanted.numel() else torch.tensor(0.0)
        scale = (largest / _TOP).clamp(min=_LEAST_SCALE)
        codes = (wanted / scale).round()
        self._errors[place][rows] = wanted - scale * codes
        return codes.to(torch.int8), scale.reshape(1)


def mean_of_rows(shares: Sequence[tuple[Tensor, Tensor, Tensor]], table: Tensor) -> Tensor:
    """The sparse mean over processes of ``scale * codes`` at ``rows``."""
    rows = torch.cat([rows for rows, _, _ in shares])
    values = torch.cat([scale * codes.float() for _, codes, scale in shares]) / len(shares)
    return torch.sparse_coo_tensor(
        rows[None], values, table.shape, check_invariants=False
    ).coalesce()


def _of(table: nn.Parameter) -> tuple[Tensor, Tensor]:
    """Row numbers (k,) and values (k, dim) of a table's gradient."""
    if table.grad is None:
        return torch.zeros(0, dtype=torch.int64), table.new_zeros(0, table.shape[1])
    gradient = table.grad.coalesce()
    return gradient.indices()[0], gradient.values()


Part = tuple[Tensor, Tensor, Tensor]
"""Row numbers (k,), their values (k, dim), and the scale (1,) of one table."""


def _gathered(own: Sequence[Part]) -> list[list[Part]]:
    """The parts of all tables that each process sent; processes may differ in numbers of rows."""
    counts = _all(torch.tensor([len(rows) for rows, _, _ in own]))
    most = max(int(count.sum()) for count in counts)
    joined = [torch.cat(tensors) for tensors in zip(*own, strict=True)]
    rows, values = (_all(_padded(part, most)) for part in (joined[0].to(torch.int32), joined[1]))
    scales = _all(joined[2])
    shares = []
    for process, count in enumerate(counts):
        sizes = count.tolist()
        total = sum(sizes)
        parts = (
            torch.split(rows[process][:total].long(), sizes),
            torch.split(values[process][:total], sizes),
        )
        shares.append(list(zip(*parts, torch.split(scales[process], 1), strict=True)))
    return shares


def _padded(part: Tensor, count: int) -> Tensor:
    padded = part.new_zeros(count, *part.shape[1:])
    padded[: len(part)] = part
    return padded


def _all(own: Tensor) -> list[Tensor]:
    """``own`` of each process, all of one shape."""
    found = [torch.zeros_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(found, own)
    return found
