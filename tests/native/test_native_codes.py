"""Packed codes against Python's big integers, and everything that would leave the buffers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from saec import _native

PADDING = 7
WIDTHS = range(1, 33)


def packed_by_bigint(codes: list[int], bits: int) -> bytes:
    number = sum(code << (i * bits) for i, code in enumerate(codes))
    return number.to_bytes((len(codes) * bits + 7) // 8 + PADDING, "little")


def widths_of(*widths: int) -> NDArray[np.uint32]:
    return np.array(widths, np.uint32)


def pack(codes: list[int], bits: int) -> NDArray[np.uint8]:
    data = np.zeros(_native.packed_bytes(len(codes), bits), np.uint8)
    _native.pack_codes([np.array(codes, np.uint32)], widths_of(bits), data)
    return data


def unpack(data: NDArray[np.uint8], bits: int, count: int) -> list[int]:
    codes = np.empty((count, 1), np.uint32)
    _native.unpack_codes(data, widths_of(bits), codes)
    return codes[:, 0].tolist()


def gather(data: NDArray[np.uint8], bits: int, count: int, ids: list[int]) -> list[int]:
    codes = np.empty((len(ids), 1), np.uint32)
    _native.gather_codes(data, widths_of(bits), count, np.array(ids, np.int64), codes)
    return codes[:, 0].tolist()


def test_by_hand() -> None:
    # 5, 3, 6 of three bits: 110 011 101, lowest bit first, is 1 10011101.
    assert pack([5, 3, 6], 3).tolist() == [0b10011101, 0b1, 0, 0, 0, 0, 0, 0, 0]
    assert pack([0x1234, 0xFFFF], 16).tolist() == [0x34, 0x12, 0xFF, 0xFF, 0, 0, 0, 0, 0, 0, 0]
    assert pack([], 5).tolist() == [0] * PADDING


@pytest.mark.parametrize("bits", WIDTHS)
def test_every_width_against_big_integers(bits: int) -> None:
    rng = np.random.default_rng(bits)
    for count in (0, 1, 2, 7, 8, 9, 63, 64, 65):
        codes = rng.integers(0, 2**bits, count, dtype=np.uint64).tolist()
        data = pack(codes, bits)
        assert data.tobytes() == packed_by_bigint(codes, bits)
        assert unpack(data, bits, count) == codes
        backwards = list(range(count))[::-1]
        assert gather(data, bits, count, backwards) == codes[::-1]


@pytest.mark.parametrize("bits", WIDTHS)
def test_largest_codes(bits: int) -> None:
    largest = 2**bits - 1
    assert unpack(pack([largest] * 11, bits), bits, 11) == [largest] * 11
    assert unpack(pack([0, largest, 0], bits), bits, 3) == [0, largest, 0]


@given(data=st.data(), bits=st.integers(1, 32))
def test_any_codes(data: st.DataObject, bits: int) -> None:
    codes = data.draw(st.lists(st.integers(0, 2**bits - 1), min_size=1, max_size=50))
    ids = data.draw(st.lists(st.integers(0, len(codes) - 1), max_size=20))
    packed = pack(codes, bits)
    assert packed.tobytes() == packed_by_bigint(codes, bits)
    assert unpack(packed, bits, len(codes)) == codes
    assert gather(packed, bits, len(codes), ids) == [codes[i] for i in ids]


@pytest.mark.parametrize("bits", [33, 64])
def test_widths_out_of_range_are_refused(bits: int) -> None:
    data, widths = np.zeros(99, np.uint8), widths_of(3, bits)
    codes, matrix = [np.zeros(2, np.uint32)] * 2, np.zeros((2, 2), np.uint32)
    with pytest.raises(ValueError, match=r"widths must lie in 0\.\.32"):
        _native.pack_codes(codes, widths, data)
    with pytest.raises(ValueError, match=r"widths must lie in 0\.\.32"):
        _native.unpack_codes(data, widths, matrix)
    with pytest.raises(ValueError, match=r"widths must lie in 0\.\.32"):
        _native.gather_codes(data, widths, 2, np.zeros(2, np.int64), matrix)


@pytest.mark.parametrize("bits", [1, 7, 31])
def test_codes_wider_than_their_width_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match="a code needs more bits"):
        pack([0, 2**bits], bits)


@pytest.mark.parametrize("bits", [1, 8, 32])
def test_buffers_that_are_one_byte_short_are_refused(bits: int) -> None:
    short = np.zeros(_native.packed_bytes(10, bits) - 1, np.uint8)
    with pytest.raises(ValueError, match="rows of packed codes take"):
        _native.pack_codes([np.zeros(10, np.uint32)], widths_of(bits), short)
    with pytest.raises(ValueError, match="rows of packed codes take"):
        unpack(short, bits, 10)
    with pytest.raises(ValueError, match="rows of packed codes take"):
        gather(short, bits, 10, [0])


@pytest.mark.parametrize("bits", [1, 8, 32])
def test_counts_whose_bit_positions_overflow_are_refused(bits: int) -> None:
    # 2^61 codes of 8 bits are 2^64 bits, which would wrap to 0 bytes.
    for count in (2**64 // bits, 2**64 // bits + 1, 2**64 - 1):
        if count < 2**64:
            with pytest.raises(ValueError, match="are too many to be addressed"):
                _native.packed_bytes(count, bits)
            with pytest.raises(ValueError, match="are too many to be addressed"):
                gather(np.zeros(PADDING, np.uint8), bits, count, [2**40])
    assert _native.packed_bytes((2**64 - 8) // bits, bits) > 2**60


@pytest.mark.parametrize("bad", [-1, 10, 2**62, -(2**63)])
def test_ids_out_of_range(bad: int) -> None:
    with pytest.raises(ValueError, match=f"id {bad} at position 1 is outside of 10 rows"):
        gather(pack([1] * 10, 5), 5, 10, [0, bad, 3])


def test_lengths_must_agree() -> None:
    data, one, widths = pack([1], 3), np.zeros((1, 1), np.uint32), widths_of(3)
    with pytest.raises(ValueError, match="ids and codes differ in length"):
        _native.gather_codes(data, widths, 1, np.zeros(2, np.int64), one)
    with pytest.raises(ValueError, match="codes and widths differ in length"):
        _native.gather_codes(data, widths_of(1, 2), 1, np.zeros(1, np.int64), one)
    with pytest.raises(ValueError, match="codes and widths differ in length"):
        _native.unpack_codes(data, widths_of(1, 2), one)
    with pytest.raises(ValueError, match="codes and widths differ in length"):
        _native.pack_codes([one[:, 0]], widths_of(1, 2), data)
    with pytest.raises(ValueError, match="parts differ in length"):
        _native.pack_codes([one[:, 0], np.zeros(2, np.uint32)], widths_of(1, 2), data)


def test_output_buffers_are_never_converted() -> None:
    data, codes, ids = pack([1, 2], 8), np.zeros((2, 1), np.uint32), np.zeros(2, np.int64)
    widths = widths_of(8)
    with pytest.raises(TypeError, match="incompatible function arguments"):
        _native.pack_codes([codes[:, 0]], widths, data.astype(np.int8))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="incompatible function arguments"):
        _native.unpack_codes(data, widths, codes.astype(np.int32))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="incompatible function arguments"):
        _native.gather_codes(data, widths, 2, ids, np.zeros((4, 1), np.uint32)[::2])


def rows_by_bigint(rows: NDArray[np.uint32], widths: list[int]) -> bytes:
    number, bit = 0, 0
    for row in rows.tolist():
        for code, width in zip(row, widths, strict=True):
            number |= code << bit
            bit += width
    return number.to_bytes((bit + 7) // 8 + PADDING, "little")


def random_rows(count: int, widths: list[int]) -> NDArray[np.uint32]:
    rng = np.random.default_rng(count)
    parts = [rng.integers(0, 2**width, count, dtype=np.uint64) for width in widths]
    return np.array(parts, np.uint32).reshape(len(widths), count).T


# Rows that fit a word wherever they start (57 bits) and rows that do not, with parts of no bits.
ROWS = [
    [], [0], [0, 0], [3, 0, 2], [1, 1, 1], [8, 8], [32, 25], [32, 26], [0, 32, 0, 32, 0],
    [32, 32, 32, 5], [7, 0, 31, 0, 19, 0],
]  # fmt: skip


@pytest.mark.parametrize("widths", ROWS)
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_rows_of_several_codes(widths: list[int], threads: int) -> None:
    for count in (0, 1, 7, 8, 9, 64, 101):
        check_rows(widths, count, threads)


def check_rows(widths: list[int], count: int, threads: int) -> None:
    rows, width_array = random_rows(count, widths), widths_of(*widths)
    used = _native.packed_bytes(count if widths else 0, sum(widths)) - PADDING
    data = np.full(used + PADDING, 0xAA, np.uint8)
    _native.pack_codes([*map(np.ascontiguousarray, rows.T)], width_array, data, threads)
    assert data[:used].tobytes() == rows_by_bigint(rows, widths)[:used]
    assert (data[used:] == 0xAA).all()  # the padding belongs to the next array
    data = np.array(data)  # a new end, so that a sanitizer sees every read beyond it
    codes = np.full((count, len(widths)), 9, np.uint32)
    _native.unpack_codes(data, width_array, codes, threads)
    assert np.array_equal(codes, rows)
    ids = np.random.default_rng(0).permutation(count)
    _native.gather_codes(data, width_array, count, ids, codes, threads)
    assert np.array_equal(codes, rows[ids])


def test_threads_pack_disjoint_bytes() -> None:
    rows = random_rows(50_003, [3, 2])
    one, many = np.zeros((2, _native.packed_bytes(len(rows), 5)), np.uint8)
    parts = [*map(np.ascontiguousarray, rows.T)]
    _native.pack_codes(parts, widths_of(3, 2), one, 1)
    _native.pack_codes(parts, widths_of(3, 2), many, 7)
    assert np.array_equal(one, many)


def test_part_of_no_bits_has_code_zero_only() -> None:
    parts = [np.array([1, 0], np.uint32), np.array([0, 1], np.uint32)]
    with pytest.raises(ValueError, match="a code needs more bits"):
        _native.pack_codes(parts, widths_of(1, 0), np.zeros(99, np.uint8))


@pytest.mark.parametrize("count", [0, 1, 4095, 4096, 4097, 3 * 4096 + 5])
def test_first_outside(count: int) -> None:
    ids = np.full(count, 9, np.int64)
    assert _native.first_outside(ids, 10) == count
    assert _native.first_outside(ids, 0) == 0
    for place in {0, count // 2, count - 1} & set(range(count)):
        for bad in (10, -1, 2**63 - 1, -(2**63)):
            wrong = ids.copy()
            wrong[place] = bad
            wrong[place + 1 :: 2] = -5  # further ones do not matter
            assert _native.first_outside(wrong, 10) == place
