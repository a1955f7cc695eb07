"""The codec that stores a table unchanged: the largest size of a field, without loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saec.artifact import entry_bytes
from saec.codecs.protocol import Coded, Option
from saec.format.raw_field import RawField
from saec.streaming.map_reduce import Advance
from saec.streaming.rows import ArrayRows, FileRows
from saec.streaming.scratch import IN_MEMORY, Workspace
from saec.tables.field import Field
from saec.tables.loss_metric import Metric
from saec.util.absent_arrays import absent

__all__ = ["Raw"]

_COPIED_ROWS = 1 << 18


@dataclass(frozen=True)
class Raw:
    """Stores every table unchanged; see :class:`~saec.codecs.protocol.Codec`."""

    renumbers = False
    has_one_size = True
    only_copies = True

    def sampled_bytes(self, field: Field) -> int:
        """0: no rows are sampled."""
        return 0

    def options(
        self, field: Field, metric: Metric | None, rng: np.random.Generator, space: Workspace
    ) -> Sequence[Option]:
        """One option: the table itself, without distortion."""
        return [self.option(field)]

    def option(self, field: Field) -> Option:
        """The only option of ``field``."""
        return Option(8 * entry_bytes(self.least(field, IN_MEMORY).entry), 0.0, None)

    def least(self, field: Field, space: Workspace) -> RawField:
        """A field of the table's shape, with zeros that take no memory."""
        return RawField(field.name, absent(field.dtype, *field.rows.shape))

    def encode(
        self,
        field: Field,
        choice: object,
        rng: np.random.Generator,
        advance: Advance,
        space: Workspace,
    ) -> Coded:
        """The table's present values: a copy, since a model may go on training; a table in a file
        is mapped instead."""
        kept = Coded(RawField(field.name, _kept(field, space)), 0.0)
        advance(1.0)
        return kept


def _kept(field: Field, space: Workspace) -> NDArray[np.generic]:
    rows = field.rows
    if not isinstance(rows, ArrayRows):  # arrays in memory were checked when the field was made
        for part in field.parts:
            part.weights()
    if isinstance(rows, FileRows):
        return rows.mapped()
    data = space.zeros(rows.nbytes)
    kept = data.view(rows.dtype).reshape(rows.shape)
    for start in range(0, len(rows), _COPIED_ROWS):
        block = rows.read(start, min(start + _COPIED_ROWS, len(rows)))
        kept[start : start + len(block)] = block
    return kept
