"""Errors of lookups: ids and offsets out of range, codes beyond their codebook, damaged indexes."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lookup_reference import HERE, Ask, Runs, Slow, call, random_tiers
from native_alone import LOAD
from numpy.typing import NDArray

from saec import _native
from saec.format.native_lookup import LookupTable, RowRun, tier_table
from saec.format.tier_index import TierIndex
from saec.format.tier_layout import Layout

ID, CODE, OFFSET = 1, 2, 3
POSITIONS = [0, 1, 63, 64, 65, 127, 128, 300, 511, 512, 2000, 2999]
COUNT = 3000

BOOK = np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32)
NO_CODES = np.zeros(0, np.uint8)
SLOW: dict[str, Slow] = {
    "rows": Runs(40, [RowRun(0, 0, 0, 0)], NO_CODES, BOOK),
    "codes": Runs(99, [RowRun(0, 5, 0, 0)], np.zeros(70, np.uint8), BOOK),
    "tiers": random_tiers(2000, ["3", "2", "5 4", "6 5"], 200),
    "kept": random_tiers(2000, ["3", "2", "5 4", "6 5"], 200, shuffled=True),
}
every_table = pytest.mark.parametrize("slow", SLOW.values(), ids=SLOW.keys())


def failures(*asks: Ask) -> tuple[int, int, int]:
    """The failure of a call; checks that all instruction sets report the same."""
    found = {call(asks, isa=isa)[0] for isa in HERE}
    assert len(found) == 1
    return found.pop()


def bags_of_seven(slow: Slow, ids: NDArray[np.integer]) -> Ask:
    return Ask(slow, ids, np.arange(0, len(ids), 7))


@every_table
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("position", POSITIONS)
def test_ids_out_of_range_are_reported(slow: Slow, dtype: type, position: int) -> None:
    limits = np.iinfo(dtype)
    for bad in (-1, slow.count, slow.count + 1, limits.min, limits.max):
        ids = np.arange(COUNT, dtype=dtype) % slow.count
        ids[position] = bad
        ids[position + 1 :: 2] = -9  # only the first one is reported
        assert failures(Ask(slow, ids)) == (ID, 0, position)
        assert failures(bags_of_seven(slow, ids)) == (ID, 0, position)
        assert failures(Ask(slow, ids, np.zeros(1, np.int64), mode="max")) == (ID, 0, position)


def test_last_ids_of_the_table() -> None:
    for slow in SLOW.values():
        last = np.full(COUNT, slow.count - 1)
        assert failures(Ask(slow, last)) == (0, 0, 0)


def test_all_64_bits_of_ids_are_checked() -> None:
    for slow in SLOW.values():
        for bad in (2**32, 2**32 + 1, -(2**32), 2**63 - 1, 2**40):
            assert failures(Ask(slow, np.array([0, bad]))) == (ID, 0, 1)


@every_table
@pytest.mark.parametrize("position", [0, 64, 2999])
def test_errors_name_the_field_and_position(slow: Slow, position: int) -> None:
    good = np.zeros(COUNT, np.int32)
    bad = good.copy()
    bad[position] = -1
    for first in SLOW.values():
        asks = [bags_of_seven(first, good), bags_of_seven(slow, bad)]
        assert failures(*asks) == (ID, 1, position)
        assert failures(*asks[::-1]) == (ID, 0, position)
        assert failures(asks[0], asks[1], asks[1]) == (ID, 1, position)


@pytest.mark.parametrize(
    ("offsets", "position"),
    [
        ([1, 2], 0),
        ([-1, 2], 0),
        ([0, -1], 1),
        ([0, 2, 1], 2),
        ([0, 2, 1, 3], 2),
        ([0, 4], 1),
        ([0, 1, 2**62], 2),
        ([0, 2**63 - 1, -(2**63), 3], 1),
    ],
)
def test_offsets_that_do_not_ascend(offsets: list[int], position: int) -> None:
    ids, starts = np.zeros(3, np.int64), np.array(offsets, np.int64)
    good = np.zeros(len(starts), np.int64)
    for slow in SLOW.values():
        assert failures(Ask(slow, ids, starts)) == (OFFSET, 0, position)
        both = Ask(slow, ids, good), Ask(slow, ids, starts)
        assert failures(*both) == (OFFSET, 1, position)


@pytest.mark.parametrize("position", POSITIONS)
def test_codes_beyond_the_stored_rows(position: int) -> None:
    codes = np.zeros(200, np.uint8)
    codes[[50, 110]] = 40, 39  # of 40 rows, 39 is the last
    slow = Runs(190, [RowRun(0, 8, 0, 0)], codes, BOOK)
    ids = np.arange(COUNT) % 50 + 60
    assert failures(Ask(slow, ids)) == (0, 0, 0)
    ids[position] = 50
    assert failures(Ask(slow, ids)) == (CODE, 0, position)
    assert failures(bags_of_seven(slow, ids)) == (CODE, 0, position)
    assert failures(Ask(SLOW["rows"], ids[:9] % 40), Ask(slow, ids[position:][:9])) == (CODE, 1, 0)


def test_uncoded_rows_beyond_the_stored_rows() -> None:
    slow = Runs(50, [RowRun(0, 0, 0, 0)], NO_CODES, BOOK)
    for dtype in (np.int32, np.int64):
        assert failures(Ask(slow, np.arange(40, dtype=dtype))) == (0, 0, 0)
        assert failures(Ask(slow, np.arange(41, dtype=dtype))) == (CODE, 0, 40)
        assert failures(bags_of_seven(slow, np.arange(50, dtype=dtype))) == (CODE, 0, 40)
    slow = Runs(30, [RowRun(0, 0, 0, 0), RowRun(10, 0, 0, 21)], NO_CODES, BOOK)
    assert failures(Ask(slow, np.arange(29))) == (0, 0, 0)
    assert failures(Ask(slow, np.arange(30))) == (CODE, 0, 29)


def test_a_later_run_beyond_the_stored_rows() -> None:
    codes = np.array([*[255] * 4, *[0] * 7], np.uint8)
    slow = Runs(20, [RowRun(0, 0, 0, 0), RowRun(16, 4, 0, 24), RowRun(18, 4, 1, 25)], codes, BOOK)
    assert failures(Ask(slow, np.arange(18))) == (0, 0, 0)  # 24 + 15
    assert failures(Ask(slow, np.arange(20))) == (CODE, 0, 18)


@pytest.mark.parametrize("code_bits", [0, 2, 32])
def test_codes_far_beyond_the_stored_rows(code_bits: int) -> None:
    for first in (40, 2**31, 2**32, 2**62, 2**63 - 1):
        slow = Runs(9, [RowRun(0, code_bits, 0, first)], np.zeros(9 * 4 + 7, np.uint8), BOOK)
        assert failures(Ask(slow, np.array([5]))) == (CODE, 0, 0)


SIZES = [64, 192, 768, 3072, 904]
NUMBERED = np.arange(5000, dtype=np.float16).astype(np.float32)


def table_with(data: NDArray[np.uint8]) -> LookupTable:
    """A table of 5,000 rows; a row's value is its rank, up to rank 4,096."""
    layout = Layout.parse(5000, ["6", "8", "10", "12", "0"])
    codes = np.zeros(layout.code_bytes, np.uint8)
    values = np.zeros(layout.value_count, np.float32)
    first_rank = 0
    for tier, size in enumerate(SIZES[:4]):
        bits, first = layout.widths(tier)[0], layout.first_bytes[tier]
        numbers = np.arange(size)[:, None] >> np.arange(bits) & 1
        used = np.packbits(numbers.astype(np.uint8), bitorder="little")
        codes[first : first + len(used)] = used
        values[layout.first_values[tier][0] :][:size] = first_rank + np.arange(size)
        first_rank += size
    values[layout.first_values[4][0]] = first_rank
    axes = np.array([[1], [0]], np.float32)
    return tier_table(layout, codes, values, axes, TierIndex(data, 5000, 5))


