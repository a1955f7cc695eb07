"""The values of an array of small integers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["values_of"]


def values_of(numbers: NDArray[np.integer[Any]]) -> list[int]:
    """The different values of ``numbers`` (m,), ascending.

    They must be close to each other, like bands, classes or tiers: each value between the smallest
    and the largest one gets a counter. That takes less time than sorting.
    """
    if not len(numbers):
        return []
    least = int(numbers.min())
    counts = np.bincount(numbers.astype(np.int64) - least)
    return [least + int(place) for place in np.flatnonzero(counts)]
