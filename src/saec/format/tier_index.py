"""The place of a feature's row: its tier, and its position in the tier.

Tiers need rows in order of frequency. Either the vocabulary is renumbered by frequency, and a
row's id is its rank; or ids stay the same, and an index gives the tier and position of each id.
If the vocabulary is renumbered, the rows of a tier may also be sorted by their codes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from saec.bits.packing import PackedRows
from saec.errors import ArtifactError
from saec.format.tier_layout import tier_bounds
from saec.streaming.bit_writes import ByteRun, Piece, run_of_codes

__all__ = ["BLOCK_IDS", "ORDERS", "Level", "Order", "TierIndex", "index_pieces", "levels_of"]

Order = Literal["keep", "frequency", "code"]
ORDERS = get_args(Order)

BLOCK_IDS = 256
BASE_BLOCKS = 256  # blocks that share a base

_BITMAP_BYTES = BLOCK_IDS // 8
# A reader may load this many bytes from the start of any block's list.
_PADDING = 31
_LOW = np.int64(0xFFFF)


class Level(NamedTuple):
    """A set of ids, stored for constant-time queries of membership and of the members before an id.

    The first level covers all ids, and its members are the rows of all tiers but the last. Each
    further level covers the members of the one before, in order of their ids, and removes the last
    of the remaining tiers.

    Attributes:
        tier: tier of the ids that are not members.
        ids: number of positions.
        members: number of members.
        first: first byte of the level in the index.
    """

    tier: int
    ids: int
    members: int
    first: int

    @property
    def blocks(self) -> int:
        return -(-self.ids // BLOCK_IDS)

    @property
    def listed(self) -> bool:
        """Whether members are listed, one byte each, instead of marked in a bit vector."""
        return self.members < self.blocks * _BITMAP_BYTES

    @property
    def counts_at(self) -> int:
        """First byte of the blocks' counts, which follow the bases."""
        return self.first + 8 * -(-(self.blocks + 1) // BASE_BLOCKS)

    @property
    def leaves_at(self) -> int:
        """First byte of the members' list or bit vector."""
        return self.counts_at + 2 * (self.blocks + 1)

    @property
    def stop(self) -> int:
        """First byte after the level."""
        return self.leaves_at + (self.members if self.listed else self.blocks * _BITMAP_BYTES)


def levels_of(count: int, tiers: int) -> list[Level]:
    """The levels of ``count`` ids in this number of tiers; the last tier's level comes first."""
    bounds = tier_bounds(count, tiers).tolist()
    levels, first = [], 0
    for tier in range(tiers - 1, 0, -1):
        levels.append(Level(tier, bounds[tier + 1], bounds[tier], first))
        first = levels[-1].stop
    return levels


class TierIndex:
    """Tier and position of each id, found in constant time; see docs/format.md.

    An id of the last tier takes about 0.06 bits, and an id of another tier at most a byte more, or
    every id takes a bit if that is less. Within a tier, rows are in ascending order of their ids.

    Args:
        data: (bytes,) uint8.
        count: number of ids.
        tiers: number of tiers.

    Raises:
        ArtifactError: the number of bytes is wrong.
    """

    def __init__(self, data: NDArray[np.uint8], count: int, tiers: int) -> None:
        wanted = self.planned_bytes(count, tiers)
        if data.shape != (wanted,) or data.dtype != np.uint8:
            raise ArtifactError(
                f"the index of {count} ids in {tiers} tiers takes {wanted} bytes, "
                f"not {data.dtype} {data.shape}"
            )
        self.data = data
        self.count = count
        self.tiers = tiers
        self._checked = False

    @classmethod
    def of(cls, tiers: NDArray[np.integer], number: int | None = None) -> TierIndex:
        """Store the tier of each id, (count,); tiers have the sizes that ranks would give them.

        number: number of tiers; by default the largest possible.
        """
        count = len(tiers)
        number = len(tier_bounds(count)) - 1 if number is None else number
        data = np.zeros(cls.planned_bytes(count, number), dtype=np.uint8)
        passed = np.zeros(number, dtype=np.int64)
        for piece in index_pieces("", np.asarray(tiers, np.int8), passed, count):
            assert isinstance(piece, ByteRun)
            data[piece.first : piece.first + len(piece.data)] |= piece.data
        return cls(data, count, number)

    @staticmethod
    def planned_bytes(count: int, tiers: int) -> int:
        """Bytes for ``count`` ids in this number of tiers."""
        return levels_of(count, tiers)[-1].stop + _PADDING if tiers > 1 else 0

    def locate(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Tier, and position in it, of checked ``ids`` (m,), both (m,) int64.

        Raises:
            ArtifactError: see :meth:`check`.
        """
        self.check()
        tiers = np.zeros(len(ids), dtype=np.int64)
        places = ids.copy()
        searched = np.arange(len(ids))
        for level in levels_of(self.count, self.tiers):
            before, inside = self._passed(level, places[searched])
            found, rest = searched[~inside], searched[inside]
            tiers[found] = level.tier
            places[found] -= before[~inside]
            places[rest] = before[inside]
            searched = rest
        return tiers, places

    def tiers_of_ids(self) -> NDArray[np.int8]:
        """The tier of every id, (count,), in time linear in their number.

        Raises:
            ArtifactError: see :meth:`check`.
        """
        self.check()
        tiers = np.zeros(self.count, np.int8)
        left = np.arange(self.count)
        for level in levels_of(self.count, self.tiers):
            inside = self._members(level)
            tiers[left[~inside]] = level.tier
            left = left[inside]
        return tiers

    def _members(self, level: Level) -> NDArray[np.bool_]:
        """Whether each position of a level is a member, (ids,)."""
        leaves = self.data[level.leaves_at : level.stop]
        if not level.listed:
            return np.unpackbits(leaves, bitorder="little", count=level.ids).view(np.bool_)
        inside = np.zeros(level.ids, np.bool_)
        sizes = np.diff(self._starts(level, np.arange(level.blocks + 1)))
        inside[BLOCK_IDS * np.repeat(np.arange(level.blocks), sizes) + leaves] = True
        return inside

    def check(self) -> None:
        """Check the whole index, in time linear in its bytes.

        Raises:
            ArtifactError: it is inconsistent, for example because the file is damaged.
        """
        if self._checked:
            return
        for level in levels_of(self.count, self.tiers):
            starts = self._starts(level, np.arange(level.blocks + 1))
            sizes = np.diff(starts)
            bases = self._bases(level)
            right = starts[0] == 0 and starts[-1] == level.members
            right = right and sizes.min() >= 0 and sizes.max() <= BLOCK_IDS
            right = right and np.array_equal(starts[::BASE_BLOCKS], bases)
            if not (right and self._leaves_fit(level, starts)):
                raise ArtifactError(
                    f"the tier index contradicts itself about tier {level.tier} of {self.count} ids"
                )
        if self.data[len(self.data) - _PADDING :].any():
            raise ArtifactError("the tier index does not end in zeros")
        self._checked = True

    def _leaves_fit(self, level: Level, starts: NDArray[np.int64]) -> bool:
        last = level.ids - (level.blocks - 1) * BLOCK_IDS  # ids of the last block
        leaves = self.data[level.leaves_at : level.stop]
        if level.listed:
            ascending = leaves[1:] > leaves[:-1]
            ascending[starts[(starts > 0) & (starts < level.members)] - 1] = True
            own = leaves[starts[-2] :]
            return bool(ascending.all() and (len(own) == 0 or int(own[-1]) < last))
        words = leaves.reshape(-1, _BITMAP_BYTES)
        held = np.bitwise_count(words).sum(axis=1, dtype=np.int64)
        beyond = np.unpackbits(words[-1], bitorder="little")[last:]
        return bool(np.array_equal(held, np.diff(starts)) and not beyond.any())

    def _bases(self, level: Level) -> NDArray[np.int64]:
        return self.data[level.first : level.counts_at].view("<i8")

    def _starts(self, level: Level, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Members before each block, from their lowest 16 bits and the base."""
        counts = self.data[level.counts_at : level.leaves_at].view("<u2")
        bases = self._bases(level)[blocks // BASE_BLOCKS]
        starts: NDArray[np.int64] = bases + (counts[blocks].astype(np.int64) - bases & _LOW)
        return starts

    def _passed(
        self, level: Level, positions: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Members before each position, and whether the position is a member."""
        blocks, offsets = positions // BLOCK_IDS, positions % BLOCK_IDS
        low, high = self._starts(level, blocks), self._starts(level, blocks + 1)
        leaves = self.data[level.leaves_at : level.stop]
        if not level.listed:
            bits = np.unpackbits(leaves.reshape(-1, _BITMAP_BYTES)[blocks], 1, bitorder="little")
            earlier = np.arange(BLOCK_IDS) < offsets[:, None]
            inside = bits[np.arange(len(bits)), offsets] > 0
            return low + (bits * earlier).sum(axis=1, dtype=np.int64), inside
        last = high
        while (searching := low < high).any():
            middle = low + high >> 1
            less = searching & (leaves[np.minimum(middle, level.members - 1)] < offsets)
            low, high = (
                np.where(less, middle + 1, low),
                np.where(searching & ~less, middle, high),
            )
        at = leaves[np.minimum(low, level.members - 1)]
        return low, (low < last) & (at == offsets)


def index_pieces(
    role: str, tiers: NDArray[np.int8], passed: NDArray[np.int64], count: int
) -> Iterator[Piece]:
    """Contribution of consecutive rows to the :class:`TierIndex` of all rows.

    Args:
        role: of the tensor.
        tiers: (m,) tiers of these rows.
        passed: (tiers,) number of earlier rows in each tier.
        count: number of all rows.
    """
    for level in levels_of(count, len(passed)):
        inside = tiers < level.tier
        before = int(passed[: level.tier].sum())  # members
        position = before + int(passed[level.tier])
        yield from _counts(role, level, inside, before, position)
        yield from _leaves(role, level, inside, before, position)
        tiers = tiers[inside]


def _counts(
    role: str, level: Level, inside: NDArray[np.bool_], before: int, position: int
) -> Iterator[Piece]:
    """Counts of the blocks that start within the rows from ``position`` on; the last row adds the
    end."""
    stop = position + len(inside)
    first_block = -(-position // BLOCK_IDS)
    running = np.r_[before, before + np.cumsum(inside)]
    counts = running[first_block * BLOCK_IDS - position :: BLOCK_IDS]
    if stop % BLOCK_IDS == 0:
        counts = counts[: stop // BLOCK_IDS - first_block]  # the next rows start that block
    if stop == level.ids and len(inside):
        counts = np.r_[counts, running[-1]]
    if not len(counts):
        return
    yield ByteRun(role, level.counts_at + 2 * first_block, counts.astype("<u2").view(np.uint8))
    first_base = -(-first_block // BASE_BLOCKS)
    bases = counts[first_base * BASE_BLOCKS - first_block :: BASE_BLOCKS]
    if len(bases):
        yield ByteRun(role, level.first + 8 * first_base, bases.astype("<i8").view(np.uint8))


def _leaves(
    role: str, level: Level, inside: NDArray[np.bool_], before: int, position: int
) -> Iterator[Piece]:
    if level.listed:
        offsets = (position + np.flatnonzero(inside)) % BLOCK_IDS
        yield ByteRun(role, level.leaves_at + before, offsets.astype(np.uint8))
    elif len(inside):
        first_bit = 8 * level.leaves_at + position
        yield run_of_codes(role, first_bit, PackedRows.pack([inside.astype(np.uint32)], [1]))
