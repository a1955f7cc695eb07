"""The layout of a static function's blocks: what they share, and where each starts."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

import saec._native as _native

__all__ = ["MOST_SLOTS", "PADDING", "LengthCensus", "directory_of", "pack_steps", "unpack_steps"]

PADDING = 8  # bytes behind the last block
MOST_SLOTS = 896  # of a column
MOST_FIELD_BITS = 10
GROUP = 32  # blocks that share an absolute offset
_SPARE = 40  # slots more than keys that a block's first column may need
_STEP_BITS = 32  # that a step takes in its tensor
_RAISED = 2  # about how many columns get slots because one has too many or too few

Steps = NDArray[np.uint32]


@dataclass
class LengthCensus:
    """Counts keys by block and length, and chooses the steps of columns.

    A step says by how much columns get shorter from one on: a *base* and a field in the header of
    each block. Values of one length need one step, the length of the first column.
    """

    blocks: int
    fingerprint_bits: int
    value_bits: int
    fewest: int = MOST_SLOTS
    most: int = 0
    drops: NDArray[np.int64] = field(init=False)  # (value_bits, MOST_SLOTS + 1)

    def __post_init__(self) -> None:
        self.drops = np.zeros((self.value_bits, MOST_SLOTS + 1), np.int64)

    def add(self, hashes: NDArray[np.uint64], lengths: NDArray[np.uint8] | None) -> None:
        """Count all keys."""
        width = 1 if lengths is None else self.value_bits + 1
        counts = np.zeros((self.blocks, width), np.uint32)
        own = np.zeros(len(hashes), np.uint8) if lengths is None else lengths
        _native.count_lengths(hashes, own, self.blocks, counts)
        keys = counts.sum(axis=1, dtype=np.int64)
        if lengths is not None:
            if self.fingerprint_bits == 0:
                keys -= counts[:, 0]
            for length in range(self.value_bits):
                dropped = np.minimum(counts[:, length], MOST_SLOTS)
                self.drops[length] += np.bincount(dropped, minlength=MOST_SLOTS + 1)
        self.fewest = min(self.fewest, int(keys.min()))
        self.most = max(self.most, int(keys.max()))

    def steps(self, spare: int = _SPARE) -> Steps:
        """The steps (k, 3): column, base and field bits; the first one is for column 0."""
        most = min(self.most + spare, MOST_SLOTS)
        fewest = min(self.fewest, most)
        rows = [(0, fewest, (most - fewest).bit_length())]
        first = 0 if self.fingerprint_bits else 1
        for length in range(first, self.value_bits):
            base, bits = _cheapest(self.drops[length])
            if base or bits:
                rows.append((self.fingerprint_bits + length, base, bits))
        return np.array(rows, np.uint32)


def _cheapest(drops: NDArray[np.int64]) -> tuple[int, int]:
    """Base and field bits for which headers and slots that nobody needs take fewest bits.

    ``drops[d]`` blocks have d keys less than in the column before.
    """
    blocks = int(drops.sum())
    here = np.flatnonzero(drops)
    if not len(here):
        return 0, 0
    amounts, counts = here, drops[here]
    best = (float(_RAISED * (counts * amounts).sum()), 0, 0)
    lowest, highest = int(here[0]), int(here[-1])
    for bits in range((highest - lowest).bit_length() + 1):
        for base in range(lowest, highest + 1):
            top = base + 2**bits - 1
            missed = np.maximum(base - amounts, 0) + np.maximum(amounts - top, 0)
            cost = float(_STEP_BITS + blocks * bits + _RAISED * (counts * missed).sum())
            best = min(best, (cost, base, bits))
            if top >= highest:
                break
    return best[1:]


def directory_of(sizes: NDArray[np.uint32]) -> NDArray[np.uint8] | None:
    """Where blocks of ``sizes`` bytes start; None if some are too large for it.

    For each 32 blocks: the first one's start as 8 bytes, then each one's distance from there, 2
    bytes each.
    """
    starts = np.zeros(len(sizes), np.uint64)
    np.cumsum(sizes[:-1], out=starts[1:])
    groups = -(-len(sizes) // GROUP)
    bases = starts[::GROUP]
    offsets = starts - np.repeat(bases, GROUP)[: len(sizes)]
    if len(offsets) and int(offsets.max()) >= 1 << 16:
        return None
    table = np.zeros((groups, 8 + 2 * GROUP), np.uint8)
    table[:, :8] = bases.astype("<u8").view(np.uint8).reshape(groups, 8)
    padded = np.zeros(groups * GROUP, "<u2")
    padded[: len(sizes)] = offsets
    table[:, 8:] = padded.view(np.uint8).reshape(groups, 2 * GROUP)
    return table.reshape(-1)[: 8 * groups + 2 * len(sizes)].copy()


def pack_steps(steps: Steps) -> NDArray[np.uint8]:
    """4 bytes a step: column, field bits, and base in two bytes."""
    packed = np.zeros((len(steps), 4), np.uint8)
    packed[:, 0], packed[:, 1] = steps[:, 0], steps[:, 2]
    packed[:, 2], packed[:, 3] = steps[:, 1] & 255, steps[:, 1] >> 8
    return packed.reshape(-1)


def unpack_steps(packed: NDArray[np.uint8]) -> Steps:
    """The inverse of :func:`pack_steps`, for a whole number of steps."""
    rows = packed.reshape(-1, 4).astype(np.uint32)
    return np.stack([rows[:, 0], rows[:, 2] | rows[:, 3] << 8, rows[:, 1]], axis=1)
