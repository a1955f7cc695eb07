"""Static functions read by numpy and Python's integers alone, as docs/format.md describes them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_MASK = (1 << 64) - 1


def mix(x: int) -> int:
    x = (x ^ x >> 33) * 0xFF51AFD7ED558CCD & _MASK
    x = (x ^ x >> 33) * 0xC4CEB9FE1A85EC53 & _MASK
    return x ^ x >> 33


def string_of(
    description: tuple[int, int, int, int], tensors: dict[str, NDArray[np.uint8]], key: int
) -> tuple[bool, int]:
    """Whether the fingerprint of a hash fits, and its value."""
    _, blocks, fingerprint_bits, value_bits = description
    columns = fingerprint_bits + value_bits
    if not blocks:
        return fingerprint_bits == 0 or mix(key) >> (64 - fingerprint_bits) == 0, 0
    steps = {
        int(column): (int(low) + 256 * int(high), int(bits))
        for column, bits, low, high in tensors["steps"].reshape(-1, 4)
    }
    header_bits = sum(bits for _, bits in steps.values())
    block = key * blocks >> 64
    group = tensors["directory"][block // 32 * 72 :]
    start = int(group[:8].view("<u8")[0]) + int(group[8 + block % 32 * 2 :][:2].view("<u2")[0])
    bits = np.unpackbits(tensors["bits"][start:], bitorder="little")
    header, bits = bits[:header_bits], bits[header_bits:]
    picked = [
        mix(key + (word + 1) * 0x9E3779B97F4A7C15 & _MASK) >> 8 >> bit & 1
        for word in range(16)
        for bit in range(56)
    ]
    string, slots = 0, 0
    for column in range(columns):
        if column in steps:
            base, width = steps[column]
            change = base + int(header[:width] @ (1 << np.arange(width)))
            header = header[width:]
            slots = slots - change if column else change
        string |= int(bits[:slots] @ np.array(picked[:slots], np.int64)) % 2 << column
        bits = bits[slots:]
    own = mix(key) >> (64 - fingerprint_bits) if fingerprint_bits else 0
    return string & ((1 << fingerprint_bits) - 1) == own, string >> fingerprint_bits
