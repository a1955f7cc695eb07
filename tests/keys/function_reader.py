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
    description: tuple[int, ...], tensors: dict[str, NDArray[np.uint8]], key: int
) -> tuple[bool, int]:
    """Whether the fingerprint of a hash fits, and its value."""
    _, blocks, fingerprint_bits, value_bits, spread = description
    columns = fingerprint_bits + value_bits
    if not blocks:
        return fingerprint_bits == 0 or mix(key) >> (64 - fingerprint_bits) == 0, 0
    own = mix(key) >> (64 - fingerprint_bits) if fingerprint_bits else 0
    if spread:
        string = run_sum(tensors, blocks, spread, columns, key)
        return string & ((1 << fingerprint_bits) - 1) == own, string >> fingerprint_bits
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
    return string & ((1 << fingerprint_bits) - 1) == own, string >> fingerprint_bits


def run_sum(
    tensors: dict[str, NDArray[np.uint8]], buckets: int, spread: int, columns: int, key: int
) -> int:
    """The sum of four runs of bits, the first bit lowest."""
    bucket = key * buckets >> 64
    first, last = tensors["directory"].view("<u8")[bucket : bucket + 2].tolist()
    seed, first, last = first >> 48, first % 2**48, last % 2**48
    starts = (last - first) * 8 - (4 << spread) - columns
    start = (key * buckets % 2**64) * starts >> 64
    offsets = mix(key + (seed + 1) * 0x9E3779B97F4A7C15 & _MASK)
    bits, string = np.unpackbits(tensors["bits"][first:]), 0
    for j in range(4):
        place = start + (j << spread) + (offsets >> 16 * j) % 2**spread
        for bit in range(columns):
            string ^= int(bits[place + bit]) << bit
    return string
