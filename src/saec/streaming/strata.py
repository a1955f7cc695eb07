"""Positions of rows that are ranked by frequency and cut into strata, without sorting them.

Rows of equal frequency are in order of their ids. The histogram of a field gives the ranks of each
frequency; the number of rows of the same frequency before a part gives the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from saec.streaming.chunks import Chunk
from saec.streaming.frequency_histogram import Census, coarse

__all__ = ["ByRank", "InOrder", "Placing", "RowGroup", "sampled"]


@dataclass(frozen=True, eq=False)
class RowGroup:
    """Rows of a part in one stratum.

    stratum: its number; rows: indices in the part, a slice or (m,) int64; places: (m,) int64,
    ascending, in the stratum.
    """

    stratum: int
    rows: slice | NDArray[np.int64]
    places: NDArray[np.int64]

    @property
    def first(self) -> int:
        """The first place."""
        return int(self.places[0])

    @property
    def contiguous(self) -> bool:
        """Whether the places are consecutive."""
        return int(self.places[-1]) - self.first == len(self.places) - 1


@dataclass(frozen=True, eq=False)
class InOrder:
    """Ids are ranks: rows are in order of frequency, or treated as such.

    bounds: (strata + 1,) int64, first rank of each stratum and the number of rows.
    """

    bounds: NDArray[np.int64]
    size: int = 0

    def __call__(self, part: Chunk) -> NDArray[np.int64]:
        """Nothing is counted over the parts before."""
        return np.zeros(0, dtype=np.int64)

    def groups(self, part: Chunk, before: NDArray[np.int64]) -> Iterator[RowGroup]:
        """The part's rows by stratum; empty strata are left out."""
        for stratum, (low, high) in enumerate(zip(self.bounds, self.bounds[1:], strict=False)):
            start, stop = max(int(low), part.start), min(int(high), part.stop)
            if start < stop:
                rows = slice(start - part.start, stop - part.start)
                yield RowGroup(stratum, rows, np.arange(start - low, stop - low))


@dataclass(frozen=True, eq=False)
class ByRank:
    """Rows are ranked by frequency, independent of their ids.

    A class is a run of neighbouring ranks: all rows of one frequency, or of several frequencies
    that are completely in one stratum, where their order does not matter.

    Args:
        bounds: see :class:`InOrder`.
        lows: (classes,) float64, least frequency of each class, descending.
        firsts: (classes + 1,) int64, first rank of each class and the number of rows.
        dropped: see :class:`~saec.streaming.frequency_histogram.Census`.
        order: ``"frequency"``: positions in a stratum are by rank; ``"keep"``: by id.
    """

    bounds: NDArray[np.int64]
    lows: NDArray[np.float64]
    firsts: NDArray[np.int64]
    dropped: int
    order: Literal["frequency", "keep"]

    @classmethod
    def of(
        cls, census: Census, bounds: NDArray[np.int64], order: Literal["frequency", "keep"]
    ) -> ByRank:
        """The assignment of rows of this ``census`` to strata within ``bounds``."""
        firsts = np.r_[0, np.cumsum(census.counts)]
        if order == "keep":
            strata = np.searchsorted(bounds[1:-1], [firsts[:-1], firsts[1:] - 1], side="right")
            whole = strata[0] == strata[1]
            # Frequencies that are completely in one stratum form one class with their neighbours.
            same = whole[1:] & whole[:-1] & (strata[0][1:] == strata[0][:-1])
            ends = np.flatnonzero(np.r_[~same, True])
        else:
            ends = np.arange(len(census.values))
        lows = census.values[ends]
        return cls(bounds, lows, np.r_[0, firsts[1:][ends]], census.dropped, order)

    @property
    def size(self) -> int:
        """Number of classes."""
        return len(self.lows)

    def __call__(self, part: Chunk) -> NDArray[np.int64]:
        """Rows of the part in each class."""
        return np.bincount(self._classes(part), minlength=self.size)

    def groups(self, part: Chunk, before: NDArray[np.int64]) -> Iterator[RowGroup]:
        """The part's rows by stratum; ``before``: rows in each class before the part."""
        classes = self._classes(part)
        ranks = self.firsts[classes] + before[classes] + _running(classes, self.size)
        strata = np.searchsorted(self.bounds[1:-1], ranks, side="right")
        passed = None if self.order == "frequency" else self.passed(before)
        order = np.argsort(strata, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(strata[order])) + 1):
            stratum = int(strata[rows[0]])
            if passed is not None:
                first = int(passed[stratum])
                yield RowGroup(stratum, rows, np.arange(first, first + len(rows)))
                continue
            places = ranks[rows] - self.bounds[stratum]
            ascending = np.argsort(places)
            yield RowGroup(stratum, rows[ascending], places[ascending])

    def passed(self, before: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of each stratum before the part: of each class, its first ``before`` ranks."""
        starts, stops = self.firsts[:-1, None], (self.firsts[:-1] + before)[:, None]
        inside = np.minimum(stops, self.bounds[1:]) - np.maximum(starts, self.bounds[:-1])
        passed: NDArray[np.int64] = np.maximum(inside, 0).sum(axis=0)
        return passed

    def _classes(self, part: Chunk) -> NDArray[np.int64]:
        frequencies = coarse(part.frequencies(), self.dropped)
        classes: NDArray[np.int64] = np.searchsorted(-self.lows, -frequencies, side="left")
        return classes


Placing = InOrder | ByRank


def sampled(group: RowGroup, count: int, size: int, seed: int) -> NDArray[np.int64]:
    """Which of a group's positions belong to a sample of ``size`` rows of a stratum of ``count``.

    The places are cut into as many runs as rows are wanted, and a row of each is drawn by a hash of
    the run's number and the ``seed``: every part of a field finds its own rows of the sample. All
    belong to it if there are no more.
    """
    if count <= size:
        return np.arange(len(group.places))
    if not group.contiguous:
        runs = _run_of(group.places, count, size)
        return np.flatnonzero(group.places == _drawn(runs, count, size, seed))
    first, last = _run_of(group.places[[0, -1]], count, size).tolist()
    drawn = _drawn(np.arange(first, last + 1), count, size, seed) - group.first
    return drawn[(drawn >= 0) & (drawn < len(group.places))]


def _run_of(places: NDArray[np.int64], count: int, size: int) -> NDArray[np.int64]:
    """The last run j that starts, at floor(j count / size), no later than each place."""
    return ((places + 1) * size - 1) // count


def _drawn(runs: NDArray[np.int64], count: int, size: int, seed: int) -> NDArray[np.int64]:
    starts, stops = runs * count // size, (runs + 1) * count // size
    drawn: NDArray[np.int64] = starts + (
        _hashed(runs, seed) % (stops - starts).astype(np.uint64)
    ).astype(np.int64)
    return drawn


def _hashed(numbers: NDArray[np.int64], seed: int) -> NDArray[np.uint64]:
    """SplitMix64 (Steele, Lea and Flood 2014) of each number."""
    mixed = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _running(classes: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """How many earlier rows have the same class as each row."""
    order = np.argsort(classes, kind="stable")
    counts = np.bincount(classes, minlength=size)
    firsts = np.cumsum(counts) - counts
    running = np.empty(len(classes), dtype=np.int64)
    running[order] = np.arange(len(classes)) - firsts[classes[order]]
    return running
