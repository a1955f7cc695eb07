"""Patches of fields whose ids only grow, and what their rows lose with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import saec.artifact as artifact
from saec.compression.chosen_ids import ChosenIds, patch_of
from saec.compression.field_update import FieldUpdate, SmallField
from saec.compression.id_plan import IdDay, IdSurvey

__all__ = ["IdFieldPlan"]


@dataclass(frozen=True, eq=False)
class IdFieldPlan:
    """See :class:`~saec.compression.field_update.FieldPlan`.

    small: whether the field may be compressed afresh; in_nats: whether it has a metric.
    """

    day: IdDay
    survey: IdSurvey
    small: bool
    in_nats: bool
    _made: dict[float, ChosenIds] = field(default_factory=dict, init=False)

    @classmethod
    def of(cls, day: IdDay, whole_rows: int, in_nats: bool) -> IdFieldPlan:
        """The plan of a field; see :func:`saec.update`."""
        small = day.field.vocab_size <= whole_rows and day.price > 0
        return cls(day, day.survey(), small, in_nats)

    @property
    def stale(self) -> float:
        """New ids have the default row of the patch: without it they have none."""
        return self.survey.now

    def made(self, factor: float) -> FieldUpdate:
        """What costs least if bits cost ``factor`` times their price."""
        chosen = self._patch(factor)
        loss = max(self.stale - chosen.saved, 0.0)
        weighed = self.day.worth.weighed(loss, self.survey.now - chosen.now)
        changes = FieldUpdate(chosen.patch, loss, weighed, len(chosen.patch.ids))
        price = max(self.day.least, self.day.price) * factor
        if not self._afresh_may_pay(changes, price):
            return changes
        option = self._whole.option(price)
        if option is None:
            return changes
        whole = self._whole.made(option)
        return whole if whole.cost(price) < changes.cost(price) else changes

    def _patch(self, factor: float) -> ChosenIds:
        """The changes if bits cost ``factor`` times their price. Only the last ones are kept: plans
        and the patch ask for the same ones in turn."""
        if factor not in self._made:
            self._made.clear()
            self._made[factor] = patch_of(self.day, self.survey, self.day.least_at(factor))
        return self._made[factor]

    def _afresh_may_pay(self, changes: FieldUpdate, price: float) -> bool:
        """Compressed afresh, the field takes about as many bytes as the base; half of their cost is
        more than changes of a quiet day cost, and then it need not be compressed."""
        least = 8 * price * artifact.entry_bytes(self.day.base.entry) / 2
        return self.small and changes.cost(price) > least

    @cached_property
    def _whole(self) -> SmallField:
        metric = self.day.metric if self.in_nats else None
        weighed = self.day.worth.weighed(self.stale, self.survey.now)
        return SmallField(self.day.field, metric, weighed)

    def planned_keys(self, factor: float) -> int:
        """See :class:`~saec.compression.field_update.FieldPlan`."""
        return len(self._patch(factor).patch.ids)

    def planned_bytes(self, factor: float) -> int:
        """Bytes of the changes."""
        return artifact.entry_bytes(self._patch(factor).patch.entry)
