"""Prefix codes that are stored only as the length of each symbol's codeword.

Codewords are canonical: sorted by length, then by symbol, they are consecutive numbers. If they
leave a part of the code space unused, strings of bits in that part belong to no symbol.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from saec.errors import ArtifactError

__all__ = ["MOST_LENGTH", "Codewords", "reversed_bits"]

MOST_LENGTH = 56  # of a codeword

_SWAPS = (
    (np.uint64(1), np.uint64(0x5555555555555555)),
    (np.uint64(2), np.uint64(0x3333333333333333)),
    (np.uint64(4), np.uint64(0x0F0F0F0F0F0F0F0F)),
    (np.uint64(8), np.uint64(0x00FF00FF00FF00FF)),
    (np.uint64(16), np.uint64(0x0000FFFF0000FFFF)),
)


class Codewords:
    """The code of symbols 0, 1, ..., read from the highest bit of a 64-bit word on.

    Args:
        lengths: (symbols,) integers, bits of each codeword, 0 only if there is one symbol.

    Attributes:
        lengths: (symbols,) int64.
        order: (symbols,) int64, the symbols in order of their codewords.
        starts: (symbols,) uint64, the first word of each, in that order.
        end: the first word that belongs to no symbol, at most 2^64.

    Raises:
        ArtifactError: no symbols, a length is out of range, or no prefix code has these lengths.
    """

    def __init__(self, lengths: NDArray[Any]) -> None:
        self.lengths = lengths.astype(np.int64)
        least = 0 if len(lengths) == 1 else 1
        if not len(lengths) or not least <= self.lengths.min() <= self.lengths.max() <= MOST_LENGTH:
            raise ArtifactError(
                f"codewords of 1 to 65536 symbols have {least} to {MOST_LENGTH} bits"
            )
        self.order = np.argsort(self.lengths, kind="stable")
        self.end = sum(1 << (64 - length) for length in self.lengths.tolist())
        if self.end > 1 << 64:
            raise ArtifactError(f"no prefix code has codewords of {lengths.tolist()[:9]} ... bits")
        widths = np.left_shift(np.uint64(1), (64 - self.lengths[self.order[:-1]]).astype(np.uint64))
        self.starts = np.zeros(len(lengths), dtype=np.uint64)
        np.cumsum(widths, out=self.starts[1:])

    @property
    def known_share(self) -> float:
        """The share of all words that start with the codeword of a symbol."""
        return float(self.end / 2**64)

    def words(self) -> NDArray[np.uint64]:
        """The codeword of each symbol, at the highest bits of a word (symbols,) uint64."""
        words = np.empty_like(self.starts)
        words[self.order] = self.starts
        return words


def reversed_bits(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """``words`` with their 64 bits in reverse order."""
    for shift, mask in _SWAPS:
        words = (words >> shift & mask) | (words & mask) << shift
    return words >> np.uint64(32) | words << np.uint64(32)