def ranks_of(table: LookupTable, ids: NDArray[np.int64], isa: str) -> NDArray[np.int64]:
    """Ranks of rows; rows of the last tier have its first rank."""
    out = np.empty(len(ids), np.float32)
    asked = (table, ids.ctypes.data, True, 1, len(ids), 0, len(ids), 0, 0, -1, out.ctypes.data, 4)
    assert _native.pool([asked], 0, 1, isa) == (0, 0, 0)
    return out.astype(np.int64)


def sound_index() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """A valid index of 5,000 ids, and their ranks."""
    tiers = np.random.default_rng(0).permutation(np.repeat(np.arange(5), SIZES))
    ranks = np.empty(5000, np.int64)
    ranks[np.argsort(tiers, kind="stable")] = np.arange(5000)
    return TierIndex.of(tiers).data, ranks


@pytest.mark.parametrize("isa", HERE)
def test_ranks_of_a_tier_index(isa: str) -> None:
    data, ranks = sound_index()
    assert np.array_equal(ranks_of(table_with(data), np.arange(5000), isa), ranks.clip(max=4096))


@pytest.mark.parametrize("isa", HERE)
@given(seed=st.integers(0, 2**32 - 1), share=st.sampled_from([0.01, 0.5, 1]))
@settings(max_examples=60)
def test_an_index_of_any_bytes_gives_ranks_in_range(isa: str, seed: int, share: float) -> None:
    # An index is checked when a table is made. Bytes written to it later must not make lookups
    # read beyond the codes.
    rng = np.random.default_rng(seed)
    data = sound_index()[0].copy()
    table = table_with(data)
    written = rng.random(len(data)) < share
    data[written] = rng.integers(0, 256, int(written.sum()))
    found = ranks_of(table, np.arange(5000), isa)
    assert found.min() >= 0
    assert found.max() <= 4096


def test_unknown_instruction_sets_are_refused() -> None:
    with pytest.raises(ValueError, match="this processor has no instruction set sse9"):
        _native.pool([], 0, 1, "sse9")


@pytest.mark.parametrize("simd", ["", *HERE])
def test_the_environment_forces_an_instruction_set(simd: str) -> None:
    code = LOAD + "print(_native.simd())"
    environment = os.environ | {"SAEC_SIMD": simd}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == (simd or HERE[-1])


def test_an_unknown_instruction_set_in_the_environment() -> None:
    code = LOAD + "print(_native.simd() == ''); _native.pool([], 0)"
    environment = os.environ | {"SAEC_SIMD": "sse9"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == "True"
    assert "ValueError: this processor has no instruction set sse9" in done.stderr
