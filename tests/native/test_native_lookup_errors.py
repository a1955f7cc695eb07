"""What lookups refuse: ids and offsets out of range, codes and tier vectors that lie."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lookup_reference import HERE, Ask, Runs, Slow, Tiers, call, random_tiers
from numpy.typing import NDArray

from saec import _native
from saec.format.native_lookup import LookupTable, RowRun, tier_table
from saec.format.tier_index import TierVectors
from saec.format.tier_layout import Layout

ID, CODE, PLACE, OFFSET = 1, 2, 3, 4
POSITIONS = [0, 1, 63, 64, 65, 127, 128, 300, 511, 512, 2000, 2999]
COUNT = 3000

BOOK = np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32)
NO_CODES = np.zeros(0, np.uint8)
SLOW: dict[str, Slow] = {
    "rows": Runs(40, [RowRun(0, 0, 0, 0)], NO_CODES, BOOK),
    "codes": Runs(99, [RowRun(0, 5, 0, 0)], np.zeros(70, np.uint8), BOOK),
    "tiers": random_tiers(2000, ["3", "2", "5 4", "6 5"], 200),
    "vectors": random_tiers(2000, ["3", "2", "5 4", "6 5"], 200, shuffled=True),
}
every_table = pytest.mark.parametrize("slow", SLOW.values(), ids=SLOW.keys())


def failures(*asks: Ask) -> tuple[int, int, int]:
    """The one that every instruction set finds."""
    found = {call(asks, isa=isa)[0] for isa in HERE}
    assert len(found) == 1
    return found.pop()


def bags_of_seven(slow: Slow, ids: NDArray[np.integer]) -> Ask:
    return Ask(slow, ids, np.arange(0, len(ids), 7))


@every_table
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("position", POSITIONS)
def test_ids_outside_the_table(slow: Slow, dtype: type, position: int) -> None:
    limits = np.iinfo(dtype)
    for bad in (-1, slow.count, slow.count + 1, limits.min, limits.max):
        ids = np.arange(COUNT, dtype=dtype) % slow.count
        ids[position] = bad
        ids[position + 1 :: 2] = -9  # only the first one is told
        assert failures(Ask(slow, ids)) == (ID, 0, position)
        assert failures(bags_of_seven(slow, ids)) == (ID, 0, position)
        assert failures(Ask(slow, ids, np.zeros(1, np.int64), mode="max")) == (ID, 0, position)


def test_last_ids_of_the_table() -> None:
    for slow in SLOW.values():
        last = np.full(COUNT, slow.count - 1)
        assert failures(Ask(slow, last)) == (0, 0, 0)


def test_low_halves_of_ids_do_not_count() -> None:
    for slow in SLOW.values():
        for bad in (2**32, 2**32 + 1, -(2**32), 2**63 - 1, 2**40):
            assert failures(Ask(slow, np.array([0, bad]))) == (ID, 0, 1)


@every_table
@pytest.mark.parametrize("position", [0, 64, 2999])
def test_in_the_second_field(slow: Slow, position: int) -> None:
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


def test_rows_of_their_own_beyond_the_stored_rows() -> None:
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
def test_stored_rows_far_beyond(code_bits: int) -> None:
    for first in (40, 2**31, 2**32, 2**62, 2**63 - 1):
        slow = Runs(9, [RowRun(0, code_bits, 0, first)], np.zeros(9 * 4 + 7, np.uint8), BOOK)
        assert failures(Ask(slow, np.array([5]))) == (CODE, 0, 0)


def place_by_hand(data: NDArray[np.uint8], sizes: list[int], row: int) -> int | None:
    """Rank of a row, by docs/format.md; None where the vectors contradict themselves."""
    position, left, blocks = row, sum(sizes), data.reshape(-1, 68)
    *larger, smallest = sorted(range(len(sizes)), key=lambda tier: -sizes[tier])
    for tier in larger:
        block, bit = blocks[position // 512], position % 512
        bits = int.from_bytes(block[4:].tobytes(), "little")
        ones = int.from_bytes(block[:4].tobytes(), "little")
        ones += (bits & ((1 << bit) - 1)).bit_count()
        if bits >> bit & 1:
            return sum(sizes[:tier]) + ones if ones < sizes[tier] else None
        position, blocks = position - ones, blocks[-(-left // 512) :]
        left -= sizes[tier]
        if not 0 <= position < left:
            return None
    return sum(sizes[:smallest]) + position


SIZES = [64, 192, 768, 3072, 904]
NUMBERED = np.arange(5000, dtype=np.float16).astype(np.float32)


def table_with(data: NDArray[np.uint8]) -> LookupTable:
    """5,000 rows, of which each but the last 904 tells its rank."""
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
    return tier_table(layout, codes, values, axes, TierVectors(data, 5000))


def check_places(data: NDArray[np.uint8], ids: NDArray[np.int64]) -> None:
    table = table_with(data)
    out = np.empty(1, np.float32)
    for row in ids.tolist():
        one, rank = np.array([row]), place_by_hand(data, SIZES, row)
        for isa in HERE:
            asked = (table, one.ctypes.data, True, 1, 1, 0, 1, 0, 0, -1, out.ctypes.data, 4)
            fault, _, _ = _native.pool([asked], 0, 1, isa)
            assert fault == (PLACE if rank is None else 0)
            assert rank is None or out[0] == min(rank, 4096)


def true_vectors() -> NDArray[np.uint8]:
    tiers = np.random.default_rng(0).permutation(np.repeat(np.arange(5), SIZES))
    return TierVectors.of(tiers).data


def test_places_by_vectors() -> None:
    check_places(true_vectors(), np.arange(0, 5000, 7))


def test_vectors_that_say_nothing() -> None:
    # Beyond a vector of zeros the next one ends long before the last id. What would be read behind
    # all of them says that the id is the first of its tier.
    buffer = np.full((17 + 40) * 68, 0xFF, np.uint8)
    buffer.reshape(-1, 68)[:, :4] = 0
    vectors = buffer[: 17 * 68]
    vectors[:] = 0
    check_places(vectors, np.array([0, 63, 64, 900, 903, 904, 1023, 1928, 2000, 2600, 4095, 4999]))


@given(
    places=st.lists(st.tuples(st.integers(0, 17 * 68 - 1), st.integers(0, 255)), max_size=9),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60)
def test_vectors_with_any_bytes_changed(places: list[tuple[int, int]], seed: int) -> None:
    data = true_vectors().copy()
    for place, byte in places:
        data[place] = byte
    check_places(data, np.random.default_rng(seed).integers(0, 5000, 20))


@given(seed=st.integers(0, 2**32 - 1), zeros=st.floats(0, 1))
@settings(max_examples=60)
def test_vectors_of_any_bytes(seed: int, zeros: float) -> None:
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 256, 17 * 68, dtype=np.uint8)
    data[rng.random(len(data)) < zeros] = 0
    data.reshape(-1, 68)[:, 1:4] = 0  # counts above 255 would hardly ever be right
    check_places(data, rng.integers(0, 5000, 20))


@pytest.mark.parametrize("position", POSITIONS)
def test_contradictions_name_their_position(position: int) -> None:
    data = true_vectors().copy()
    data[:4] = 0xFF  # rows of the first block are nowhere
    layout = Layout.parse(5000, ["", "", "", "", ""])
    axes = np.zeros((1, 4), np.float32)
    table = tier_table(layout, np.zeros(7, np.uint8), axes[0, :0], axes, TierVectors(data, 5000))
    slow = Tiers(5000, [""] * 5, np.zeros(7, np.uint8), axes[0, :0], axes)
    slow.__dict__["table"] = table
    ids = np.arange(COUNT) + 1000
    assert failures(Ask(slow, ids)) == (0, 0, 0)
    ids[position:] = 5
    assert failures(Ask(slow, ids)) == (PLACE, 0, position)
    assert failures(bags_of_seven(slow, ids)) == (PLACE, 0, position)


def test_unknown_instruction_sets() -> None:
    with pytest.raises(ValueError, match="this processor has no instruction set sse9"):
        _native.pool([], 0, 1, "sse9")
