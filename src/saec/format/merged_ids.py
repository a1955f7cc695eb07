"""A field without keys and its patches as one field of the same form.

Nothing is asked before the field: its codes are copied, with those of the patches in their places.
Loading takes time and memory that grow with the field's rows, and lookups take none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saec.bits.packing import PackedCodes, PackedRows
from saec.errors import ArtifactError
from saec.format.clustered_field import ClusteredField
from saec.format.id_patch import CodedIds, IdPatch, PlainField
from saec.format.raw_field import RawField
from saec.format.tier_index import TierIndex
from saec.format.tier_layout import Layout
from saec.format.tiered_field import TieredField

__all__ = ["merged_ids", "tiers_of_ids"]

_INSTEAD = "load it with fewer patches"


def merged_ids(base: PlainField, patches: Sequence[IdPatch]) -> PlainField:
    """``base`` as of the last of its ``patches``, oldest first, of which there is one at least.

    Raises:
        ArtifactError: a patch puts other numbers of ids into tiers than tiers have, or the result
            does not fit into this machine's memory.
    """
    rows = patches[-1].vocab_size
    nbytes = _merging_bytes(base, rows, patches[0].default.nbytes)
    base._check_fits("merging all patches", nbytes, _INSTEAD)
    changes = _newest(patches)
    if isinstance(base, TieredField):
        return _merged_tiers(base, changes, rows)
    if isinstance(base, ClusteredField):
        codes = _changed(base.codes.unpack(), changes[0], rows)
        packed = PackedCodes.pack(codes, base.codes.bits)
        return ClusteredField(base.name, packed, base.codebook, base.dtype)
    return RawField(base.name, _changed(base.weights, changes[0], rows))


def _merging_bytes(base: PlainField, rows: int, row: int) -> int:
    """Bytes that merging takes, at most, but for codes of changed rows; ``row``: of a new row while
    it is merged, of which there are four copies."""
    each = {TieredField: 2 * row + 64, ClusteredField: 16, RawField: row + 1}[type(base)]
    return each * rows + (4 * row + 48) * (rows - base.vocab_size)


def _newest(patches: Sequence[IdPatch]) -> list[CodedIds]:
    """The changed ids of each tier with the rows that the newest patch gives them."""
    found: list[list[CodedIds]] = [[] for _ in patches[0].tiers]
    seen = np.zeros(patches[-1].vocab_size, np.bool_)
    for patch in reversed(patches):
        coded = patch.coded
        for tier, own in enumerate(coded):
            found[tier].append(own.only(~seen[own.ids]))
        for own in coded:
            seen[own.ids] = True
    return [CodedIds.join(own) for own in found]


def _changed(old: NDArray[Any], changes: CodedIds, count: int) -> NDArray[Any]:
    """``old`` (n, ...) made longer, (count, ...), with rows ``changes.ids`` replaced."""
    new = np.empty((count, *old.shape[1:]), old.dtype)
    new[: len(old)] = old
    new[changes.ids] = changes.rows.reshape(len(changes.ids), *old.shape[1:])
    return new


def _merged_tiers(base: TieredField, changes: Sequence[CodedIds], rows: int) -> TieredField:
    layout = Layout(rows, base.layout.tiers)
    base._check_fits("the codes with all patches", layout.code_bytes, _INSTEAD)
    codes = np.zeros(layout.code_bytes, np.uint8)
    moves = (
        _StayingRows(base, layout) if base.index is None else _MovableRows(base, layout, changes)
    )
    for tier, own in enumerate(changes):
        _write_tier(base, tier, moves.placed(tier, own), moves.kept(tier), layout, codes)
    return TieredField(base.name, layout, codes, base.values, base.axes, moves.index, base.dtype)


def _write_tier(
    base: TieredField,
    tier: int,
    placed: CodedIds,
    kept: tuple[NDArray[np.int64] | slice, NDArray[np.int64] | slice],
    layout: Layout,
    codes: NDArray[np.uint8],
) -> None:
    """Put a tier's codes into OUT ``codes``: old rows, by their old and new places in the tier, and
    changed ones by their new places."""
    widths = layout.widths(tier)
    if not sum(widths):
        return
    low, high = layout.bounds[tier : tier + 2].tolist()
    new = np.zeros((high - low, len(widths)), np.uint32)
    old_places, new_places = kept
    new[new_places] = base.tier_codes(tier)[old_places]
    new[placed.ids] = placed.rows
    first = layout.first_bytes[tier]
    PackedRows.pack_into(codes, first, list(new.T), widths)


class _StayingRows:
    """Rows whose ids are ranks: they stay in their tiers, and new ones are in the last."""

    index = None

    def __init__(self, base: TieredField, layout: Layout) -> None:
        self._old, self._new = base.layout.bounds, layout.bounds

    def kept(self, tier: int) -> tuple[slice, slice]:
        """Old and new places of a tier's old rows."""
        rows = slice(0, int(self._old[tier + 1] - self._old[tier]))
        return rows, rows

    def placed(self, tier: int, changes: CodedIds) -> CodedIds:
        """Changed rows by their places in the tier."""
        low, high = self._new[tier : tier + 2].tolist()
        if len(changes.ids) and not low <= changes.ids[0] <= changes.ids[-1] < high:
            raise ArtifactError(f"a patch has ids outside [{low}, {high}) in tier {tier}")
        return CodedIds(changes.ids - low, changes.rows)


class _MovableRows:
    """Rows whose tiers stand in an index, which changed rows may leave for others."""

    def __init__(self, base: TieredField, layout: Layout, changes: Sequence[CodedIds]) -> None:
        self._old = tiers_of_ids(base)
        tiers = np.full(layout.count, -1, np.int8)
        tiers[: len(self._old)] = self._old
        for tier, own in enumerate(changes):
            tiers[own.ids] = tier
        found = np.bincount(tiers, minlength=len(layout.tiers)).tolist()
        if found != np.diff(layout.bounds).tolist():
            raise ArtifactError(
                f"with its patches tiers have {found} rows, not {np.diff(layout.bounds).tolist()}"
            )
        self._new = tiers
        self.index = TierIndex.of(tiers, len(layout.tiers))

    def kept(self, tier: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Old and new places of rows that stay in the tier."""
        before, now = self._old == tier, self._new[: len(self._old)] == tier
        both = before & now
        return np.flatnonzero(both[before]), np.flatnonzero(both[now])

    def placed(self, tier: int, changes: CodedIds) -> CodedIds:
        """Changed rows by their places in the tier."""
        members = np.flatnonzero(self._new == tier)
        return CodedIds(np.searchsorted(members, changes.ids), changes.rows)


def tiers_of_ids(field: PlainField) -> NDArray[np.int8]:
    """The tier of each id, (vocab_size,); 0 if the field has none."""
    if not isinstance(field, TieredField):
        return np.zeros(field.vocab_size, np.int8)
    if field.index is None:
        return np.repeat(
            np.arange(len(field.layout.tiers), dtype=np.int8), np.diff(field.layout.bounds)
        )
    field.check_index()
    return field.index.tiers_of_ids()
