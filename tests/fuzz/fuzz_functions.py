"""Static functions with damaged numbers and tensors: lookups must not crash."""

from __future__ import annotations

from functools import cache
from random import Random

import numpy as np
from fuzz_spoil import spoiled

from saec.keys.building import build_function
from saec.keys.keyed_values import KeyedValues
from saec.keys.static_function import StaticFunction
from saec.keys.windows import SolvedBuckets, WindowShape


@cache
def _sound(number: int) -> StaticFunction:
    """A valid function: dense blocks for even numbers, windows for odd ones."""
    rng = np.random.default_rng(number)
    hashes = rng.integers(0, 2**64, 20 + 700 * number, dtype=np.uint64)
    lengths = np.minimum(rng.geometric(0.2, len(hashes)), 60).astype(np.uint8)
    fingerprint_bits = [0, 0, 5, 40][number % 4]
    values = np.zeros(len(hashes), np.uint64)
    if number % 2 == 0:
        return build_function(hashes, values, lengths, fingerprint_bits=fingerprint_bits)
    solved = SolvedBuckets(WindowShape(1, 9), fingerprint_bits, int(lengths.max()), 1)
    solved.add(KeyedValues(hashes, values, lengths, int(lengths.max())), 0, 2)
    return solved.function(len(hashes))


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
    function = StaticFunction.from_tensors(tuple(description), tensors)
    hashes = np.array([rng.getrandbits(64) for _ in range(200)], np.uint64)
    values, known = function.find(hashes)
    assert len(values) == len(known) == len(hashes)
