"""A cuckoo hash table of the ids before the tail and their places, with three slots to choose from.

For each choice, a bijection maps an id to a slot and a remainder. So a slot stores only the
remainder and the number of the choice, and an id is found by comparing these (Fotakis, Pagh,
Sanders, Spirakis 2003).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saec.bits.packing import bits_for
from saec.onnx.word_packing import pack_words

__all__ = ["FACTORS", "MOST_IDS", "Members"]

MOST_IDS = 1 << 31  # the product of an id and a factor fits 63 bits
FACTORS = np.array([0x9E3779B1, 0x85EBCA6B, 0xC2B2AE35], np.int64) >> 1 | 1

_LOAD = 0.85  # share of slots in use, with which nearly all sets of ids can be placed
_ROUNDS = 300


@dataclass(frozen=True, eq=False)
class Members:
    """A hash table: with x = id * FACTORS[c] modulo ``space``, choice c of an id is slot x //
    ``each``.

    marks: (slots,) 1 + 3 * (x % each) + c of the id in the slot, 0 if the slot is empty.
    places: (words,) the place of the id in each slot, packed with ``place_bits`` bits.
    """

    space: int
    each: int
    marks: NDArray[np.unsignedinteger]
    places: NDArray[np.uint64]
    place_bits: int

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return self.marks.nbytes + self.places.nbytes

    @classmethod
    def of(cls, ids: NDArray[np.int64], count: int) -> Members:
        """The table of ``ids`` (m,), all below ``count``; the place of ``ids[p]`` is p."""
        space = 1 << bits_for(count)
        mixed = ids * FACTORS[:, None] % space
        wanted = int(len(ids) / _LOAD) + 1
        while True:
            each = -(-space // wanted)
            slots = -(-space // each)
            placed = _placed(mixed // each, slots)
            if placed is not None:
                break
            wanted += wanted // 16 + 1
        owners, choices = placed
        held = np.flatnonzero(owners >= 0)
        there = owners[held]
        marks = np.zeros(slots, np.int64)
        marks[held] = 1 + 3 * (mixed[choices[there], there] % each) + choices[there]
        bits = bits_for(len(ids))
        places = pack_words(np.maximum(owners, 0).astype(np.uint64), bits)
        return cls(space, each, marks.astype(np.min_scalar_type(3 * each)), places, bits)


def _placed(
    slots: NDArray[np.int64], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """The number of the id in each slot (count,), -1 if empty, and the choice of each id (m,).

    In each round, every id without a slot takes its chosen slot and evicts the id that was there.
    If several take the same slot, one of them gets it. All others choose another slot in the next
    round. None if some ids have no slot after the last round.

    slots: (3, m), the slot of each id by each choice.
    """
    rng = np.random.default_rng(0)
    owners = np.full(count, -1)
    pending = np.arange(slots.shape[1])
    choices = np.zeros(len(pending), np.int64)
    for _ in range(_ROUNDS):
        if len(pending) == 0:
            return owners, choices
        wanted = slots[choices[pending], pending]
        evicted = np.unique(owners[wanted])
        owners[wanted] = pending
        lost = pending[owners[wanted] != pending]
        pending = np.concatenate([lost, evicted[evicted >= 0]])
        choices[pending] = (choices[pending] + rng.integers(1, 3, len(pending))) % 3
    return None
