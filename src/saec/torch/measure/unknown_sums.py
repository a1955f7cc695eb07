"""The Fisher information of the rows that a model uses for unknown keys."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from saec.errors import ModuleError, OptionError
from saec.torch.measure.metric_sums import MetricSums
from saec.torch.model.call import Batches, Loss, check_repeatable
from saec.torch.model.model_table import ModelTable

__all__ = ["UnknownRows", "UnknownSums"]

logger = logging.getLogger(__name__)

# A matrix from few lookups is mostly noise: the field's own one counts as this many more.
_MORE = 64


@dataclass(frozen=True, eq=False)
class UnknownRows:
    """The numbers of the rows that a model uses for unknown keys, by field name, and batches of
    rows that the tables have not seen, in which they are looked up."""

    rows: Mapping[str, int]
    batches: Batches

    def check(self, tables: Sequence[ModelTable]) -> None:
        """Reject what does not fit the tables.

        Raises:
            ModuleError: there is no such field, or it has no such row.
            OptionError: a number is not a whole number.
            DataError: the batches are an iterator.
        """
        sizes = {part.name: part.last - part.first for table in tables for part in table.parts}
        for name, row in self.rows.items():
            if name not in sizes:
                raise ModuleError(f"unknown: no field {name!r}; there are {sorted(sizes)}")
            if isinstance(row, bool) or not isinstance(row, int | np.integer):
                raise OptionError(f"unknown: {name!r} needs the number of a row, not {row!r}")
            if not 0 <= row < sizes[name]:
                raise ModuleError(f"unknown: row {row} of {name!r} is outside [0, {sizes[name]})")
        check_repeatable(self.batches, "unseen")


class UnknownSums(MetricSums):
    """One measurement of lookups of the rows for unknown keys alone."""

    def __init__(
        self,
        model: nn.Module,
        tables: Sequence[ModelTable],
        loss_fn: Loss | None,
        rows: Mapping[str, int],
    ) -> None:
        super().__init__(model, tables, loss_fn)
        firsts = {part.name: part.first for table in tables for part in table.parts}
        self._rows = {name: firsts[name] + row for name, row in rows.items()}
        self._lookups = dict.fromkeys(rows, 0)
        self._own = dict.fromkeys(rows, 0)

    def unknown_matrices(
        self, known: Mapping[str, NDArray[np.float64]]
    ) -> dict[str, NDArray[np.float64]]:
        """(dim, dim) by field name: what the metric would be if all lookups were of unknown keys.

        ``known``: the fields' own metrics.
        """
        found = {}
        for name, own in self._own.items():
            if own == 0:
                logger.info(
                    "field %r: none of %d unseen examples looked up the row of unknown keys, or it "
                    "is the row at padding_idx; they count like other lookups",
                    name,
                    self.examples,
                )
            each = self._lookups[name] / max(self.examples, 1)  # lookups in an example
            sums = self.sums[name].matrix.cpu().numpy() * each
            found[name] = (sums + _MORE * known[name]) / (own + _MORE)
        return found

    def _wanted(self, name: str, ids: Tensor, chosen: Tensor | slice) -> Tensor | slice:
        if name not in self._rows:
            return torch.zeros(0, dtype=torch.int64, device=ids.device)
        hit = ids[chosen] == self._rows[name]
        own = hit.nonzero()[:, 0] if isinstance(chosen, slice) else chosen[hit]
        self._lookups[name] += len(hit)
        self._own[name] += len(own)
        return own

    def _add_computed(
        self, tables: Sequence[ModelTable], outputs: Tensor, loss: Tensor, index: int
    ) -> None:
        """What a model computes with a whole table looks up no key."""
