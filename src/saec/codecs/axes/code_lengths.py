"""Lengths of codewords, given that unknown keys read random bits."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from saec.bits.codewords import MOST_LENGTH

__all__ = ["code_lengths"]

Floats = NDArray[np.float64]
_HALVINGS = 30


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
    least = 0 if len(counts) == 1 and room == 1.0 else 1
    halves = 0.5 ** np.arange(MOST_LENGTH + 1)
    double = 2 * price * counts

    def best(multiplier: float) -> NDArray[np.int64]:
        # The cost is convex in the length: it falls while another bit saves more than its price.
        wanted = np.ceil(np.log2(np.maximum((harm + multiplier) / double, 1e-300)))
        return np.minimum(np.maximum(wanted, least), MOST_LENGTH).astype(np.int64)

    lengths = best(0.0)
    if halves[lengths].sum() <= room:
        return lengths
    # Codewords of log2(rows / rows with the symbol) bits, or one more, fit into all of the space.
    high = 4 * price * float(counts.sum()) / room
    low = high / 1024
    short, long = lengths, best(high)
    for _ in range(_HALVINGS):
        if int(long.sum()) - int(short.sum()) <= 1:  # no multiplier between gives other lengths
            break
        middle = math.sqrt(low * high)
        lengths = best(middle)
        if halves[lengths].sum() <= room:
            high, long = middle, lengths
        else:
            low, short = middle, lengths
    return _fill(long, counts, harm, price, room, least)


def _fill(
    lengths: NDArray[np.int64], counts: Floats, harm: Floats, price: float, room: float, least: int
) -> NDArray[np.int64]:
    """Shorten codewords while the code space allows it and that lowers the cost."""
    sizes = 0.5**lengths
    left = room - float(sizes.sum())
    gains = price * counts - harm * sizes
    while True:
        usable = (sizes <= left) & (gains > 0) & (lengths > least)
        if not usable.any():
            return lengths
        chosen = int(np.where(usable, gains, -1.0).argmax())
        left -= float(sizes[chosen])
        lengths[chosen] -= 1
        sizes[chosen] *= 2
        gains[chosen] = price * counts[chosen] - harm[chosen] * sizes[chosen]
