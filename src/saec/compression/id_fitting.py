"""Patches of fields whose ids only grow, and what their rows lose with them."""

from __future__ import annotations

from dataclasses import dataclass

import saec.artifact as artifact
from saec.compression.field_update import FieldUpdate, compressed_afresh
from saec.compression.id_plan import IdDay, IdSurvey, patch_of

__all__ = ["IdFieldPlan"]


@dataclass(frozen=True, eq=False)
class IdFieldPlan:
    """See :class:`~saec.compression.field_update.FieldPlan`.

    whole: the field compressed afresh, if it is small.
    """

    day: IdDay
    survey: IdSurvey
    whole: FieldUpdate | None

    @classmethod
    def of(cls, day: IdDay, whole_rows: int, in_nats: bool) -> IdFieldPlan:
        """The plan of a field; see :func:`saec.update`."""
        whole = None
        if day.field.vocab_size <= whole_rows and day.price > 0:
            whole = compressed_afresh(day.field, day.metric if in_nats else None, day.price)
        return cls(day, day.survey(), whole)

    @property
    def stale(self) -> float:
        """New ids have the default row of the patch: without it they have none."""
        return self.survey.now

    def made(self, factor: float) -> FieldUpdate:
        """What costs least if bits cost ``factor`` times their price."""
        patch, saved = patch_of(self.day, self.survey, self.day.least * factor)
        changes = FieldUpdate(patch, max(self.stale - saved, 0.0), len(patch.ids))
        price = max(self.day.least, self.day.price) * factor
        if self.whole is not None and self.whole.cost(price) < changes.cost(price):
            return self.whole
        return changes

    def planned_bytes(self, factor: float) -> int:
        """Bytes of the changes."""
        patch, _ = patch_of(self.day, self.survey, self.day.least * factor)
        return artifact.entry_bytes(patch.entry)
