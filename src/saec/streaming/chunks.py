"""Passes over rows in parts: tasks on the parts, and the merging of their results.

The results of a pass are merged in groups of eight neighbours, these again, and so on. The tree is
the same wherever the parts are processed, so sums have the same last digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from saec.errors import FieldError
from saec.streaming.rows import Rows

__all__ = [
    "GROUP",
    "Chunk",
    "RunningCounts",
    "Task",
    "check_finite",
    "check_float16",
    "check_frequencies",
    "check_total",
    "chunks_of",
    "merged",
]

GROUP = 8  # number of results that are merged at once

_PART_VALUES = 1 << 22  # float32 values of a part: 16 MB

# Products of larger frequencies, or of frequencies below the inverse, with squares of a table's
# values and with metrics could leave the range of float64.
MOST_FREQUENT = 1e200

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, eq=False)
class Chunk:
    """Rows of a field for one task.

    name: the field's; number: of the part, from 0; start, stop: its first row and the one after
    its last; rows: (m, dim) and counts: (m,), of this part alone.
    """

    name: str
    number: int
    start: int
    stop: int
    rows: Rows
    counts: Rows

    def __len__(self) -> int:
        return self.stop - self.start

    def weights(self) -> NDArray[Any]:
        """The rows (m, dim) in their own dtype.

        Raises:
            FieldError: a value is not finite; names its row.
        """
        weights = self.rows.read(0, len(self))
        check_finite(self.name, weights, self.start)
        return weights

    def frequencies(self) -> NDArray[np.float64]:
        """The frequencies (m,).

        Raises:
            FieldError: one is negative or not finite; names its id.
        """
        frequencies = self.counts.read(0, len(self)).astype(np.float64, copy=False)
        check_frequencies(self.name, frequencies, self.start)
        return frequencies


class Task(Protocol[T_co]):
    """The work of a pass on each part; sent to the place of the part."""

    def __call__(self, part: Chunk, before: NDArray[np.int64]) -> T_co:
        """``before``: the sum of the results of a :class:`RunningCounts` for the chunks before
        this."""


class RunningCounts(Protocol):
    """Counts that are summed over the parts before one."""

    @property
    def size(self) -> int:
        """Number of counts."""

    def __call__(self, part: Chunk) -> NDArray[np.int64]:
        """(size,) int64."""


def chunks_of(name: str, rows: Rows, counts: Rows) -> tuple[Chunk, ...]:
    """Cut a field into parts, none of which crosses the border of a shard of its rows."""
    most = max(1, _PART_VALUES // math.prod(rows.shape[1:]))
    spans = [
        (start, min(start + most, last))
        for first, last in pairwise(rows.borders)
        for start in range(first, last, most)
    ]
    return tuple(
        Chunk(name, number, start, stop, rows.part(start, stop), counts.part(start, stop))
        for number, (start, stop) in enumerate(spans)
    )


def merged(results: Iterable[T], merge: Callable[[Sequence[T]], T]) -> T:
    """Merge ``results`` as they arrive, in the tree of this module; a single one is returned as
    is."""
    waiting: list[list[T]] = [[]]
    for result in results:
        waiting[0].append(result)
        level = 0
        while len(waiting[level]) == GROUP:
            _lift(waiting, level, merge)
            level += 1
    for level in range(len(waiting) - 1):
        if waiting[level]:
            _lift(waiting, level, merge)
    last = waiting[-1]
    return merge(last) if len(last) > 1 else last[0]


def _lift(waiting: list[list[T]], level: int, merge: Callable[[Sequence[T]], T]) -> None:
    """Merge the waiting results of a level into one result of the next level."""
    if level + 1 == len(waiting):
        waiting.append([])
    group, waiting[level] = waiting[level], []
    waiting[level + 1].append(merge(group) if len(group) > 1 else group[0])


def check_finite(name: str, weights: NDArray[Any], first: int) -> None:
    """Raise FieldError for the first value that is not finite; ``first`` is the first row's id."""
    finite = np.isfinite(weights)
    if not finite.all():
        row, column = (int(i) for i in np.argwhere(~finite)[0])
        raise FieldError(
            f"field {name!r}: weights hold {float(weights[row, column])} "
            f"at row {first + row}, column {column}"
        )


def check_float16(name: str, largest: float, least: float = 0.0, advice: str = "") -> None:
    """Raise FieldError unless float16 holds a field's values.

    Args:
        name: the field's.
        largest: largest absolute value.
        least: lower limit of ``largest``, unless it is 0.
        advice: end of the message.
    """
    most = float(np.finfo(np.float16).max)
    if largest and not least <= largest <= most:
        raise FieldError(
            f"field {name!r}: the largest value is {largest:.3g}, but float16 holds "
            f"{least:.2g} to {most:.5g}{advice}"
        )


def check_frequencies(name: str, frequencies: NDArray[np.float64], first: int) -> None:
    """Raise FieldError for the first invalid frequency; ``first`` is the first row's id."""
    good = (frequencies <= MOST_FREQUENT) & (frequencies >= 0)  # false for NaN
    if not good.all():
        bad = int(np.argmin(good))
        value = float(frequencies[bad])
        wanted = "finite and not negative"
        if np.isfinite(value) and value > 0:
            wanted = f"at most {MOST_FREQUENT:.0e}; divide all by the same number"
        raise FieldError(
            f"field {name!r}: the frequency of id {first + bad} is {value}; it must be {wanted}"
        )


def check_total(name: str, total: float, rows: int) -> None:
    """Raise FieldError if the frequencies of ``rows`` rows with the sum ``total`` are too small."""
    if total == 0:
        raise FieldError(f"field {name!r}: all {rows} frequencies are zero")
    if total < 1 / MOST_FREQUENT:
        raise FieldError(
            f"field {name!r}: all {rows} frequencies together are {total}; they must be at least "
            f"{1 / MOST_FREQUENT:.0e}; multiply all by the same number"
        )
