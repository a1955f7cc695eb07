"""Where a feature's row is stored: its tier, and its place in it.

Tiers want rows in order of frequency. Either the owner renumbers the vocabulary by frequency, and a
row's id is its rank; or ids stay as they are, and bit-vectors tell each id's tier and place. An
owner who renumbers may as well put similar rows of a tier side by side.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from saec.errors import ArtifactError
from saec.format.tier_layout import tier_bounds
from saec.streaming.bit_writes import Scattered

__all__ = ["BLOCK_BITS", "ORDERS", "Level", "Order", "TierVectors", "levels_of", "vector_pieces"]

Order = Literal["keep", "frequency", "code"]
ORDERS = get_args(Order)

BLOCK_BITS = 512
_BLOCK: np.dtype[np.void] = np.dtype([("before", "<u4"), ("words", "<u8", BLOCK_BITS // 64)])


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


def vector_pieces(
    role: str, tiers: NDArray[np.int8], passed: NDArray[np.int64], first: int, count: int
) -> Iterator[Scattered]:
    """What some rows, one after the other, contribute to the :class:`TierVectors` of all.

    Args:
        role: of the tensor.
        tiers: (m,) of these rows.
        passed: rows of each tier before them.
        first: id of the first of them.
        count: number of all rows.
    """
    start, position = 0, first
    for level in levels_of(count)[:-1]:
        inside = tiers == level.tier
        positions = position + np.arange(len(tiers))
        blocks = start + positions // BLOCK_BITS * _BLOCK.itemsize
        bits = positions[inside] % BLOCK_BITS
        words = _BLOCK.fields["words"][1] if _BLOCK.fields else 0
        yield Scattered(
            role,
            blocks[inside] + words + bits // 8,
            np.left_shift(1, bits % 8).astype(np.uint8),
        )
        heads = positions % BLOCK_BITS == 0
        ones = passed[level.tier] + np.cumsum(inside) - inside
        yield Scattered(role, blocks[heads], ones[heads].astype(np.uint32))
        start += level.blocks * _BLOCK.itemsize
        position -= int(passed[level.tier])
        tiers = tiers[~inside]


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
