"""The next day: a patch with what changed since an artifact, by its own codes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from numpy.typing import ArrayLike

import saec.artifact as artifact
from saec.compression.afresh import Afresh, compared_afresh
from saec.compression.bit_price import common_price
from saec.compression.budget import is_finite_number
from saec.compression.day_plan import check_removed, id_day_of, metrics_of, plan_of
from saec.compression.field_update import FieldPlan
from saec.compression.field_worth import FieldWorth, worth_of
from saec.compression.id_fitting import IdFieldPlan
from saec.compression.patch_fitting import KeyedFieldPlan, PatchLimit, made_within
from saec.errors import OptionError
from saec.format.compressed import Compressed
from saec.format.keyed_field import KeyedField
from saec.format.keyed_patch import PatchCounts
from saec.format.load import load
from saec.format.patched import Patched, next_patch
from saec.tables.field import Field, check_fields
from saec.tables.loss_metric import Metric
from saec.util.progress import track
from saec.util.sizes import parse_size

__all__ = ["Update", "update"]

_SMALL_PATCH = 1 << 14  # bytes that a patch may have whatever the share


@dataclass(frozen=True, eq=False)
class Update:
    """What a patch holds, and what it costs to keep the codes of the base.

    Attributes:
        nbytes: of the patch.
        counts: keys that were added, moved, removed, and dropped to keep ``max_bytes``.
        whole: names of fields that were compressed afresh, and are in the patch as a whole.
        loss: nats that all fields lose with this patch, expected; without metrics, half the mean
            squared error.
        stale_loss: the same if lookups went on without this patch.
        afresh: what compressing afresh would give; None if that was not asked for.
        chain_bytes: of the base and of all patches, this one included.
    """

    nbytes: int
    counts: PatchCounts
    whole: tuple[str, ...]
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
    worth: Mapping[str, float] | None = None,
    threshold: float | None = None,
    max_bytes: int | str | None = None,
    share: float | None = None,
    whole_rows: int = 1 << 15,
    compare: bool = True,
    progress: bool = True,
) -> Update:
    """Write a patch that makes ``base`` an artifact of today's ``fields``.

    The axes, values and classes of the base stay, but for small fields. A row gets a new code if
    that saves more nats than its bits cost: rows of new keys, and rows that moved. All others are
    stale and are not coded again. Fields without keys have the ids that they had, and new ones
    behind them. :func:`saec.load` takes the base and its patches, oldest first.

    Args:
        base: an artifact, or its path.
        fields: today's tables, frequencies and keys; fields of the base that are not given do not
            change.
        out: path of the patch.
        patches: the patches before this one, oldest first, if ``base`` is a path.
        removed: by field name the keys that have the default row from now on. Keys that are only
            absent from ``fields`` keep their rows.
        metrics: today's (dim, dim) matrix of every field, if the base was compressed with metrics.
        worth: by field name, the quotient of what changed rows save and of what the metric
            forecasts, as :func:`saec.torch.worth_of_moves` measures it; 1 for fields that are not
            named. It decides which rows the patch holds. Above 1, bits of the field cost so much
            less. Below 1, what rows lose by the rows that lookups give now counts so much less, and
            errors of new codes count fully. Losses that are stated are not weighed by it.
        threshold: nats per bit that a new code must save; None for the price at which the base was
            compressed, which is estimated for fields without keys. With 0 every row is coded that
            gets nearer.
        max_bytes: limit of the patch's size, in bytes or as ``"2MB"``. Rows that save least per bit
            are left out, and the others are coded by fewer bits.
        share: without ``max_bytes``, the same limit as a share of the bytes of the base without
            patches, like 0.15, but at least 16 KiB. Where even the smallest patch takes more, as of
            removed keys, or of new ones of fields that store every key, it is written. None for no
            limit.
        whole_rows: fields of at most so many rows are compressed afresh, at the same price of a
            bit, where that saves more nats than its bytes cost; 0 for none.
        compare: forecast what compressing afresh would give; takes most of the time of small
            updates.
        progress: show progress bars on stderr for work over two seconds.

    Raises:
        FieldError: there are no fields; a field is unknown to the base, or differs in dim, dtype or
            kind of keys; or a field without keys has fewer rows, was renumbered, or has more than
            2^20 rows and more than 16 times those of the base.
        MetricError: metrics are missing or malformed, or given for a base without metrics.
        KeysError: a removed key is in today's table.
        OptionError: the threshold is negative, or is not given and the base does not state a price;
            the share is not positive; or worth is of a field that is not given, is not a number
            from 1e-6 to 1e6, or is given for a base without metrics.
        BudgetError: the smallest patch takes more than ``max_bytes``.
        ArtifactError: the base or a patch is damaged, or ``out`` cannot be written.
        PatchError: a patch does not follow the base and the patches before it.
    """
    old = _opened(base, patches)
    today = check_fields(fields)
    known = metrics_of(old, today, metrics)
    worths = worth_of(worth, today, old.predicted_loss_increase is not None)
    limit = _limit(old, max_bytes, share)
    check_removed(removed or {}, today)
    price = common_price(old)
    plans = [
        _planned(
            old,
            field,
            known[field.name],
            worths[field.name],
            threshold,
            removed or {},
            whole_rows,
            price,
        )
        for field in track(today, description="comparing fields", show=progress)
    ]
    made = made_within(plans, limit)
    stale, loss = sum(plan.stale for plan in plans), sum(one.loss for one in made)
    fields_of = {one.entry.name: one.stored for one in made}
    patch = next_patch(old, fields_of, None, None)
    total = old.nbytes + patch.nbytes
    afresh = compared_afresh(old, today, known, total, loss) if compare else None
    in_nats = old.predicted_loss_increase is not None
    stated = (loss, None if afresh is None else afresh.loss) if in_nats else (None, None)
    patch = next_patch(old, fields_of, *stated)
    artifact.write_patch(Path(out), patch.head, patch.entries)
    return Update(patch.nbytes, patch.counts, tuple(patch.whole), loss, stale, afresh, total)


def _limit(old: Compressed, max_bytes: int | str | None, share: float | None) -> PatchLimit | None:
    if share is not None and (not is_finite_number(share) or share <= 0):
        raise OptionError(f"share is a positive part of the base's bytes, or None, not {share!r}")
    if max_bytes is not None:
        return PatchLimit(parse_size(max_bytes), True)
    if share is None:
        return None
    base = old.base if isinstance(old, Patched) else old
    return PatchLimit(max(int(share * base.nbytes), _SMALL_PATCH), False)


def _opened(
    base: str | os.PathLike[str] | Compressed, patches: Sequence[str | os.PathLike[str]]
) -> Compressed:
    if isinstance(base, Compressed):
        if patches:
            raise OptionError("patches go with the path of a base: load the base with its patches")
        return base
    return load(base, patches=patches)


def _planned(
    old: Compressed,
    field: Field,
    metric: Metric,
    worth: FieldWorth,
    threshold: float | None,
    removed: Mapping[str, ArrayLike],
    whole_rows: int,
    price: float,
) -> FieldPlan:
    in_nats = old.predicted_loss_increase is not None
    if isinstance(old.get(field.name), KeyedField):
        rows = plan_of(old, field, metric, worth, threshold, removed, price)
        return KeyedFieldPlan.of(rows, whole_rows, in_nats)
    return IdFieldPlan.of(id_day_of(old, field, metric, worth, threshold), whole_rows, in_nats)
