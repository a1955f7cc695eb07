"""Codes of any width in 64-bit words, none across two: what bit operators of ONNX can read."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["WORD_BITS", "codes_per_word", "pack_words", "words_for"]

WORD_BITS = 64


def codes_per_word(bits: int) -> int:
    """Number of codes of ``bits`` bits in a word, 1 to 63; any number for 0 bits."""
    return WORD_BITS // bits if bits else 1 << 40


def words_for(count: int, bits: int) -> int:
    """Words for ``count`` codes; at least one, so that a reader has one to read."""
    return max(1, -(-count // codes_per_word(bits)))


def pack_words(codes: NDArray[np.uint64], bits: int) -> NDArray[np.uint64]:
    """Pack ``codes`` (n,) below 2**bits: (words,) uint64, the lowest bits first."""
    words = np.zeros(words_for(len(codes), bits), dtype=np.uint64)
    if bits == 0:
        return words
    for slot in range(codes_per_word(bits)):
        some = codes[slot :: codes_per_word(bits)]
        words[: len(some)] |= some << np.uint64(slot * bits)
    return words
