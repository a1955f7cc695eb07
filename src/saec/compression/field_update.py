"""What a patch has of a field, and what that costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import saec.artifact as artifact
from saec.codecs.axes.codec import Axes
from saec.compression.plan import field_rng
from saec.format.compressed_field import CompressedField
from saec.format.id_patch import IdPatch
from saec.format.keyed_patch import KeyedPatch
from saec.streaming.scratch import IN_MEMORY
from saec.tables.field import Field
from saec.tables.loss_metric import Metric

__all__ = ["FieldPlan", "FieldUpdate", "compressed_afresh"]


@dataclass(frozen=True, eq=False)
class FieldUpdate:
    """What a patch has of a field, the nats that all its rows and unknown keys lose with that, and
    how many keys or ids are changed."""

    stored: KeyedPatch | IdPatch | CompressedField
    loss: float
    keys: int

    @property
    def entry(self) -> artifact.Entry:
        """The field's entry in the patch."""
        return self.stored.entry

    def cost(self, price: float) -> float:
        """Nats, and bytes at the ``price`` of a bit."""
        return self.loss + 8 * price * artifact.entry_bytes(self.entry)


class FieldPlan(Protocol):
    """A field of today: its changes, or itself compressed afresh."""

    @property
    def stale(self) -> float:
        """Nats that rows and unknown keys lose by lookups as they are now."""

    def made(self, factor: float) -> FieldUpdate:
        """What costs least if bits cost ``factor`` times their price."""

    def planned_bytes(self, factor: float) -> int:
        """Bytes of the changes, expected."""


def compressed_afresh(field: Field, metric: Metric | None, price: float) -> FieldUpdate:
    """The field compressed afresh as costs least at a ``price`` of a bit.

    metric: None for squared error, of which half the mean counts as nats.
    """
    rng, codec = field_rng(0, field, 0), Axes()
    unit = 1.0 if metric is not None else 1 / (2 * field.census.total)
    options = codec.options(field, metric, rng, IN_MEMORY)
    best = min(options, key=lambda one: one.loss * unit + price * one.bits)
    coded = codec.encode(field, best.choice, rng, lambda share: None, IN_MEMORY)
    return FieldUpdate(coded.field, coded.lost, field.vocab_size)
