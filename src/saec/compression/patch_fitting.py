"""Patches of fields within a limit of bytes, and what rows lose with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

import saec.artifact as artifact
from saec.codecs.axes.keyed import keyed_options
from saec.codecs.axes.keyed_encode import encode_keyed
from saec.compression.patch_plan import ChosenRows, PatchPlan
from saec.compression.plan import field_rng
from saec.errors import BudgetError
from saec.format.keyed_field import KeyedField
from saec.format.keyed_patch import KeyedPatch
from saec.format.patched_field import PatchedField
from saec.streaming.scratch import IN_MEMORY

__all__ = ["FieldPlan", "FieldUpdate", "made_within"]

_MOST_FACTOR = 1e9
_HALVINGS = 24
_ATTEMPTS = 12


@dataclass(frozen=True, eq=False)
class FieldUpdate:
    """What a patch has of a field, the nats that all its rows and unknown keys lose with that, and
    how many keys are changed."""

    stored: KeyedPatch | KeyedField
    loss: float
    keys: int

    @property
    def entry(self) -> artifact.Entry:
        """The field's entry in the patch."""
        return self.stored.entry

    def cost(self, price: float) -> float:
        """Nats, and bytes at the ``price`` of a bit."""
        return self.loss + 8 * price * artifact.entry_bytes(self.entry)


@dataclass(frozen=True, eq=False)
class FieldPlan:
    """A field of today: its changes, or itself compressed afresh.

    rows: the changes; whole: the field compressed afresh, if it is small; stale: nats that rows and
    unknown keys lose by lookups as they are now.
    """

    rows: PatchPlan
    whole: FieldUpdate | None
    stale: float

    @classmethod
    def of(cls, rows: PatchPlan, whole_rows: int, in_nats: bool) -> FieldPlan:
        """The plan of a field; see :func:`saec.update`."""
        stale = rows.survey.now + _unknown(rows, rows.day.coder.base)
        small = rows.day.field.vocab_size <= whole_rows and rows.base.price > 0
        return cls(rows, _compressed(rows, in_nats) if small else None, stale)

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
    if isinstance(made.stored, KeyedPatch):
        made.stored.drop(max(free.keys - made.keys, 0))
    return made


def _size(made: Sequence[FieldUpdate]) -> int:
    return artifact.patch_bytes([one.entry for one in made])


def _compressed(rows: PatchPlan, in_nats: bool) -> FieldUpdate:
    """The field compressed afresh at the base's price of a bit."""
    field, metric = rows.day.field, rows.day.coder.metric
    rng = field_rng(0, field, 0)
    options = keyed_options(field, metric if in_nats else None, rng, IN_MEMORY)
    unit = 1.0 if in_nats else 1 / (2 * field.census.total)
    best = min(options, key=lambda one: one.loss * unit + rows.base.price * one.bits)
    coded = encode_keyed(field, best.choice, lambda share: None, IN_MEMORY)
    assert isinstance(coded.field, KeyedField), "it has keys"
    return FieldUpdate(coded.field, coded.lost, field.vocab_size)


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
