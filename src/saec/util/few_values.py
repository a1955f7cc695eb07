"""The different values of an array of integers, which are mostly close to each other."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["numbered", "values_of"]

# Values between the smallest and the largest one that get a counter each. With more than these and
# the multiple of the values that there are, sorting takes less time and memory.
_COUNTED, _COUNTED_EACH = 1 << 16, 4

Integers = NDArray[np.integer[Any]]


def values_of(numbers: Integers) -> list[int]:
    """The different values of ``numbers`` (m,), ascending; they are counted, not sorted, if they
    are close to each other, like bands, classes or tiers."""
    if not len(numbers):
        return []
    low, present = _present(numbers)
    if present is None:
        return [int(value) for value in np.unique(numbers)]
    return [low + int(place) for place in np.flatnonzero(present)]


def numbered(values: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The different ``values`` (m,), ascending, and (m,) the position of each value among them;
    m is at least 1."""
    low, present = _present(values)
    if present is None:
        different, numbers = np.unique(values, return_inverse=True)
        return different, numbers
    numbers = np.cumsum(present) - 1
    return np.flatnonzero(present) + low, numbers[values - low]


def _present(numbers: Integers) -> tuple[int, NDArray[np.bool_] | None]:
    """The smallest of ``numbers`` (m,), and whether each number from it to the largest one is among
    them; None if these would be too many."""
    low = int(numbers.min())
    span = int(numbers.max()) - low + 1
    if span > _COUNTED_EACH * len(numbers) + _COUNTED:
        return low, None
    return low, np.bincount(numbers.astype(np.int64, copy=False) - low, minlength=span) > 0
