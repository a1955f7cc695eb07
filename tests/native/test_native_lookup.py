"""Rows decoded from packed codes: by hand, and equal to the format's rows, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lookup_reference import (
    BFLOAT16,
    HERE,
    ISAS,
    Ask,
    Floats,
    Runs,
    Slow,
    Tiers,
    call,
    check_bags,
    check_rows,
    decoded,
    everywhere,
    pooled,
    random_offsets,
    random_tiers,
)
from numpy.typing import NDArray

from saec.format.native_lookup import RowRun

DIMS = (1, 3, 8, 16, 17, 32, 64, 128, 200)

# Three stored rows; five features whose codes of two bits are 2, 0, 1, 1, 0, lowest first.
BOOK = np.array([[1, 10], [2, 20], [3, 30]], np.float32)
FIVE = Runs(5, [RowRun(0, 2, 0, 0)], np.array([0b01010010, 0b00] + [0] * 7, np.uint8), BOOK)
FIVE_ROWS = [[3, 30], [1, 10], [2, 20], [2, 20], [1, 10]]

# 66 rows of dim 3: 64 of a grid and a joint table, 2 of a table, of nothing and of one value.
# Three bits a row: the grid's code row % 4, then the joint one's 1 for rows 4, 5, 6 and 7 of eight.
EIGHT = sum((row % 4 | row // 4 << 2) << 3 * row for row in range(8)).to_bytes(3, "little")
TWO_TIERS = Tiers(
    66,
    ["2g 1j2", "1 - 0"],
    np.array([*EIGHT * 8, 0b01, *[0] * 7], np.uint8),
    np.array([-1, 0.5, 1, 0.25, -2, 0.5, 3, -5, 0.125], np.float32),
    np.array([[1, 0, 0.5], [0, 2, 0], [0, 0, -4], [10, 20, 30]], np.float32),
)
BY_HAND = {
    0: [9, 22, 28.5],  # mean - 1 a + (1 b + 0.25 c)
    1: [9.5, 22, 28.75],  # mean - 0.5 a + ...
    4: [9, 16, 27.5],  # mean - 1 a + (-2 b + 0.5 c)
    63: [10.5, 16, 28.25],  # mean + 0.5 a + (-2 b + 0.5 c)
    64: [5, 20, 27],  # mean - 5 a + 0.125 c
    65: [13, 20, 31],  # mean + 3 a + 0.125 c
}


@pytest.mark.parametrize("isa", ISAS)
def test_by_hand(isa: str) -> None:
    if isa not in HERE:
        pytest.skip(f"this processor has no {isa}")
    assert pooled(Ask(FIVE, np.arange(5)), isa=isa).tolist() == FIVE_ROWS
    ids = np.array(list(BY_HAND))
    assert pooled(Ask(TWO_TIERS, ids), isa=isa).tolist() == list(BY_HAND.values())
    bags = Ask(TWO_TIERS, np.array([64, 65, 0]), np.array([0, 0, 2]))
    assert pooled(bags, isa=isa).tolist() == [[0, 0, 0], [18, 40, 58], [9, 22, 28.5]]


def test_the_reference_decoder_by_hand() -> None:
    assert decoded(FIVE, np.arange(5)).tolist() == FIVE_ROWS
    assert decoded(TWO_TIERS, np.array(list(BY_HAND))).tolist() == list(BY_HAND.values())


def test_a_grid_by_hand() -> None:
    # 2 x (1, -3) + (0.5, 1) and so on; with the axes (1, 1), (0, 2) and the mean (0, 100).
    stored = np.array([[1, -3], [127, -128]], np.int8)
    grid = np.array([[2, 1], [0.5, 1]], np.float32)
    codes = np.array([0b01, *[0] * 7], np.uint8)
    slow = Runs(2, [RowRun(0, 1, 0, 0)], codes, stored, grid)
    assert everywhere(Ask(slow, np.arange(2))).tolist() == [[254.5, -127], [2.5, -2]]
    bag = Ask(slow, np.array([0, 1, 1]), np.zeros(1, np.int64))
    assert everywhere(bag).tolist() == [[259.5, -131]]
    axes = np.array([[1, 1], [0, 2], [0, 100]], np.float64)
    slow = Runs(2, [RowRun(0, 1, 0, 0)], codes, stored, grid, axes)
    assert everywhere(Ask(slow, np.arange(2))).tolist() == [[254.5, 100.5], [2.5, 98.5]]


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("count", [0, 1, 2, 63, 64, 65, 700, 20_000])
def test_strided_ids(count: int, dtype: type) -> None:
    rng = np.random.default_rng(count)
    for slow in (
        TWO_TIERS,
        cold_tiers(64, COLD[1], True),
        some_runs(rng, [3, 0], BOOK.repeat(99, 0)),
    ):
        pool = rng.integers(0, slow.count, 50)
        ids = rng.choice(pool, 3 * count).astype(dtype)
        for part in (ids[:count], ids[::3], ids[::-3], ids[1::2][:count], ids[:1].repeat(count)):
            expected = decoded(slow, part)
            for threads in (1, 3):
                rows = pooled(Ask(slow, part), threads=threads)
                assert rows.tobytes() == expected.tobytes()
        broadcast = np.broadcast_to(np.array(pool[0], dtype), count)
        assert pooled(Ask(slow, broadcast)).tobytes() == decoded(slow, broadcast).tobytes()


@pytest.mark.parametrize("stride", [1, 2, -1, -3])
def test_strided_ids_out_of_range(stride: int) -> None:
    for dtype in (np.int32, np.int64):
        for bad in (-1, 66):
            for position in (0, 63, 64, 199):
                ids = np.full(600, bad, dtype)[::stride][:200]
                ids[:] = 65
                assert call([Ask(TWO_TIERS, ids)])[0] == (0, 0, 0)
                ids[position] = bad
                assert call([Ask(TWO_TIERS, ids)])[0] == (1, 0, position)


def packed(codes: NDArray[np.integer], width: int) -> NDArray[np.uint8]:
    bits = codes[:, None] >> np.arange(width) & 1
    return np.packbits(bits.astype(np.uint8), bitorder="little")


def some_runs(
    rng: np.random.Generator, widths: Sequence[int], stored: NDArray[np.generic], **more: object
) -> Runs:
    """A run of codes for each width; for width 0, uncoded rows."""
    runs, pieces, first_row, first_byte = [], [], 0, 0
    for width in widths:
        rows = int(rng.integers(1, 200))
        choice = min(len(stored), 1 << width) if width else rows
        first_stored = int(rng.integers(0, len(stored) - choice, endpoint=True))
        runs.append(RowRun(first_row, width, first_byte, first_stored))
        pieces.append(packed(rng.integers(0, choice, rows), width))
        first_row, first_byte = first_row + rows, first_byte + len(pieces[-1])
    codes = np.concatenate([*pieces, np.zeros(7, np.uint8)])
    return Runs(first_row, runs, codes, stored, **more)  # type: ignore[arg-type]


def some_stored(rng: np.random.Generator, dtype: str, rows: int, dim: int) -> NDArray[np.generic]:
    if dtype == "int8":
        return rng.integers(-128, 127, (rows, dim), dtype=np.int8, endpoint=True)
    return rng.standard_normal((rows, dim)).astype(ml_dtypes.bfloat16 if dtype[0] == "b" else dtype)


def some_frame(rng: np.random.Generator, width: int, dim: int | None) -> dict[str, object]:
    grid = rng.standard_normal((2, width)).astype(np.float32)
    axes = None if dim is None else rng.standard_normal((width + 1, dim))
    return {"grid": grid, "axes": axes}


def check(slow: Slow, seed: int = 0) -> None:
    """Check rows at all borders, random rows, and bags of them."""
    rng = np.random.default_rng(seed)
    firsts = slow.firsts if isinstance(slow, Tiers) else [run.first_row for run in slow.runs]
    edges = np.array([*firsts, slow.count])
    tails = rng.integers(0, np.tile(edges[1:], 20))
    pool = np.concatenate([edges[:-1], edges[1:] - 1, tails, [*slow.pads]]).astype(np.int64)
    check_rows(slow, rng.choice(pool, 700))
    check_rows(slow, pool[:1])
    ids = rng.choice(pool, 1500)
    check_bags(Ask(slow, ids, random_offsets(rng, len(ids), 60)))
    weights = rng.standard_normal(len(ids)).astype(np.float32)
    check_bags(Ask(slow, ids, random_offsets(rng, len(ids), 300), weights))
    check_bags(Ask(slow, ids, random_offsets(rng, len(ids), 20), mode="mean"))
    check_bags(Ask(slow, ids[:200], random_offsets(rng, 200, 20), mode="max"))


@pytest.mark.parametrize("width", range(33))
def test_codes_of_every_width(width: int) -> None:
    rng = np.random.default_rng(width)
    check(some_runs(rng, [width], some_stored(rng, "float32", 300, 5)))


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
def test_runs_of_different_widths(dtype: str, dim: int) -> None:
    rng = np.random.default_rng(dim)
    stored = some_stored(rng, dtype, 700, dim)
    frame = some_frame(rng, dim, None) if dtype == "int8" else {}
    check(some_runs(rng, [3, 0, 32, 17, 1, 0, 8], stored, **frame))


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("rank", [1, 5, 8, 16])
def test_int8_rows_with_fewer_axes_than_dims(rank: int, dim: int) -> None:
    rng = np.random.default_rng(dim)
    stored = some_stored(rng, "int8", 300, rank)
    check(some_runs(rng, [6, 0, 9], stored, **some_frame(rng, rank, dim)))


def test_runs_without_codes_share_one_row() -> None:
    # A run of 0 bits with `own` 0 has neither codes nor decoded rows.
    rng = np.random.default_rng(0)
    check(random_tiers(300, ["", "", ""], 4, 0))
    check(some_runs(rng, [0], some_stored(rng, "float32", 200, 3)))


# Tiers that are stored decoded ("3 2j2" and so on), then two that are not. At dim 200 a part of 7
# bits has more stored rows than 64 kB hold, at dim 1 one of 15.
COLD = [
    ("2 3g 1j2", "1"),  # short
    ("7 6j2 5g - 3 0", "6 5 4j3 3 2 1 6 0"),  # as groups
    ("16 5", "3 16g 0 2"),  # coordinate by coordinate
    ("12 11 10g 9 8 7 6 5 4 0", "- - 14"),  # more bits than a word
    ("5 4 4 4g 4 4 4 4 4 4 4 4 4 4 4 4", "o9 7 5 4 3 2 1 2g 0 1 3j4"),  # coordinates in blocks
    ("", "0 0 -"),  # the mean, and one value for all
    ("o6", "o4g 3"),  # in order of codes that are one group, and with codes beside
    ("o5 o4g o3j2 2g 1", "o12j3 0 7 - 9"),  # of more codes than a group has rows, at some dims
    ("o8 o8g", "o3g o13 5 12"),  # coordinate by coordinate
    ("0 0 7 0", ""),
]


def cold_tiers(dim: int, cold: tuple[str, str], shuffled: bool) -> Tiers:
    """The last two tiers have more rows than are stored decoded, 1 MiB of float32."""
    bound = 64
    while bound * dim * 4 <= 1 << 20:
        bound *= 4
    hot = ["3 2j2", "2g 1", "-", "", "9", "4g 0 1", "2", "5j2"][: (bound // 64).bit_length() // 2]
    return random_tiers(bound + 777, [*hot, *cold], dim, dim, shuffled)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("cold", COLD, ids="|".join)
def test_tiers_without_an_index(cold: tuple[str, str], dim: int) -> None:
    check(cold_tiers(dim, cold, shuffled=False))


@pytest.mark.parametrize("dim", [16, 64, 200])
@pytest.mark.parametrize("cold", COLD, ids="|".join)
def test_tiers_with_an_index(cold: tuple[str, str], dim: int) -> None:
    check(cold_tiers(dim, cold, shuffled=True))


def test_an_index_with_more_members_than_the_rank_table_holds() -> None:
    # The first level has 262,144 members: ids of all tiers but the last two pass two levels.
    slow = random_tiers(2_200_000, ["5", "4", "3", "3", "3", "2", "2", "1"], 8, 1, shuffled=True)
    assert slow.tier_of is not None
    ids = np.concatenate([np.flatnonzero(slow.tier_of == tier)[:6] for tier in range(8)])
    check_rows(slow, ids)


@pytest.mark.parametrize("last", ["6 2 0", "8 0 0", "6 2 0 0j2 0"])
def test_parts_without_bits_at_the_end_of_the_codes(last: str) -> None:
    # The last row ends with a byte, where reading eight bytes would exceed the buffer by one.
    slow = random_tiers(1024 + 800, ["3", "", "5", last], 200)
    check_rows(slow, np.array([1823, 1024, 1823]))
    check_bags(Ask(slow, np.array([1823, 1816, 1823]), np.array([0, 1])))


@given(
    count=st.integers(1, 2000),
    dim=st.integers(1, 20),
    seed=st.integers(0, 2**32 - 1),
    shuffled=st.booleans(),
    data=st.data(),
)
@settings(max_examples=40)
def test_any_tiers(count: int, dim: int, seed: int, shuffled: bool, data: st.DataObject) -> None:
    tiers = 1 + sum(64 * 4**i < count for i in range(6))
    bits = st.integers(0, 9)
    part = st.one_of(
        st.just("-"),
        bits.map(str),
        st.integers(1, 16).map("{}g".format),
        st.builds("{}j{}".format, bits, st.integers(2, 4)),
    )
    ordered = st.one_of(
        st.integers(1, 5).map("o{}".format),
        st.integers(1, 5).map("o{}g".format),
        st.builds("o{}j{}".format, st.integers(1, 5), st.integers(2, 4)),
    )
    whole = st.tuples(st.lists(ordered, max_size=3), st.lists(part, max_size=9))
    texts = data.draw(st.lists(whole, min_size=tiers, max_size=tiers))
    slow = random_tiers(count, [" ".join(a + b) for a, b in texts], dim, seed, shuffled)
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, count, 150)
    check_rows(slow, ids)
    check_bags(Ask(slow, ids, random_offsets(rng, len(ids), 20)))


@pytest.mark.parametrize("exponent", [35, 36, 37, 41])
def test_more_tiers_than_fit_a_register(exponent: int) -> None:
    # One value for a whole tier takes no memory: 2^36 rows make 16 tiers, one more a 17th.
    count = 2**exponent + 5
    texts = [f"{i % 3} 0" if i < 6 else "0" for i in range(1 + (exponent - 6) // 2 + 1)]
    if 64 * 4 ** (len(texts) - 2) >= count:
        texts.pop()
    slow = random_tiers(count, texts, 3)
    ids = np.array([place for first in slow.firsts[1:] for place in (first - 1, first, first + 1)])
    ids = np.concatenate([ids, [0, count - 1], np.random.default_rng(0).integers(0, count, 99)])
    ids = ids[ids < count]
    for isa in HERE:
        assert pooled(Ask(slow, ids), isa=isa).tobytes() == decoded(slow, ids).tobytes()


@pytest.mark.parametrize("dim", [32, 50])
def test_codes_and_rows_beyond_the_caches(dim: int) -> None:
    # These are prefetched: codes of more than 5 MiB, stored rows of at least 4 MiB.
    rng = np.random.default_rng(dim)
    count = 3 << 20
    codes = rng.integers(0, 256, 2 * count + 7, dtype=np.uint8)
    half = some_stored(rng, "float16", 1 << 16, dim)
    check(Runs(count, [RowRun(0, 16, 0, 0)], codes, half))
    check(Runs(1 << 16, [RowRun(0, 0, 0, 0)], codes[:0], half))
    check(
        Runs(
            40_000,
            [RowRun(0, 0, 0, 9), RowRun(9, 16, 0, 0), RowRun(2000, 0, 0, 25_000)],
            codes,
            half,
        )
    )
    cut = [RowRun(0, 16, 0, 0), RowRun(1 << 20, 16, 2 << 20, 0)]
    check(Runs(count, cut, codes, some_stored(rng, "float32", 1 << 16, dim)))
    texts = ["2", "3", "", "4", "5", "3", "2 3", "1j2 7", "9 6 8 7 6"]
    check(random_tiers((1 << 20) + 600_000, texts[:9], dim, dim))


PADDED = (0, 63, 64, 1000, 70_000)


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("cold", COLD, ids="|".join)
def test_padding_ids_have_their_own_rows(cold: tuple[str, str], shuffled: bool) -> None:
    slow = cold_tiers(16, cold, shuffled)
    last = slow.count - 1
    rows = np.random.default_rng(1).standard_normal((6, 16)).astype(np.float32)
    slow.pads.update(zip((*PADDED[:4], last - 800, last), rows, strict=True))
    check(slow)


def test_padding_ids_in_tables_of_runs() -> None:
    rng = np.random.default_rng(3)
    for dtype, frame in (("float16", {}), ("int8", some_frame(rng, 8, 20))):
        slow = some_runs(rng, [5, 0, 9], some_stored(rng, dtype, 300, 8), **frame)
        slow.pads.update({0: 299, slow.count - 1: 0, 77: 77})
        check(slow)


def rounded(rows: Floats, dtype: np.dtype) -> bytes:
    with np.errstate(over="ignore"):
        return rows.astype(dtype).tobytes()


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("dtype", [np.dtype(np.float16), BFLOAT16], ids=str)
def test_rows_are_rounded_to_nearest_even(dtype: np.dtype, dim: int) -> None:
    rng = np.random.default_rng(dim)
    # Numbers of all sizes, ties, subnormal numbers, and numbers that overflow.
    bits = rng.integers(0, 2**32, (512, dim), dtype=np.uint32)
    bits[:256] &= 0xFFFF8000 if dtype == BFLOAT16 else 0xFFFFF000
    bits[128:384] = bits[128:384] & 0x8FFFFFFF | 0x30000000
    stored = bits.view(np.float32)
    stored = np.where(np.isnan(stored), np.float32(np.inf), stored)
    slow = Runs(512, [RowRun(0, 0, 0, 0)], np.zeros(0, np.uint8), stored)
    found = everywhere(Ask(slow, np.arange(512)), dtype)
    assert np.ascontiguousarray(found).tobytes() == rounded(stored, dtype)


@pytest.mark.parametrize("dtype", [np.dtype(np.float16), BFLOAT16], ids=str)
def test_sums_are_rounded_once(dtype: np.dtype) -> None:
    rng = np.random.default_rng(5)
    frame = some_frame(rng, 16, 24)
    for slow in (
        cold_tiers(16, COLD[0], shuffled=True),
        cold_tiers(64, COLD[1], shuffled=False),
        some_runs(rng, [9, 0, 4], some_stored(rng, "bfloat16", 400, 17)),
        some_runs(rng, [9, 0, 4], some_stored(rng, "int8", 400, 16), **frame),
    ):
        ids = rng.integers(0, slow.count, 2000)
        for mode in ("sum", "mean", "max"):
            ask = Ask(slow, ids, random_offsets(rng, len(ids), 40), mode=mode)
            found = everywhere(ask, dtype)
            assert np.ascontiguousarray(found).tobytes() == rounded(everywhere(ask), dtype)
        found = everywhere(Ask(slow, ids), dtype)
        assert np.ascontiguousarray(found).tobytes() == rounded(decoded(slow, ids), dtype)


def test_nan_stays_nan() -> None:
    stored = np.array([0x7F800001, 0xFFFFFFFF, 0x7FC00000, 0x7FFFFFFF], np.uint32)
    slow = Runs(4, [RowRun(0, 0, 0, 0)], np.zeros(0, np.uint8), stored.view(np.float32)[:, None])
    for dtype in (np.float32, np.float16, BFLOAT16):
        for isa in HERE:
            rows = pooled(Ask(slow, np.arange(4)), dtype, isa=isa)
            assert np.isnan(rows.astype(np.float32)).all()


@pytest.mark.parametrize("clumped", [False, True])
@pytest.mark.parametrize(
    ("count", "tiers"),
    [(1, 1), (65, 2), (300, 1), (600, 2), (5000, 2), (5000, 3), (5000, 5), (70_000, 4)],
)
def test_tier_index_with_any_number_of_tiers(count: int, tiers: int, clumped: bool) -> None:
    # In three tiers 256 of 5,000 ids are listed: 13 of a block on average; side by side, all.
    slow = random_tiers(count, ["3 1", "2", "1j2 2g", "2", "1"][:tiers], 8, tiers, shuffled=True)
    assert slow.tier_of is not None
    if clumped:
        slow = replace(slow, tier_of=np.roll(np.sort(slow.tier_of), count // 3))
    rng = np.random.default_rng(0)
    ids = np.concatenate([rng.integers(0, count, 200), [0, count - 1]])
    frequent = np.flatnonzero(slow.tier_of < tiers - 1)
    if len(frequent):
        ids = np.concatenate([ids, rng.choice(frequent, 200)])
    check_rows(slow, ids)
    check_bags(Ask(slow, ids, random_offsets(rng, len(ids), 20)))
