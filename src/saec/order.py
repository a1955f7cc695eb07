"""Where a feature's row is stored: its tier, and its place in it.

Tiers want rows in order of frequency. Either the owner renumbers the vocabulary by frequency, and a
row's id is its rank; or ids stay as they are, and bit-vectors tell each id's tier and place.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from saec.errors import ArtifactError
from saec.tiers import tier_bounds

__all__ = ["BLOCK_BITS", "Arrangement", "Level", "Order", "TierVectors", "arrange", "levels_of"]

Order = Literal["keep", "frequency"]
ORDERS = get_args(Order)

# Ids count as sorted if rows that stand too late hold less than this share of all occurrences.
_MISPLACED = 0.01

BLOCK_BITS = 512
_BLOCK = np.dtype([("before", "<u4"), ("words", "<u8", BLOCK_BITS // 64)])


class TierVectors:
    """Tier and place of each id in about 1.4 bits per id, found in constant time.

    One bit-vector per tier, the largest tier first: over the ids that no tier before it holds, in
    ascending order, bit 1 says that the id is in this tier. Ids without any are in the smallest. A
    vector is stored in blocks of 512 bits, each after the number of ones before it. Within a tier,
    rows stand in ascending order of their ids.

    Args:
        data: (bytes,) uint8.
        count: number of ids.

    Raises:
        ArtifactError: the number of bytes is not that of ``count`` ids.
    """

    def __init__(self, data: NDArray[np.uint8], count: int) -> None:
        wanted = self.planned_bytes(count)
        if data.shape != (wanted,) or data.dtype != np.uint8:
            raise ArtifactError(
                f"tier vectors of {count} ids take {wanted} bytes, not {data.dtype} {data.shape}"
            )
        self.data = data
        self.count = count

    @classmethod
    def of(cls, tiers: NDArray[np.integer]) -> TierVectors:
        """Store the tier of each id, (count,); tiers have the sizes that ranks would give them."""
        parts = []
        left = np.asarray(tiers)
        for level in levels_of(len(left))[:-1]:
            inside = left == level.tier
            parts.append(_blocks_of(inside))
            left = left[~inside]
        data = np.concatenate(parts) if parts else np.empty(0, _BLOCK)
        return cls(data.view(np.uint8), len(tiers))

    @staticmethod
    def planned_bytes(count: int) -> int:
        """Bytes for ``count`` ids."""
        return _BLOCK.itemsize * sum(level.blocks for level in levels_of(count)[:-1])

    def locate(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Tier and place in it of checked ``ids`` (m,), both (m,) int64.

        Raises:
            ArtifactError: an id would be stored outside its tier, as in a damaged file.
        """
        levels = levels_of(self.count)
        tiers = np.full(len(ids), levels[-1].tier, dtype=np.int64)
        places = ids.copy()
        searched = np.arange(len(ids))
        blocks = self.data.view(_BLOCK)
        for level in levels[:-1]:
            ones, inside = _rank(blocks[: level.blocks], places[searched])
            blocks = blocks[level.blocks :]
            found, rest = searched[inside], searched[~inside]
            tiers[found] = level.tier
            places[found] = ones[inside]
            places[rest] -= ones[~inside]
            _check_places(places[found], level.rows)
            _check_places(places[rest], level.ids - level.rows)
            searched = rest
        return tiers, places


@dataclass(frozen=True, eq=False)
class Arrangement:
    """Which rows a tier holds, in the order in which it holds them.

    tiers: for each tier its rows' ids, a slice if they follow each other. vectors: what finds them
    again, None if an id is its rank. permutation: (count,) int64, the old id of each new one, if
    rows were renumbered.
    """

    tiers: tuple[NDArray[np.int64] | slice, ...]
    vectors: TierVectors | None = None
    permutation: NDArray[np.int64] | None = None


def arrange(frequencies: NDArray[np.float64], order: Order) -> Arrangement:
    """Cut rows into tiers by frequency; among equally frequent ones the lower id comes first.

    ``"frequency"`` renumbers the rows. ``"keep"`` keeps their ids, and needs vectors only if these
    are not sorted by frequency already (a few misplaced rows do not matter).
    """
    bounds = tier_bounds(len(frequencies))
    runs = tuple(slice(int(a), int(b)) for a, b in pairwise(bounds))
    if np.all(frequencies[1:] <= frequencies[:-1]):
        return Arrangement(runs)
    ranked = np.argsort(-frequencies, kind="stable")
    if order == "frequency":
        return Arrangement(tuple(ranked[run] for run in runs), None, ranked)
    tiers = np.empty(len(frequencies), dtype=np.int8)
    for tier, run in enumerate(runs):
        tiers[ranked[run]] = tier
    own = np.repeat(np.arange(len(runs)), np.diff(bounds))
    if frequencies[own > tiers].sum() <= _MISPLACED * frequencies.sum():
        return Arrangement(runs)
    members = tuple(np.flatnonzero(tiers == tier) for tier in range(len(runs)))
    return Arrangement(members, TierVectors.of(tiers))


class Level(NamedTuple):
    """A tier with its rows, and how many ids its bit-vector is over."""

    tier: int
    rows: int
    ids: int

    @property
    def blocks(self) -> int:
        return -(-self.ids // BLOCK_BITS)


def levels_of(count: int) -> list[Level]:
    """Tiers of ``count`` ids, the largest first; each is over the ids that those before leave."""
    sizes = np.diff(tier_bounds(count)).tolist()
    levels = []
    for tier in sorted(range(len(sizes)), key=lambda tier: -sizes[tier]):
        levels.append(Level(tier, sizes[tier], count))
        count -= sizes[tier]
    return levels


def _check_places(places: NDArray[np.int64], rows: int) -> None:
    if len(places) and not 0 <= places.min() <= places.max() < rows:
        raise ArtifactError(
            f"tier vectors contradict themselves: they give places from {places.min()} to "
            f"{places.max()} among {rows} rows"
        )


def _blocks_of(bits: NDArray[np.bool_]) -> NDArray[np.void]:
    blocks = np.zeros(-(-len(bits) // BLOCK_BITS), dtype=_BLOCK)
    padded = np.zeros(len(blocks) * BLOCK_BITS, dtype=bool)
    padded[: len(bits)] = bits
    blocks["words"] = np.packbits(padded, bitorder="little").view("<u8").reshape(len(blocks), -1)
    ones = padded.reshape(len(blocks), BLOCK_BITS).sum(axis=1)
    blocks["before"] = np.cumsum(ones) - ones
    return blocks


def _rank(
    blocks: NDArray[np.void], positions: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Ones before each position, and whether there is one at it."""
    chosen = blocks[positions // BLOCK_BITS]
    word, bit = positions % BLOCK_BITS // 64, (positions % 64).astype(np.uint64)
    at = np.take_along_axis(chosen["words"], word[:, None], axis=1)[:, 0] >> bit & np.uint64(1)
    # Bits of the words before count in full, those of the position's own word below it only.
    below = (np.uint64(1) << bit) - np.uint64(1)
    full = np.arange(BLOCK_BITS // 64)[None, :] < word[:, None]
    own = np.arange(BLOCK_BITS // 64)[None, :] == word[:, None]
    mask = np.where(full, ~np.uint64(0), np.where(own, below[:, None], np.uint64(0)))
    ones = np.bitwise_count(chosen["words"] & mask).sum(axis=1, dtype=np.int64)
    return chosen["before"].astype(np.int64) + ones, at.astype(bool)
