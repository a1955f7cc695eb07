"""Static functions whose numbers and tensors are damaged: lookups must bear them."""

from __future__ import annotations

from functools import cache
from random import Random

import numpy as np
from fuzz_spoil import spoiled

from saec.keys.compressed_function import CompressedFunction


@cache
def _sound(number: int) -> CompressedFunction:
    rng = np.random.default_rng(number)
    hashes = rng.integers(0, 2**64, 20 + 700 * number, dtype=np.uint64)
    common = 0.97 if number % 2 else 0.3  # with and without a filter
    symbols = rng.geometric(common, len(hashes))
    fingerprint_bits = [0, 0, 5, 40][number % 4]
    return CompressedFunction.build(hashes, symbols, fingerprint_bits=fingerprint_bits)


def ask_damaged_function(rng: Random) -> None:
    """Read a damaged function and look keys up in it."""
    sound = _sound(rng.randrange(8))
    description = list(sound.description)
    if not rng.randrange(3):
        place = rng.randrange(len(description))
        description[place] = rng.choice([0, 1, 2, 64, 65, 2**20, 2**47, description[place] + 1])
    tensors = dict(sound.tensors)
    for _ in range(rng.randrange(4)):
        role = rng.choice(sorted(tensors))
        tensors[role] = np.frombuffer(spoiled(rng, tensors[role].tobytes()), np.uint8)
    function = CompressedFunction.from_tensors(tuple(description), tensors)
    hashes = np.array([rng.getrandbits(64) for _ in range(200)], np.uint64)
    symbols, known = function.find(hashes)
    assert len(symbols) == len(known) == len(hashes)
