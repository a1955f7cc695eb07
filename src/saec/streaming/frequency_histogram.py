"""Histogram of a field's frequencies, which ranks rows without sorting them.

Counts of a heavy tail have few different values: among rows that occur N times in total there are
at most sqrt(2 N). So the histogram of a billion rows takes a few megabytes, and those of parts of a
field can be added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from saec.streaming.chunks import Chunk

__all__ = ["Census", "coarse", "join_censuses", "take_census"]

# If there are more different values, for example fractional weights, only the leading bits of
# frequencies are kept, as many as leave at most this number of values.
_MOST_VALUES = 1 << 20


@dataclass(frozen=True, eq=False)
class Census:
    """Different frequencies and the number of rows that have them.

    Attributes:
        values: (k,) float64, descending.
        counts: (k,) int64 rows.
        dropped: number of lowest bits of a float64 that are set to zero.
        descending: whether no row is more frequent than the one before.
        first, last: frequency of the first and of the last row.
        total: sum of all frequencies.
    """

    values: NDArray[np.float64]
    counts: NDArray[np.int64]
    dropped: int
    descending: bool
    first: float
    last: float
    total: float

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self.counts.sum())

    @property
    def seen(self) -> int:
        """Number of rows that occur at all."""
        return int(self.counts[self.values > 0].sum())

    def counted(self, frequency: float) -> int:
        """Number of rows of this ``frequency``."""
        return int(self.counts[self.values == frequency].sum())


def take_census(part: Chunk, before: NDArray[np.int64]) -> Census:
    """The histogram of a part; a task of a pass."""
    frequencies = part.frequencies()
    descending = bool(np.all(frequencies[1:] <= frequencies[:-1]))
    if descending:  # runs of equal frequencies need no sorting
        starts = np.flatnonzero(np.r_[True, frequencies[1:] != frequencies[:-1]])
        values, counts = frequencies[starts], np.diff(np.r_[starts, len(frequencies)])
    else:
        values, counts = np.unique(frequencies, return_counts=True)
        values, counts = values[::-1], counts[::-1]
    first, last, total = (float(x) for x in (frequencies[0], frequencies[-1], frequencies.sum()))
    return _coarsened(values, counts.astype(np.int64), 0, descending, first, last, total)


def join_censuses(parts: Sequence[Census]) -> Census:
    """The histogram of neighbouring parts together."""
    dropped = max(part.dropped for part in parts)
    descending = all(part.descending for part in parts) and all(
        left.last >= right.first for left, right in pairwise(parts)
    )
    values = np.concatenate([part.values for part in parts])
    counts = np.concatenate([part.counts for part in parts])
    total = sum(part.total for part in parts)
    first, last = parts[0].first, parts[-1].last
    return _coarsened(values, counts, dropped, descending, first, last, total)


def coarse(frequencies: NDArray[np.float64], dropped: int) -> NDArray[np.float64]:
    """``frequencies`` with their lowest bits set to zero; those of counts are zero anyway."""
    if not dropped:
        return frequencies
    bits = np.ascontiguousarray(frequencies + 0.0).view(np.uint64)  # no -0.0, whose sign is a bit
    kept = np.uint64(dropped)
    return (bits >> kept << kept).view(np.float64)


def _coarsened(
    values: NDArray[np.float64],
    counts: NDArray[np.int64],
    dropped: int,
    descending: bool,
    first: float,
    last: float,
    total: float,
) -> Census:
    """Add the numbers of equal values, with the fewest dropped bits that leave few enough values.

    The order in which histograms are joined does not matter: no part of a field needs more bits
    dropped than the whole.
    """
    while True:
        values, counts = _added_up(coarse(values, dropped), counts)
        if len(values) <= _MOST_VALUES:
            return Census(values, counts, dropped, descending, first, last, total)
        dropped += 1


def _added_up(
    values: NDArray[np.float64], counts: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    different, place = np.unique(values, return_inverse=True)
    sums = np.zeros(len(different), dtype=np.int64)
    np.add.at(sums, place, counts)
    return different[::-1], sums[::-1]
