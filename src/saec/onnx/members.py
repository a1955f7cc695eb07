"""Which of a table's ids are before the tail, and where: a hash table with three choices of a slot.

A bijection of all ids gives a slot and a remainder for each choice, so that a slot needs no more
than the remainder and the number of the choice to tell whether an id is there (cuckoo hashing;
Fotakis, Pagh, Sanders, Spirakis 2003).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saec.bits.packing import bits_for
from saec.onnx.word_packing import pack_words

__all__ = ["FACTORS", "MOST_IDS", "Members"]

MOST_IDS = 1 << 31  # times a factor, they fit 63 bits
FACTORS = np.array([0x9E3779B1, 0x85EBCA6B, 0xC2B2AE35], np.int64) >> 1 | 1

_LOAD = 0.85  # of the slots; nearly all tables of so many can be placed
_ROUNDS = 300


@dataclass(frozen=True, eq=False)
class Members:
    """With x = id * FACTORS[c] modulo ``space``, id's slot by choice c is x // ``each``.

    marks: (slots,) 1 + 3 * (x % each) + c of the id that is there, 0 if none is.
    places: by slot, packed with ``place_bits`` bits.
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
        """``ids`` (m,) below ``count``, each at its number here."""
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
    """Who is in each slot, or -1, and the choice of each: in rounds, who comes last stays.

    slots: (3, m) of each choice.
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
