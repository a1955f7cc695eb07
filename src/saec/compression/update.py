"""The next day: a patch with what changed since an artifact, by its own codes."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

import saec.artifact as artifact
from saec.compression.afresh import Afresh, compared_afresh
from saec.compression.day_plan import check_removed, metrics_of, plan_of
from saec.compression.patch_plan import ChosenRows, PatchPlan
from saec.errors import BudgetError, OptionError
from saec.format.compressed import Compressed
from saec.format.keyed_field import KeyedField
from saec.format.keyed_patch import KeyedPatch, PatchCounts
from saec.format.load import load
from saec.format.patched import next_patch
from saec.format.patched_field import PatchedField
from saec.tables.field import Field, check_fields
from saec.util.progress import track
from saec.util.sizes import parse_size

__all__ = ["Update", "update"]

_MOST_FACTOR = 1e9
_HALVINGS = 24
_ATTEMPTS = 12


@dataclass(frozen=True, eq=False)
class Update:
    """What a patch holds, and what it costs to keep the codes of the base.

    Attributes:
        nbytes: of the patch.
        counts: keys that were added, moved, removed, and dropped to keep ``max_bytes``.
        loss: nats that all fields lose with this patch, expected; without metrics, half the mean
            squared error.
        stale_loss: the same if lookups went on without this patch.
        afresh: what compressing afresh would give; None if that was not asked for.
        chain_bytes: of the base and of all patches, this one included.
    """

    nbytes: int
    counts: PatchCounts
    loss: float
    stale_loss: float
    afresh: Afresh | None
    chain_bytes: int

    @property
    def afresh_is_cheaper(self) -> bool:
        """Whether an artifact compressed afresh that loses no more takes no more bytes than this
        patch alone."""
        return self.afresh is not None and self.afresh.nbytes <= self.nbytes

    @property
    def frozen_cost(self) -> float | None:
        """Nats that the codes of the base cost today: of :attr:`loss`, those that compressing
        afresh to :attr:`chain_bytes` would save; None if that was not asked for."""
        return None if self.afresh is None else max(self.loss - self.afresh.loss, 0.0)


def update(
    base: str | os.PathLike[str] | Compressed,
    fields: Iterable[Field],
    *,
    out: str | os.PathLike[str],
    patches: Sequence[str | os.PathLike[str]] = (),
    removed: Mapping[str, ArrayLike] | None = None,
    metrics: Mapping[str, ArrayLike] | None = None,
    threshold: float | None = None,
    max_bytes: int | str | None = None,
    compare: bool = True,
    progress: bool = True,
) -> Update:
    """Write a patch that makes ``base`` an artifact of today's ``fields``.

    The axes, values and classes of the base stay. A row gets a new code if that saves more nats
    than its bits cost: rows of new keys, and rows that moved. All others are stale and are not
    coded again. :func:`saec.load` takes the base and its patches, oldest first.

    Args:
        base: an artifact with keys, or its path.
        fields: today's tables, frequencies and keys; fields of the base that are not given do not
            change.
        out: path of the patch.
        patches: the patches before this one, oldest first, if ``base`` is a path.
        removed: by field name the keys that have the default row from now on. Keys that are only
            absent from ``fields`` keep their rows.
        metrics: today's (dim, dim) matrix of every field, if the base was compressed with metrics.
        threshold: nats per bit that a new code must save; None for the price at which the base was
            compressed. With 0 every row is coded that gets nearer.
        max_bytes: limit of the patch's size, in bytes or as ``"2MB"``. Rows that save least per bit
            are left out.
        compare: forecast what compressing afresh would give; takes most of the time of small
            updates.
        progress: show progress bars on stderr for work over two seconds.

    Raises:
        FieldError: there are no fields, a field is unknown to the base, has no keys there, or
            differs in dim, dtype or kind of keys.
        MetricError: metrics are missing or malformed, or given for a base without metrics.
        KeysError: a removed key is in today's table.
        OptionError: the threshold is negative, or is not given and the base does not state a price.
        BudgetError: removed keys alone take more than ``max_bytes``.
        ArtifactError: the base or a patch is damaged, or ``out`` cannot be written.
        PatchError: a patch does not follow the base and the patches before it.
    """
    old = _opened(base, patches)
    today = check_fields(fields)
    known = metrics_of(old, today, metrics)
    limit = None if max_bytes is None else parse_size(max_bytes)
    plans = []
    stale = 0.0
    for field in track(today, description="comparing fields", show=progress):
        plan = plan_of(old, field, known[field.name], threshold, removed or {})
        stale += plan.survey.now + _unknown(plan, plan.day.coder.base)
        plans.append(plan)
    check_removed(removed or {}, today)
    made = _within(plans, limit)
    loss = _loss_with(plans, made, stale)
    fields_of = {plan.base.name: patch for plan, (_, patch) in zip(plans, made, strict=True)}
    patch = next_patch(old, fields_of, None, None)
    total = old.nbytes + patch.nbytes
    afresh = compared_afresh(old, today, known, total, loss) if compare else None
    in_nats = old.predicted_loss_increase is not None
    stated = (loss, None if afresh is None else afresh.loss) if in_nats else (None, None)
    patch = next_patch(old, fields_of, *stated)
    artifact.write_patch(Path(out), patch.head, patch.entries)
    return Update(patch.nbytes, patch.counts, loss, stale, afresh, total)


def _opened(
    base: str | os.PathLike[str] | Compressed, patches: Sequence[str | os.PathLike[str]]
) -> Compressed:
    if isinstance(base, Compressed):
        if patches:
            raise OptionError("patches go with the path of a base: load the base with its patches")
        return base
    return load(base, patches=patches)


Made = list[tuple[ChosenRows, KeyedPatch]]


def _within(plans: Sequence[PatchPlan], limit: int | None) -> Made:
    """The patches of all fields, of at most ``limit`` bytes together."""
    made = _made(plans, 1.0, None)
    if limit is None or _size(made) <= limit:
        return made
    wanted = [len(chosen.positions) for chosen, _ in made]
    factor = _planned_factor(plans, limit)
    for _ in range(_ATTEMPTS):
        made = _made(plans, factor, wanted)
        if _size(made) <= limit:
            return made
        factor *= 1.1
    made = _made(plans, _MOST_FACTOR, wanted)
    if _size(made) > limit:
        raise BudgetError(f"a patch of {limit} bytes cannot be made: the least is {_size(made)}")
    return made


def _planned_factor(plans: Sequence[PatchPlan], limit: int) -> float:
    """About the least factor of the threshold at which the patch keeps the limit."""
    low, high = 1.0, _MOST_FACTOR
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        size = sum(plan.planned_bytes(plan.at(middle)) for plan in plans)
        low, high = (low, middle) if size <= limit else (middle, high)
    return high


def _made(plans: Sequence[PatchPlan], factor: float, wanted: Sequence[int] | None) -> Made:
    made = []
    for place, plan in enumerate(plans):
        chosen = plan.at(factor)
        if wanted is not None:
            chosen = chosen.dropping(wanted[place])
        made.append((chosen, plan.built(chosen)))
    return made


def _size(made: Made) -> int:
    return artifact.patch_bytes([patch.entry for _, patch in made])


def _unknown(plan: PatchPlan, field: KeyedField) -> float:
    hashes = plan.day.unknown_hashes()
    return plan.day.unknown_nats(field.rows_of_hashes(hashes))


def _loss_with(plans: Sequence[PatchPlan], made: Made, stale: float) -> float:
    """Nats that all fields lose with their patches."""
    loss = stale
    for plan, (chosen, patch) in zip(plans, made, strict=True):
        present = plan.day.coder.base
        before = present.patches if isinstance(present, PatchedField) else ()
        behind = PatchedField(plan.base, [*before, patch])
        loss += _unknown(plan, behind) - _unknown(plan, present)
        loss += _strangers(plan, chosen, patch) - chosen.saved
    return max(loss, 0.0)


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
