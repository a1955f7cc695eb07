"""Packs codes of any width into 64-bit words for ONNX's bit operators; no code spans two words."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["WORD_BITS", "codes_per_word", "pack_words", "words_for"]

WORD_BITS = 64


def codes_per_word(bits: int) -> int:
    """Number of codes of ``bits`` bits (1 to 63) in a word; for 0 bits, a very large number."""
    return WORD_BITS // bits if bits else 1 << 40


def words_for(count: int, bits: int) -> int:
    """Number of words for ``count`` codes; at least one, so that there is always one to read."""
    return max(1, -(-count // codes_per_word(bits)))


def pack_words(codes: NDArray[np.uint64], bits: int) -> NDArray[np.uint64]:
    """Pack ``codes`` (n,) below 2**bits into (words,) uint64, from the lowest bits up."""
    words = np.zeros(words_for(len(codes), bits), dtype=np.uint64)
    if bits == 0:
        return words
    for slot in range(codes_per_word(bits)):
        some = codes[slot :: codes_per_word(bits)]
        words[: len(some)] |= some << np.uint64(slot * bits)
    return words
