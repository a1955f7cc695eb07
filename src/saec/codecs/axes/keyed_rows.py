"""Collects coded rows of a field with keys and builds their static function in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saec.codecs.axes.keyed_choice import planned_bytes
from saec.keys.static_function import StaticFunction
from saec.keys.streamed import FunctionBuilder
from saec.streaming.chunks import merged
from saec.streaming.scratch import Workspace

__all__ = ["EVERY_ROW", "GatheredRows", "RowTotals", "Selection", "StoredRows"]

Floats = NDArray[np.float64]

_GAIN = np.dtype([("gain", "<u8"), ("bits", "<u4"), ("strings", "<u2"), ("longest", "u1")])
_NATS = np.dtype(
    [("root", "<u4"), ("saved", "<f8"), ("second", "<f8"), ("share", "<f8"), ("harm", "<f8")]
)
_SIGN = np.uint64(1 << 63)
_DIGIT_BITS = 16  # bits of a gain that one pass over the rows determines


@dataclass(frozen=True, eq=False)
class StoredRows:
    """The k rows of a chunk that may be stored, and their s strings.

    Attributes:
        roots: (k,) symbols of the first parts, numbered over all classes.
        saved: (k,) nats that storing the row saves.
        second: (k,) the second-order part of ``saved``.
        bits: (k,) bits of all strings of the row.
        shares: (k,) share of all occurrences.
        harm: (k,) distance from the default row, in nats.
        owners: (s,) the row of each string, from 0 to k - 1.
        hashes, values, lengths: (s,) of each string.
        unstored: the loss in nats if no row were stored: of these rows and of all others.
        unstored_second: the second-order part of ``unstored``.
        occurrences: share of all occurrences, of these rows and of all others.
    """

    roots: NDArray[np.int64]
    saved: Floats
    second: Floats
    bits: NDArray[np.int64]
    shares: Floats
    harm: Floats
    owners: NDArray[np.int64]
    hashes: NDArray[np.uint64]
    values: NDArray[np.uint64]
    lengths: NDArray[np.uint8]
    unstored: float = 0.0
    unstored_second: float = 0.0
    occurrences: float = 0.0

    @classmethod
    def join(cls, parts: Sequence[StoredRows]) -> StoredRows:
        """The rows of all ``parts``."""
        firsts = np.cumsum([0, *(len(part.roots) for part in parts)])
        owners = [part.owners + first for part, first in zip(parts, firsts, strict=False)]
        names = (
            "roots",
            "saved",
            "second",
            "bits",
            "shares",
            "harm",
            "hashes",
            "values",
            "lengths",
        )
        joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        return cls(
            **joined,
            owners=np.concatenate(owners),
            unstored=sum(part.unstored for part in parts),
            unstored_second=sum(part.unstored_second for part in parts),
            occurrences=sum(part.occurrences for part in parts),
        )


@dataclass(frozen=True)
class Selection:
    """All rows except those that save least per bit.

    A row is left out if its gain is below ``gain``, or if it equals ``gain`` and the number of the
    row is at most ``row``. ``bits`` is the number of bits of the rows that are left out.
    """

    gain: int = 0
    row: int = -1
    bits: int = 0

    def of(self, gains: NDArray[np.uint64], first: int) -> NDArray[np.bool_]:
        """Which rows are kept, (m,): of rows with ``gains`` (m,), the first of number ``first``."""
        rows = np.arange(first, first + len(gains))
        kept: NDArray[np.bool_] = (gains > self.gain) | ((gains == self.gain) & (rows > self.row))
        return kept


EVERY_ROW = Selection()


@dataclass(frozen=True, eq=False)
class RowTotals:
    """Sums over all rows, and over those that are kept.

    Attributes:
        saved, second, shares: over kept rows; see :class:`StoredRows`.
        counts: (roots,) number of kept rows with each root.
        harm: (roots,) the sum of their harm.
        unstored, unstored_second, occurrences: over all rows; see :class:`StoredRows`.
    """

    saved: float
    second: float
    shares: float
    counts: NDArray[np.int64]
    harm: Floats
    unstored: float
    unstored_second: float
    occurrences: float


class GatheredRows:
    """The rows of all chunks, in files; memory holds one chunk at a time.

    Args:
        space: place of the files, which take 51 bytes for each row and 25 for each string.
    """

    def __init__(self, space: Workspace) -> None:
        self._gains = space.records(_GAIN)
        self._nats = space.records(_NATS)
        self._strings = FunctionBuilder(None, folder=space.folder)
        self._sums: list[tuple[float, float, float]] = []

    def close(self) -> None:
        """Remove the files."""
        for place in (self._gains, self._nats, self._strings):
            place.close()

    def add(self, rows: StoredRows) -> None:
        """Append the rows of the next chunk.

        Raises:
            ArtifactError: the disk is full.
        """
        count, first = len(rows.roots), len(self._gains)
        gains, nats = np.zeros(count, _GAIN), np.empty(count, _NATS)
        gains["gain"] = _ordered(rows.saved / np.maximum(rows.bits, 1))
        gains["bits"] = rows.bits
        gains["strings"] = np.bincount(rows.owners, minlength=count)
        longest = np.zeros(count, np.uint8)
        np.maximum.at(longest, rows.owners, rows.lengths)
        gains["longest"] = longest
        nats["root"], nats["saved"], nats["second"] = rows.roots, rows.saved, rows.second
        nats["share"], nats["harm"] = rows.shares, rows.harm
        self._gains.append(gains)
        self._nats.append(nats)
        self._strings.add(rows.hashes, rows.values, rows.lengths, first + rows.owners)
        self._sums.append((rows.unstored, rows.unstored_second, rows.occurrences))

    def planned(self, kept: Selection) -> tuple[int, int]:
        """The expected bytes of the function of kept rows, and the bits of its strings."""
        strings, bits, longest = 0, 0, 0
        for block, own in self._blocks(kept):
            strings += int(block["strings"][own].sum(dtype=np.int64))
            bits += int(block["bits"][own].sum(dtype=np.int64))
            longest = max(longest, int(block["longest"][own].max(initial=0)))
        return planned_bytes(strings, bits, longest), bits

    def fewer(self, kept: Selection, share: float) -> Selection:
        """The selection ``kept`` without the rows that save least per bit.

        These have a ``share`` of the bits of ``kept``. Of rows that save the same, the first are
        left out.
        """
        wanted = kept.bits + max(math.ceil(share * self.planned(kept)[1]), 1)
        # Leading digits of the largest gain that is left out, and the bits of rows below it.
        gain, below = 0, 0
        for shift in reversed(range(0, 64, _DIGIT_BITS)):
            digits = np.zeros(1 << _DIGIT_BITS)
            for block in self._gains.blocks():
                same = (block["gain"] >> np.uint64(shift)) >> np.uint64(_DIGIT_BITS) == gain
                own = (block["gain"][same] >> np.uint64(shift)) % np.uint64(len(digits))
                digits += np.bincount(own.astype(np.int64), block["bits"][same], len(digits))
            ends = below + np.cumsum(digits.astype(np.int64))
            digit = min(int(np.searchsorted(ends, wanted)), len(digits) - 1)
            below = int(ends[digit - 1]) if digit else below
            gain = gain << _DIGIT_BITS | digit
        return self._last(gain, below, wanted)

    def _last(self, gain: int, below: int, wanted: int) -> Selection:
        """The selection that leaves out ``wanted`` bits: rows below ``gain``, which have ``below``
        bits, and the first rows with this gain."""
        first, row = 0, -1
        for block in self._gains.blocks():
            same = np.flatnonzero(block["gain"] == gain)
            ends = below + np.cumsum(block["bits"][same], dtype=np.int64)
            if len(same):
                at = min(int(np.searchsorted(ends, wanted)), len(same) - 1)
                row, below = first + int(same[at]), int(ends[at])
            if below >= wanted:
                break
            first += len(block)
        return Selection(gain, row, below)

    def function(self, kept: Selection) -> StaticFunction:
        """The function of the strings of kept rows.

        Raises:
            KeysError: two strings have the same hash.
        """
        own = [mask for _, mask in self._blocks(kept)]
        return self._strings.finish(np.concatenate([np.zeros(0, np.bool_), *own]))

    def totals(self, kept: Selection, roots: int) -> RowTotals:
        """Sums over the rows, whose roots are below ``roots``."""
        kept_sums: dict[str, list[float]] = {name: [] for name in ("saved", "second", "share")}
        counts, harm = np.zeros(roots, np.int64), np.zeros(roots)
        masks = (mask for _, mask in self._blocks(kept))
        for block, own in zip(self._nats.blocks(), masks, strict=True):
            rows = block[own]
            for name, sums in kept_sums.items():
                sums.append(float(np.ascontiguousarray(rows[name]).sum()))
            root = rows["root"].astype(np.int64)
            counts += np.bincount(root, minlength=roots)
            harm += np.bincount(root, rows["harm"], roots)
        saved, second, share = (float(merged(sums, sum)) for sums in kept_sums.values())
        every = [float(merged(sums, sum)) for sums in zip(*self._sums, strict=True)]
        return RowTotals(saved, second, share, counts, harm, *every)

    def _blocks(self, kept: Selection) -> Any:
        first = 0
        for block in self._gains.blocks():
            yield block, kept.of(block["gain"], first)
            first += len(block)


def _ordered(gains: Floats) -> NDArray[np.uint64]:
    """Unsigned integers that compare as ``gains`` do."""
    plain = (gains + 0.0).view(np.uint64)  # -0.0 equals 0.0
    return np.where(plain & _SIGN, ~plain, plain | _SIGN)
