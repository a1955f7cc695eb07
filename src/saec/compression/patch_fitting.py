"""Patches of fields within a limit of bytes, and what rows lose with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

import saec.artifact as artifact
from saec.compression.field_update import FieldPlan, FieldUpdate, compressed_afresh
from saec.compression.patch_plan import ChosenRows, PatchPlan
from saec.errors import BudgetError
from saec.format.compressed_field import CompressedField
from saec.format.keyed_field import KeyedField
from saec.format.keyed_patch import KeyedPatch
from saec.format.patched_field import PatchedField

__all__ = ["KeyedFieldPlan", "made_within"]

_MOST_FACTOR = 1e9
_HALVINGS = 24
_ATTEMPTS = 12


@dataclass(frozen=True, eq=False)
class KeyedFieldPlan:
    """See :class:`~saec.compression.field_update.FieldPlan`.

    rows: the changes; whole: the field compressed afresh, if it is small; stale: nats that rows and
    unknown keys lose by lookups as they are now.
    """

    rows: PatchPlan
    whole: FieldUpdate | None
    stale: float

    @classmethod
    def of(cls, rows: PatchPlan, whole_rows: int, in_nats: bool) -> KeyedFieldPlan:
        """The plan of a field; see :func:`saec.update`."""
        stale = rows.survey.now + _unknown(rows, rows.day.coder.base)
        whole = None
        if rows.day.field.vocab_size <= whole_rows and rows.base.price > 0:
            metric = rows.day.coder.metric if in_nats else None
            whole = compressed_afresh(rows.day.field, metric, rows.base.price)
        return cls(rows, whole, stale)

    def made(self, factor: float) -> FieldUpdate:
        """What costs least if bits cost ``factor`` times their price."""
        chosen = self.rows.at(factor)
        patch = self.rows.built(chosen)
        changes = FieldUpdate(patch, self._loss_with(chosen, patch), len(chosen.positions))
        price = max(self.rows.day.threshold, self.rows.base.price) * factor
        if self.whole is not None and self.whole.cost(price) < changes.cost(price):
            return self.whole
        return changes

    def planned_bytes(self, factor: float) -> int:
        """Bytes of the changes, expected."""
        return self.rows.planned_bytes(self.rows.at(factor))

    def _loss_with(self, chosen: ChosenRows, patch: KeyedPatch) -> float:
        present = self.rows.day.coder.base
        before = present.patches if isinstance(present, PatchedField) else ()
        behind = PatchedField(self.rows.base, [*before, patch])
        more = _unknown(self.rows, behind) - _unknown(self.rows, present)
        return max(self.stale + more + _strangers(self.rows, chosen, patch) - chosen.saved, 0.0)


def made_within(plans: Sequence[FieldPlan], limit: int | None) -> list[FieldUpdate]:
    """What the patch has of all fields, of at most ``limit`` bytes together.

    Raises:
        BudgetError: that is not possible.
    """
    free = [plan.made(1.0) for plan in plans]
    if limit is None or _size(free) <= limit:
        return free
    factor = _planned_factor(plans, limit)
    for factor in [*(factor * 1.1**step for step in range(_ATTEMPTS)), _MOST_FACTOR]:
        made = [plan.made(factor) for plan in plans]
        if _size(made) <= limit:
            return [_told(own, other) for own, other in zip(made, free, strict=True)]
    raise BudgetError(f"a patch of {limit} bytes cannot be made: the least is {_size(made)}")


def _planned_factor(plans: Sequence[FieldPlan], limit: int) -> float:
    """About the least factor of the price at which the patch keeps the limit."""
    low, high = 1.0, _MOST_FACTOR
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        size = artifact.patch_bytes([]) + sum(plan.planned_bytes(middle) for plan in plans)
        low, high = (low, middle) if size <= limit else (middle, high)
    return high


def _told(made: FieldUpdate, free: FieldUpdate) -> FieldUpdate:
    """With the number of keys that are left out because of the limit."""
    if isinstance(made.stored, CompressedField):
        return made
    return replace(made, stored=made.stored.drop(max(free.keys - made.keys, 0)))


def _size(made: Sequence[FieldUpdate]) -> int:
    return artifact.patch_bytes([one.entry for one in made])


def _unknown(plan: PatchPlan, field: KeyedField) -> float:
    rows = field.rows_of_hashes(plan.day.unknown_hashes())
    return plan.day.unknown_nats(rows)


def _strangers(plan: PatchPlan, chosen: ChosenRows, patch: KeyedPatch) -> float:
    """Nats that keys of today lose which are not in the patch and are taken for some that are."""
    assert plan.day.field.keys is not None, "a keyed field has keys"
    positions, hashes = chosen.positions, plan.day.field.keys.hashes
    lost = 0.0
    for part in plan.day.field.parts:
        own = hashes[part.start : part.stop]
        taken = patch.classes(own) > -2
        first, last = np.searchsorted(positions, (part.start, part.stop))
        taken[positions[first:last] - part.start] = False
        places = np.flatnonzero(taken)
        if len(places):
            lost += plan.day.stranger_nats(part, places, patch.rows.rows(own[places]))
    return lost
