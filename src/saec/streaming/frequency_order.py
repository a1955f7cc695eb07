"""The order of features by frequency, to renumber a vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saec.artifact import Stored
from saec.streaming.bit_writes import Piece, Scattered
from saec.streaming.chunks import Chunk
from saec.streaming.frequency_histogram import join_censuses, take_census
from saec.streaming.map_reduce import Advance, Passes, silent
from saec.streaming.scratch import IN_MEMORY, Workspace
from saec.streaming.strata import ByRank

__all__ = ["frequency_order"]

_IDS = "ids"  # role of the tensor


def frequency_order(
    passes: Passes, advance: Advance = silent, space: Workspace = IN_MEMORY
) -> Stored:
    """The old id of each new one if features are numbered by descending frequency.

    Features of equal frequency stay in order of their ids, as in a stable sort; so do those of
    nearly equal frequency if there are more than a million different ones. Rows are not sorted: a
    histogram of the frequencies gives their ranks.

    Args:
        passes: over parts that have frequencies; their rows are not read.
        advance: called with shares of the work, which add up to 1.
        space: place of the result.

    Returns:
        The bytes of an (n,) little-endian int64 vector, as
        :meth:`~saec.streaming.map_reduce.Passes.lay` returns
        them: (8 n,) uint8, or in shards.

    Raises:
        FieldError: a frequency is negative or not finite.
    """
    census = passes.run(take_census, join_censuses, advance=lambda share: advance(share / 2))
    placing = ByRank.of(census, np.array([0, census.rows]), "frequency")
    _, tensors = passes.lay(
        _OldIds(placing),
        _no_result,
        {_IDS: 8 * census.rows},
        counter=placing,
        advance=lambda share: advance(share / 2),
        space=space,
    )
    return tensors[_IDS]


@dataclass(frozen=True, eq=False)
class _OldIds:
    """A task that writes the ids of a part's rows to their ranks."""

    placing: ByRank

    def __call__(self, part: Chunk, before: NDArray[np.int64]) -> tuple[None, list[Piece]]:
        ids = np.arange(part.start, part.stop, dtype=np.uint64)
        groups = self.placing.groups(part, before)
        return None, [Scattered(_IDS, 8 * group.places, ids[group.rows]) for group in groups]


def _no_result(results: Sequence[None]) -> None:
    """The merge of no results."""
