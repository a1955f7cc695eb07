"""The head of a vocabulary: the frequent features from which clusters are learned.

"Fast clustering" of the paper: interactions have heavy tails, so a few frequent features carry most
of what the training log says, and the many rare ones are only assigned to the clusters found.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["head_rows"]


def head_rows(frequencies: NDArray[np.float64], share: float, at_least: int) -> NDArray[np.int64]:
    """Rows of the smallest head, in ascending order.

    Args:
        frequencies: (n,) occurrences of each feature.
        share: of all occurrences that the head must cover, 0..1.
        at_least: rows that the head must hold, if there are as many with any occurrences.

    Among equally frequent features the one with the lower id comes first.
    """
    order = np.argsort(-frequencies, kind="stable")
    covered = np.cumsum(frequencies[order])
    seen = int(np.count_nonzero(frequencies))
    # The first prefix that reaches the share; rounding of the sums must not push it past all.
    wanted = int(np.searchsorted(covered, share * covered[-1] * (1 - 1e-12))) + 1
    size = seen if share >= 1 else min(max(wanted, at_least), seen)
    return np.sort(order[:size])
