"""Reading static functions: instruction sets agree on valid and damaged blocks; bad arguments."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from saec import _native
from saec.keys.building import build_function
from saec.keys.static_function import StaticFunction


def has_isa(isa: str) -> bool:
    try:
        ask(sound(3, 1, False), np.zeros(1, np.uint64), isa)
    except ValueError:
        return False
    return True


def sound(count: int, bits: int, varied: bool, fingerprint_bits: int = 0) -> StaticFunction:
    rng = np.random.default_rng(count + bits)
    hashes = rng.integers(0, 2**64, count, dtype=np.uint64)
    lengths = np.minimum(rng.geometric(0.15, count), bits).astype(np.uint8)
    values = rng.integers(0, 2, count)
    widths = lengths if varied else bits
    return build_function(hashes, values, widths, fingerprint_bits=fingerprint_bits)


def ask(
    function: StaticFunction, hashes: NDArray[np.uint64], isa: str
) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    values, known = np.empty(len(hashes), np.uint64), np.empty(len(hashes), np.bool_)
    function.table.look_up(hashes, values, known, 1, isa)
    return values, known


@pytest.mark.parametrize("varied", [False, True])
@pytest.mark.parametrize(
    ("bits", "fingerprint_bits"), [(1, 0), (7, 1), (8, 8), (9, 0), (40, 3), (64, 64), (63, 2)]
)
@pytest.mark.parametrize("damaged", [False, True])
def test_instruction_sets_agree(
    bits: int, fingerprint_bits: int, varied: bool, damaged: bool
) -> None:
    if not has_isa("avx512"):
        pytest.skip("this processor has no AVX-512 with VPOPCNTDQ")
    asked = function = sound(2500, bits, varied, fingerprint_bits)
    rng = np.random.default_rng(bits)
    hashes = rng.integers(0, 2**64, 3000, dtype=np.uint64)
    for _ in range(20 if damaged else 1):
        if damaged:
            tensors = {role: tensor.copy() for role, tensor in function.tensors.items()}
            for role in ("bits", "directory"):
                places = rng.integers(0, len(tensors[role]), 50)
                tensors[role][places] = rng.integers(0, 256, 50)
            keep = int(rng.integers(8, len(tensors["bits"]) + 1))
            tensors["bits"] = tensors["bits"][:keep].copy()
            asked = StaticFunction.from_tensors(function.description, tensors)
        portable, fast = ask(asked, hashes, "scalar"), ask(asked, hashes, "avx512")
        assert np.array_equal(portable[0], fast[0])
        assert np.array_equal(portable[1], fast[1])


def test_lengths_must_agree() -> None:
    table = sound(10, 3, False).table
    two, three, known = np.zeros(2, np.uint64), np.zeros(3, np.uint64), np.zeros(3, np.bool_)
    with pytest.raises(ValueError, match="values and hashes differ in length"):
        table.look_up(two, three, known)
    with pytest.raises(ValueError, match="known and hashes differ in length"):
        table.look_up(two, two.copy(), known)
    with pytest.raises(ValueError, match="no instruction set neon"):
        table.look_up(two, two.copy(), known[:0], 1, "neon")


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([0, 3, 2, 4], "offsets must ascend: at position 1 3, then 2"),
        ([-1, 0, 2, 4], "offsets start at -1, below 0"),
        ([0, 1, 2, 9], "offsets end at 9, beyond the 4 bytes"),
        ([0, 1, 2], "3 hashes need 4 offsets, there are 3"),
    ],
)
def test_offsets_of_strings(offsets: list[int], message: str) -> None:
    data, hashes = np.frombuffer(b"abcd", np.uint8), np.empty(3, np.uint64)
    for dtype in (np.int32, np.int64):
        with pytest.raises(ValueError, match=message):
            _native.hash_strings(data, np.array(offsets, dtype), hashes, 0)


def test_keys_outside_the_blocks_are_refused() -> None:
    hashes, steps = np.full(3, 2**63, np.uint64), np.array([[0, 0, 8]], np.uint32)
    none = np.zeros(0, np.uint8)
    with pytest.raises(ValueError, match="there are 2 sizes for 4 blocks"):
        _native.solve_blocks(hashes, hashes, none, 0, 1, 4, steps, np.zeros(2, np.uint32))
    counts = np.zeros((2, 1), np.uint32)
    with pytest.raises(ValueError, match=r"is outside the counts of shape \(2, 1\)"):
        _native.count_lengths(hashes, np.zeros(3, np.uint8), 4, counts)
    sizes, seeds = np.zeros(2, np.uint64), np.zeros(2, np.uint16)
    with pytest.raises(ValueError, match="a key is in none of the 2 buckets from 0 on"):
        _native.solve_buckets(hashes, hashes, none, 0, 1, 2, 0, 7, 41, sizes, seeds)
    with pytest.raises(ValueError, match=r"windows of 2\^17 places, not of 2\^1 to 2\^16"):
        _native.solve_buckets(hashes, hashes, none, 0, 1, 2, 0, 17, 41, sizes, seeds)


def test_too_few_slots_in_headers() -> None:
    hashes = np.random.default_rng(0).integers(0, 2**64, 30, dtype=np.uint64)
    none, steps = np.zeros(0, np.uint8), np.array([[0, 0, 3]], np.uint32)  # up to 7 slots
    failure, block, *_ = _native.solve_blocks(
        hashes, hashes & np.uint64(1), none, 0, 1, 1, steps, np.zeros(1, np.uint32)
    )
    assert (failure, block) == (2, 0)
