"""Lengths of codewords, given that unknown keys read random codewords."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from saec.bits.codewords import MOST_LENGTH

__all__ = ["code_lengths"]

Floats = NDArray[np.float64]
_HALVINGS = 30


def code_lengths(
    counts: Floats, harm: Floats, price: float, room: float = 1.0
) -> NDArray[np.int64]:
    """Lengths that make price x bits + harm small within the code space.

    An unknown key reads a random string, so that it is taken for symbol s with probability
    2^-length(s). Minimised is

        sum_s price counts(s) length(s) + harm(s) 2^-length(s),    sum_s 2^-length(s) <= room.

    Without the bound, each symbol has its own best length: log2(ln 2 harm / (price counts)). A
    multiplier of the bound is added to every harm otherwise, and what rounding leaves of the room
    shortens codewords, those first that save most. So the part of the code space that is left
    unused tells unknown keys from known ones, as bits of a fingerprint would.

    Args:
        counts: (symbols,) rows that have each symbol; all positive.
        harm: (symbols,) nats if every unknown key were taken for it.
        price: nats per bit.
        room: at most this share of all strings belongs to symbols.

    Returns:
        (symbols,) int64.
    """
    least = 0 if len(counts) == 1 and room == 1.0 else 1
    halves = 0.5 ** np.arange(MOST_LENGTH + 1)
    double = 2 * price * counts

    def best(multiplier: float) -> NDArray[np.int64]:
        # The cost is convex in the length: it falls while one more bit saves more than its price.
        wanted = np.ceil(np.log2(np.maximum((harm + multiplier) / double, 1e-300)))
        return np.minimum(np.maximum(wanted, least), MOST_LENGTH).astype(np.int64)

    lengths = best(0.0)
    if halves[lengths].sum() <= room:
        return lengths
    # Codewords of log2(rows / rows with the symbol) bits, or one more, fit into all of the space.
    high = 4 * price * float(counts.sum()) / room
    low = high / 1024
    for _ in range(_HALVINGS):
        middle = np.sqrt(low * high)
        if halves[best(middle)].sum() <= room:
            high = middle
        else:
            low = middle
    return _fill(best(high), counts, harm, price, room, least)


def _fill(
    lengths: NDArray[np.int64], counts: Floats, harm: Floats, price: float, room: float, least: int
) -> NDArray[np.int64]:
    """Shorten codewords as long as the room allows it."""
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
