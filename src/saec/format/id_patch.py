"""Changed and new rows of a field whose ids only grow, coded by the field's own codebooks.

Rows are coded as the field codes those of a tier; a field in clusters, or without compression, is
one tier. Ids of a tier ascend, so that they take few bits and need no search: a patch of ids is
merged into the field when it is loaded, see :mod:`saec.format.merged_ids`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from saec.artifact import ByteReader, Entry, number_bytes
from saec.bits.elias_fano import pack_starts, starts_bytes, unpack_starts
from saec.bits.packing import PackedRows, packed_bytes
from saec.errors import ArtifactError
from saec.format.clustered_field import ClusteredField
from saec.format.compressed_field import CompressedField
from saec.format.keyed_patch import PatchCounts
from saec.format.raw_field import RawField
from saec.format.tier_layout import MOST_ROWS
from saec.format.tiered_field import TieredField
from saec.util.row_arrays import RowArrays

__all__ = ["CodedIds", "IdPatch", "PlainField", "most_rows", "tier_widths"]

PlainField = RawField | ClusteredField | TieredField

# New rows that stay in the last tier take no bytes of a patch, but memory when it is loaded: a
# small file must not claim many.
_MOST_GROWTH = 16
_LEAST_ROWS = 1 << 20
_PADDING = packed_bytes(0, 1)


def most_rows(rows_before: int) -> int:
    """Rows that a field of ``rows_before`` rows may have after one patch."""
    return max(_MOST_GROWTH * rows_before, _LEAST_ROWS)


def tier_widths(field: PlainField) -> list[tuple[int, ...]]:
    """Bits of the codes of a row, for each tier; none for a field without compression."""
    if isinstance(field, TieredField):
        return [field.layout.widths(tier) for tier in range(len(field.layout.tiers))]
    return [(field.codes.bits,)] if isinstance(field, ClusteredField) else [()]


@dataclass(frozen=True, eq=False)
class CodedIds(RowArrays):
    """Ids (k,) int64 of one tier, ascending, and their rows: (k, parts) uint32 codes, or (k, dim)
    rows as they are of a field without compression."""

    ids: NDArray[np.int64]
    rows: NDArray[Any]

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """All ``parts``, whose ids differ, in order of the ids."""
        every = super().join(parts)
        return every.only(np.argsort(every.ids, kind="stable"))


@dataclass(frozen=True, eq=False)
class IdPatch:
    """The changed rows of a field without keys.

    Args:
        base: a field with the same tiers and codebooks.
        rows_before: number of rows before this patch: ids from there on are new.
        vocab_size: number of rows with this patch.
        tiers: the changed and new ids of each tier.
        default: (1, parts) codes, or a row (1, dim), of new ids that are in no tier of
            ``tiers``. They are in the last one.
        dropped: how many ids were left out to keep a limit of bytes; for reports.

    Raises:
        ArtifactError: there are less rows than before, or an id is given twice or is out of range.
    """

    kind = 5

    base: PlainField
    rows_before: int
    vocab_size: int
    tiers: tuple[CodedIds, ...]
    default: NDArray[Any]
    dropped: int = 0

    def __post_init__(self) -> None:
        most = min(most_rows(self.rows_before), MOST_ROWS)
        if not 0 < self.rows_before <= self.vocab_size <= most:
            raise ArtifactError(
                f"it has {self.vocab_size} rows, and {self.rows_before} before; there may be "
                f"{most} with this patch, and they do not become fewer"
            )
        every = self.ids
        if len(every) and (
            (np.diff(every) == 0).any() or every[0] < 0 or every[-1] >= self.vocab_size
        ):
            raise ArtifactError(f"an id is given twice, or is outside [0, {self.vocab_size})")

    @cached_property
    def ids(self) -> NDArray[np.int64]:
        """The ids of all tiers, ascending."""
        return np.sort(np.concatenate([own.ids for own in self.tiers]))

    @property
    def coded(self) -> list[CodedIds]:
        """The ids of each tier, with the new ones that have the default codes."""
        first = int(np.searchsorted(self.ids, self.rows_before))
        new = np.ones(self.vocab_size - self.rows_before, np.bool_)
        new[self.ids[first:] - self.rows_before] = False
        rest = np.flatnonzero(new) + self.rows_before
        others = CodedIds(rest, np.repeat(self.default, len(rest), axis=0))
        return [*self.tiers[:-1], CodedIds.join([self.tiers[-1], others])]

    @property
    def counts(self) -> PatchCounts:
        """New ids, changed ones, none removed, and those that were left out."""
        added = self.vocab_size - self.rows_before
        moved = int(np.searchsorted(self.ids, self.rows_before))
        return PatchCounts(added, moved, 0, self.dropped)

    def drop(self, ids: int) -> Self:
        """With a note that so many ids were left out to keep a limit of bytes."""
        return replace(self, dropped=ids)

    @property
    def _spans(self) -> tuple[tuple[int, int], ...]:
        """Old ids and new ones, whose places are stored separately."""
        return (0, self.rows_before), (self.rows_before, self.vocab_size)

    def _lists(self) -> Iterator[tuple[NDArray[np.int64], int]]:
        """Places in a span, and the length of the span: of each tier's old ids, then new ones."""
        for own in self.tiers:
            for low, high in self._spans:
                first, last = np.searchsorted(own.ids, (low, high))
                yield own.ids[first:last] - low, high - low

    @cached_property
    def tensors(self) -> dict[str, NDArray[np.uint8]]:
        """``starts``, the ids; and ``codes``, or ``weights`` of a field without compression."""
        places = [pack_starts(own, span) for own, span in self._lists() if len(own)]
        starts = np.concatenate([np.zeros(0, np.uint8), *places])
        each = [own.rows for own in self.tiers]
        each[-1] = np.concatenate([self.default, each[-1]])
        if isinstance(self.base, RawField):
            return {"starts": starts, "weights": each[-1]}
        packed = [
            PackedRows.pack(list(rows.T), widths).data[:-_PADDING]
            for rows, widths in zip(each, tier_widths(self.base), strict=True)
            if sum(widths)
        ]
        return {"starts": starts, "codes": np.concatenate([*packed, np.zeros(_PADDING, np.uint8)])}

    @property
    def details(self) -> bytes:
        """Numbers: rows before, ids left out, and of each tier its old and its new ids."""
        lengths = [len(own) for own, _ in self._lists()]
        return b"".join(map(number_bytes, (self.rows_before, self.dropped, *lengths)))

    @property
    def entry(self) -> Entry:
        """The patch's entry for the field in a file."""
        base = self.base
        return Entry(
            base.name,
            self.kind,
            np.dtype(base.dtype),
            self.vocab_size,
            base.dim,
            self.details,
            self.tensors,
        )

    @classmethod
    def from_entry(cls, entry: Entry, base: CompressedField, rows_before: int) -> Self:
        """The patch of a file's entry.

        Raises:
            ArtifactError: the entry is damaged, or does not belong to a field with
                ``rows_before`` rows.
            KeyError: a tensor is missing.
        """
        assert isinstance(base, PlainField), "fields with keys have other patches"
        details = ByteReader(entry.details)
        widths = tier_widths(base)
        before, dropped = details.number(), details.number()
        lengths = [(details.number(), details.number()) for _ in widths]
        if details.left or before != rows_before or entry.vocab_size < before:
            raise ArtifactError(
                f"it goes from {before} to {entry.vocab_size} rows, after {rows_before}; "
                f"{details.left} bytes follow its details"
            )
        ids = _read_ids(entry.tensors["starts"], lengths, before, entry.vocab_size)
        role = "weights" if isinstance(base, RawField) else "codes"
        if set(entry.tensors) != {"starts", role}:
            raise ArtifactError(f"it has tensors {', '.join(sorted(entry.tensors))}")
        rows = _read_rows(entry.tensors[role], base, [len(own) for own in ids])
        default, rows[-1] = rows[-1][:1], rows[-1][1:]
        tiers = tuple(map(CodedIds, ids, rows))
        return cls(base, before, entry.vocab_size, tiers, default, dropped)


