"""Patches of fields within a limit of bytes, and what rows lose with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

import saec.artifact as artifact
from saec.codecs.protocol import Option
from saec.compression.field_update import FieldPlan, FieldUpdate, SmallField
from saec.compression.patch_plan import ChosenRows, PatchPlan
from saec.errors import BudgetError
from saec.format.compressed_field import CompressedField
from saec.format.keyed_field import KeyedField
from saec.format.keyed_patch import KeyedPatch
from saec.format.patched_field import PatchedField
from saec.streaming.chunks import Chunk
from saec.util.in_threads import in_threads

__all__ = ["KeyedFieldPlan", "PatchLimit", "made_within"]

_MOST_FACTOR = 1e9
_FAR_FACTOR = 64.0  # from here on it may be that nothing fits
_BELOW_TWO = 1.999
_HALVINGS = 8
_ATTEMPTS = 12


@dataclass(frozen=True, eq=False)
class KeyedFieldPlan:
    """See :class:`~saec.compression.field_update.FieldPlan`.

    rows: the changes; whole: the field, if it is small and may be compressed afresh; stale: nats
    that rows and unknown keys lose by lookups as they are now.
    """

    rows: PatchPlan
    whole: SmallField | None
    stale: float

    @classmethod
    def of(cls, rows: PatchPlan, whole_rows: int, in_nats: bool) -> KeyedFieldPlan:
        """The plan of a field; see :func:`saec.update`."""
        stale = rows.survey.now + _unknown(rows, rows.day.coder.base)
        whole = None
        if rows.day.field.vocab_size <= whole_rows and max(rows.day.threshold, rows.day.price) > 0:
            metric = rows.day.coder.metric if in_nats else None
            weighed = rows.day.worth.weighed(stale, rows.survey.now)
            whole = SmallField(rows.day.field, metric, weighed)
        return cls(rows, whole, stale)

    def made(self, factor: float) -> FieldUpdate:
        """What costs least if bits cost ``factor`` times their price."""
        chosen = self.rows.at(factor)
        patch = self.rows.built(chosen)
        loss = self._loss_with(chosen, patch)
        changes = FieldUpdate(patch, loss, self._weighed(loss, chosen), len(chosen.positions))
        price = self._price(factor)
        option = self._afresh(changes.cost(price), price)
        if self.whole is None or option is None:
            return changes
        return min(changes, self.whole.made(option), key=lambda one: one.cost(price))

    def planned_bytes(self, factor: float) -> int:
        """Bytes of the changes or of the whole field, expected."""
        chosen = self.rows.at(factor)
        nbytes, price = self.rows.planned_bytes(chosen), self._price(factor)
        loss = self._weighed(max(self.stale - chosen.saved, 0.0), chosen)
        option = self._afresh(loss + 8 * price * nbytes, price)
        return nbytes if option is None else int(option.bits // 8)

    def planned_keys(self, factor: float) -> int:
        """See :class:`~saec.compression.field_update.FieldPlan`."""
        return len(self.rows.at(factor).positions)

    def _afresh(self, cost: float, price: float) -> Option | None:
        """How the field is compressed afresh; None if changes, which ``cost`` so much, are
        cheaper."""
        option = None if self.whole is None else self.whole.option(price)
        if self.whole is None or option is None or self.whole.cost(option, price) >= cost:
            return None
        return option

    def _weighed(self, loss: float, chosen: ChosenRows) -> float:
        """The loss with these changes as it counts for choices."""
        return self.rows.day.worth.weighed(loss, self.rows.survey.now - chosen.now)

    def _price(self, factor: float) -> float:
        return max(self.rows.day.threshold, self.rows.day.price) * factor

    def _loss_with(self, chosen: ChosenRows, patch: KeyedPatch) -> float:
        present = self.rows.day.coder.base
        before = present.patches if isinstance(present, PatchedField) else ()
        behind = PatchedField(self.rows.base, [*before, patch])
        more = _unknown(self.rows, behind) - _unknown(self.rows, present)
        return max(self.stale + more + _strangers(self.rows, chosen, patch) - chosen.saved, 0.0)


@dataclass(frozen=True)
class PatchLimit:
    """The most bytes of a patch.

    hard: whether it is an error if that is not possible; otherwise the smallest patch is made.
    """

    nbytes: int
    hard: bool


def made_within(plans: Sequence[FieldPlan], limit: PatchLimit | None) -> list[FieldUpdate]:
    """What the patch has of all fields, together within ``limit``.

    Raises:
        BudgetError: that is not possible, and the limit is hard.
    """
    if limit is None:
        return [plan.made(1.0) for plan in plans]
    wanted = [plan.planned_keys(1.0) for plan in plans]
    factor = _planned_factor(plans, limit.nbytes)
    factors = [factor * 1.1**step for step in range(_ATTEMPTS) if factor < _MOST_FACTOR]
    for factor in [*factors, _MOST_FACTOR]:
        made = [plan.made(factor) for plan in plans]
        if _size(made) <= limit.nbytes:
            break
    else:
        if limit.hard:
            raise BudgetError(
                f"a patch of {limit.nbytes} bytes cannot be made: the least is {_size(made)}"
            )
    return [_told(own, keys) for own, keys in zip(made, wanted, strict=True)]


def _planned_factor(plans: Sequence[FieldPlan], limit: int) -> float:
    """About the least factor of the price at which the patch keeps the limit."""

    def fits(factor: float) -> bool:
        return artifact.patch_bytes([]) + sum(p.planned_bytes(factor) for p in plans) <= limit

    if fits(1.0):
        return 1.0
    low, high = 1.0, _BELOW_TWO  # rows are coded anew at each power of two
    while high < _MOST_FACTOR and not fits(high):
        if low == _FAR_FACTOR and not fits(_MOST_FACTOR):
            return _MOST_FACTOR
        low, high = 2 * low, 2 * high
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def _told(made: FieldUpdate, wanted: int) -> FieldUpdate:
    """With the number of keys that are left out because of the limit."""
    if isinstance(made.stored, CompressedField):
        return made
    return replace(made, stored=made.stored.drop(max(wanted - made.keys, 0)))


def _size(made: Sequence[FieldUpdate]) -> int:
    return artifact.patch_bytes([one.entry for one in made])


def _unknown(plan: PatchPlan, field: KeyedField) -> float:
    rows = field.rows_of_hashes(plan.day.unknown_hashes())
    return plan.day.unknown_nats(rows)


def _strangers(plan: PatchPlan, chosen: ChosenRows, patch: KeyedPatch) -> float:
    """Nats that keys of today lose which are not in the patch and are taken for some that are."""
    field = plan.day.field
    assert field.keys is not None, "a keyed field has keys"
    positions, hashes = chosen.positions, field.keys.hashes

    def lost(part: Chunk) -> float:
        own = hashes[part.start : part.stop]
        taken = patch.classes(own) > -2
        first, last = np.searchsorted(positions, (part.start, part.stop))
        taken[positions[first:last] - part.start] = False
        places = np.flatnonzero(taken)
        if not len(places):
            return 0.0
        return plan.day.stranger_nats(part, places, patch.rows.rows(own[places]))

    return sum(in_threads(lost, field.parts, field.part_threads))
