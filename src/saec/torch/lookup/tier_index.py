"""Where a row of a tiered table is stored, found in bit-vectors by plain torch operations."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from saec.format.tier_index import BLOCK_BITS, TierVectors, levels_of

__all__ = ["Vectors", "locate"]

_WORD_BITS = 32
_BLOCK_WORDS = 1 + BLOCK_BITS // _WORD_BITS
_CHECKED_ROWS = 1 << 16


class Vectors(nn.Module):
    """:class:`saec.format.tier_index.TierVectors` as it is stored, for lookups in tensors.

    Attributes:
        blocks: buffer (blocks, 17) int32, the ones before each block and its bits.

    Raises:
        ArtifactError: the vectors contradict themselves.
    """

    blocks: Tensor

    def __init__(self, vectors: TierVectors, device: torch.device) -> None:
        super().__init__()
        # A damaged vector must not reach the codes of another tier.
        for start in range(0, vectors.count, _CHECKED_ROWS):
            stop = min(start + _CHECKED_ROWS, vectors.count)
            vectors.locate(np.arange(start, stop, dtype=np.int64))
        blocks = np.array(vectors.data).view("<i4").reshape(-1, _BLOCK_WORDS)
        self.register_buffer("blocks", torch.from_numpy(blocks).to(device))

    @property
    def data(self) -> NDArray[np.uint8]:
        """What is stored, (bytes,)."""
        array: NDArray[np.uint8] = self.blocks.cpu().numpy().reshape(-1).view(np.uint8)
        return array


def locate(ids: Tensor, count: int, blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Tier of each id (m,) int64 of ``count`` and place in it, both (m,) int64.

    ``blocks`` are those of :class:`Vectors`.
    """
    *levels, last = levels_of(count)
    tiers = torch.full_like(ids, last.tier)
    places, left = ids, ids
    found = torch.zeros_like(ids, dtype=torch.bool)
    first = 0
    for level in levels:
        ones, inside = _counted(blocks, first, left)
        new = inside & ~found
        tiers = torch.where(new, level.tier, tiers)
        places = torch.where(new, ones, places)
        found = found | inside
        left = torch.where(found, 0, left - ones)
        first += level.blocks
    return tiers, torch.where(found, places, left)


def _counted(blocks: Tensor, first_block: int, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Ones before each position of a vector, and whether there is one at it."""
    chosen = blocks.index_select(0, first_block + (positions // BLOCK_BITS))
    inside = positions % BLOCK_BITS
    word = chosen.gather(1, 1 + inside[:, None] // _WORD_BITS)[:, 0]
    at = (word >> (inside % _WORD_BITS)) & 1
    before = chosen[:, 0].long() & 0xFFFFFFFF
    ones = _popcount(chosen[:, 1:] & _bits_below(inside))
    return before + ones, at.bool()


def _bits_below(positions: Tensor) -> Tensor:
    """The bits before each position (m,) of a block, (m, 16) int32."""
    first_bits = torch.arange(0, BLOCK_BITS, _WORD_BITS, device=positions.device)
    counts = (positions[:, None] - first_bits).clamp(0, _WORD_BITS)
    return ((1 << counts) - 1).to(torch.int32)  # int64, as a word may be all ones


def _popcount(blocks: Tensor) -> Tensor:
    """Ones in each row of 16 words of 32 bits, (m, 16) int32 to (m,) int64."""
    pairs = blocks - ((blocks >> 1) & 0x55555555)
    fours = (pairs & 0x33333333) + ((pairs >> 2) & 0x33333333)
    # Bytes of up to 8 ones each: sixteen of them still fit a byte.
    ones = ((fours + (fours >> 4)) & 0x0F0F0F0F).sum(dim=1)
    return (ones & 0xFF) + ((ones >> 8) & 0xFF) + ((ones >> 16) & 0xFF) + (ones >> 24)