def _read_ids(
    starts: NDArray[np.uint8], lengths: Sequence[tuple[int, int]], before: int, rows: int
) -> list[NDArray[np.int64]]:
    """The ids of each tier, from the numbers of its old and its new ones."""
    spans = (0, before), (before, rows)
    sizes = [
        starts_bytes(count, high - low) if count else 0
        for own in lengths
        for count, (low, high) in zip(own, spans, strict=True)
    ]
    if any(
        count > high - low for own in lengths for count, (low, high) in zip(own, spans, strict=True)
    ):
        raise ArtifactError(f"tiers have {lengths} old and new ids of {before} and {rows - before}")
    if starts.shape != (sum(sizes),) or starts.dtype != np.uint8:
        raise ArtifactError(f"ids take {sum(sizes)} bytes, not {starts.dtype} {starts.shape}")
    found, at = [], 0
    for number, own in enumerate(lengths):
        ids = [np.zeros(0, np.int64)]
        for place, (count, (low, high)) in enumerate(zip(own, spans, strict=True)):
            size = sizes[2 * number + place]
            if count:
                ids.append(unpack_starts(starts[at : at + size], count, high - low) + low)
            at += size
        found.append(np.concatenate(ids))
    return found


def _read_rows(
    stored: NDArray[Any], base: PlainField, lengths: Sequence[int]
) -> list[NDArray[Any]]:
    """The rows of each tier; before those of the last one stands the default row."""
    counts = [*lengths[:-1], lengths[-1] + 1]
    if isinstance(base, RawField):
        shape = (counts[0], base.dim)
        if stored.shape != shape or stored.dtype != base.weights.dtype:
            raise ArtifactError(
                f"rows are {base.weights.dtype} {shape}, not {stored.dtype} {stored.shape}"
            )
        return [stored]
    widths = tier_widths(base)
    sizes = [
        packed_bytes(count, sum(own)) - _PADDING for count, own in zip(counts, widths, strict=True)
    ]
    if stored.shape != (sum(sizes) + _PADDING,) or stored.dtype != np.uint8:
        raise ArtifactError(
            f"codes take {sum(sizes) + _PADDING} bytes, not {stored.dtype} {stored.shape}"
        )
    firsts = np.concatenate([[0], np.cumsum(sizes)]).tolist()
    return [
        PackedRows(stored, first, count, own).unpack()
        for first, count, own in zip(firsts, counts, widths, strict=False)
    ]
