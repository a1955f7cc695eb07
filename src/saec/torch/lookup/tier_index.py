"""Place of a row in a tiered table, found in its index by plain torch operations."""

from __future__ import annotations

import torch
from torch import Tensor

from saec.format.tier_index import BASE_BLOCKS, BLOCK_IDS, Level, levels_of
from saec.torch.lookup.reader import bits_at

__all__ = ["locate"]

_WORD_BITS = 32
_SEARCH_STEPS = BLOCK_IDS.bit_length()  # of a binary search among 0 to 256 members


def locate(ids: Tensor, count: int, tiers: int, index: Tensor) -> tuple[Tensor, Tensor]:
    """Tier of each id (m,) int64 of ``count`` and place in it, both (m,) int64.

    ``index`` (bytes,) uint8 is that of :class:`saec.format.tier_index.TierIndex`, checked.
    """
    found, places = torch.zeros_like(ids), ids
    searched = torch.ones_like(ids, dtype=torch.bool)
    for level in levels_of(count, tiers):
        positions = torch.where(searched, places, 0)
        before, inside = _passed(level, positions, index)
        before = torch.where(searched, before, 0)  # positions that are found stay
        found = torch.where(searched & ~inside, level.tier, found)
        places = torch.where(searched & inside, before, places - before)
        searched = searched & inside
    return found, places


def _passed(level: Level, positions: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Members before each position, and whether the position is one."""
    blocks, offsets = positions // BLOCK_IDS, positions % BLOCK_IDS
    bases = bits_at(index, 8 * level.first + 64 * (blocks // BASE_BLOCKS), 8)
    both = bits_at(index, 8 * level.counts_at + 16 * blocks, 4)
    start = bases + ((both - bases) & 0xFFFF)
    size = ((both >> 16) - both) & 0xFFFF
    if level.listed:
        return _in_list(level, start, size, offsets, index)
    first_bit = 8 * level.leaves_at + BLOCK_IDS * blocks
    before, inside = start, torch.zeros_like(offsets)
    for word in range(0, BLOCK_IDS, _WORD_BITS):
        bits = bits_at(index, first_bit + word, _WORD_BITS // 8)
        earlier = (offsets - word).clamp(0, _WORD_BITS)
        before = before + _popcount(bits & ((1 << earlier) - 1))
        inside = inside | ((earlier == offsets - word) & (earlier < _WORD_BITS)) * (bits >> earlier)
    return before, (inside & 1).bool()


def _in_list(
    level: Level, start: Tensor, size: Tensor, offsets: Tensor, index: Tensor
) -> tuple[Tensor, Tensor]:
    low, stop = start, start + size
    high = stop
    last = level.members - 1
    for _ in range(_SEARCH_STEPS):
        middle = (low + high) >> 1
        leaf = index.index_select(0, level.leaves_at + middle.clamp(0, last)).long()
        less = (low < high) & (leaf < offsets)
        high = torch.where((low < high) & ~less, middle, high)
        low = torch.where(less, middle + 1, low)
    leaf = index.index_select(0, level.leaves_at + low.clamp(0, last)).long()
    return low, (low < stop) & (leaf == offsets)


def _popcount(words: Tensor) -> Tensor:
    """Ones of each of the 32-bit words (m,) int64."""
    pairs = words - ((words >> 1) & 0x55555555)
    fours = (pairs & 0x33333333) + ((pairs >> 2) & 0x33333333)
    bytes_ = (fours + (fours >> 4)) & 0x0F0F0F0F
    return ((bytes_ * 0x01010101) >> 24) & 0xFF
