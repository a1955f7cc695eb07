"""What a patch has of a field, and what that costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import saec.artifact as artifact
from saec.codecs.axes.codec import Axes
from saec.codecs.protocol import Option
from saec.compression.plan import field_rng
from saec.format.compressed_field import CompressedField
from saec.format.id_patch import IdPatch
from saec.format.keyed_patch import KeyedPatch
from saec.streaming.scratch import IN_MEMORY
from saec.tables.field import Field
from saec.tables.loss_metric import Metric

__all__ = ["FieldPlan", "FieldUpdate", "SmallField"]


@dataclass(frozen=True, eq=False)
class FieldUpdate:
    """What a patch has of a field.

    loss: nats that all its rows and unknown keys lose with that; weighed: the same as it counts for
    choices, by the worth of the field's changes; keys: how many keys or ids are changed.
    """

    stored: KeyedPatch | IdPatch | CompressedField
    loss: float
    weighed: float
    keys: int

    @property
    def entry(self) -> artifact.Entry:
        """The field's entry in the patch."""
        return self.stored.entry

    def cost(self, price: float) -> float:
        """Nats as they count, and bytes at the ``price`` of a bit."""
        return self.weighed + 8 * price * artifact.entry_bytes(self.entry)


class FieldPlan(Protocol):
    """A field of today: its changes, or itself compressed afresh."""

    @property
    def stale(self) -> float:
        """Nats that rows and unknown keys lose by lookups as they are now."""

    def made(self, factor: float) -> FieldUpdate:
        """What costs least if bits cost ``factor`` times their price."""

    def planned_bytes(self, factor: float) -> int:
        """Its bytes, expected."""

    def planned_keys(self, factor: float) -> int:
        """How many keys or ids are changed, if they are not compressed afresh."""


@dataclass(frozen=True, eq=False)
class SmallField:
    """A field that may be compressed afresh, as costs least at a price of a bit.

    metric: None for squared error, of which half the mean counts as nats; stale: nats that are lost
    without an update, as they count for choices. At a high price the cheapest option may lose more
    than that; it is no update.
    """

    field: Field
    metric: Metric | None
    stale: float

    def option(self, price: float) -> Option | None:
        """The one with the least nats and bits at the ``price`` of a bit; None if all lose as much
        as without an update."""
        saving = [one for one in self._options if one.loss * self._unit < self.stale]
        return min(saving, key=lambda one: self.cost(one, price), default=None)

    def cost(self, option: Option, price: float) -> float:
        """Nats, and bits at the ``price`` of one."""
        return option.loss * self._unit + price * option.bits

    def made(self, option: Option) -> FieldUpdate:
        """The field compressed afresh by an ``option``."""
        rng = field_rng(0, self.field, 0)
        coded = Axes().encode(self.field, option.choice, rng, lambda share: None, IN_MEMORY)
        return FieldUpdate(coded.field, coded.lost, coded.lost, self.field.vocab_size)

    @cached_property
    def _options(self) -> Sequence[Option]:
        return Axes().options(self.field, self.metric, field_rng(0, self.field, 0), IN_MEMORY)

    @property
    def _unit(self) -> float:
        return 1 / self.field.nats_as_distortion(metric=self.metric is not None)
