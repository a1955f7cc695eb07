"""Lengths of codewords, given that unknown keys read random bits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

import saec._native as _native
from saec.bits.codewords import MOST_LENGTH

__all__ = ["code_lengths"]

Floats = NDArray[np.float64]


def code_lengths(
    counts: Floats, harm: Floats, price: float, room: float = 1.0
) -> NDArray[np.int64]:
    """Lengths that minimise price x bits + harm under Kraft's inequality.

    An unknown key reads random bits, so it is decoded to symbol s with probability 2^-length(s).
    The function minimises

        sum_s price counts(s) length(s) + harm(s) 2^-length(s),    sum_s 2^-length(s) <= room.

    Without the constraint, the best length of each symbol is log2(ln 2 harm / (price counts)).
    If these lengths violate the constraint, a Lagrange multiplier is added to every harm. Rounding
    then leaves a part of the code space free; codewords are shortened to fill it, those first that
    save most. Code space that stays unused makes unknown keys recognisable, as the bits of a
    fingerprint would.

    Args:
        counts: (symbols,) float64, the number of rows with each symbol; all positive.
        harm: (symbols,) float64, the loss in nats if every unknown key were decoded to the symbol.
        price: nats per bit.
        room: the largest share of the code space that codewords may take, from 0 to 1.

    Returns:
        (symbols,) int64, lengths in bits.
    """
    lengths = np.empty(len(counts), np.int64)
    _native.code_lengths(
        np.ascontiguousarray(counts), np.ascontiguousarray(harm), price, room, MOST_LENGTH, lengths
    )
    return lengths
