"""Packed codes and the check of ids; the packing itself is tested in tests/native."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saec.bits.packing import PackedCodes, PackedRows, bits_for, check_ids, packed_bytes
from saec.errors import ArtifactError, IdError


@pytest.mark.parametrize(
    ("clusters", "bits"),
    [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (256, 8), (257, 9), (2**31, 31), (2**32, 32)],
)
def test_bits_for(clusters: int, bits: int) -> None:
    assert bits_for(clusters) == bits


@pytest.mark.parametrize(
    ("count", "bits", "expected"), [(0, 5, 7), (1, 1, 8), (8, 1, 8), (9, 1, 9), (3, 32, 19)]
)
def test_packed_bytes(count: int, bits: int, expected: int) -> None:
    assert packed_bytes(count, bits) == expected


@given(data=st.data(), bits=st.integers(1, 32))
def test_unpack_and_gather_give_back_what_was_packed(data: st.DataObject, bits: int) -> None:
    codes = np.array(data.draw(st.lists(st.integers(0, 2**bits - 1), min_size=1)), np.int64)
    ids = np.array(data.draw(st.lists(st.integers(0, len(codes) - 1))), np.int64)
    packed = PackedCodes.pack(codes, bits)
    assert (packed.count, packed.bits) == (len(codes), bits)
    assert packed.data.nbytes == packed_bytes(len(codes), bits)
    assert np.array_equal(packed.unpack(), codes)
    assert np.array_equal(packed.gather(ids), codes[ids])


def test_any_strides_and_dtypes_are_packed() -> None:
    codes = np.arange(20)
    expected = PackedCodes.pack(codes[::3], 5).data
    assert np.array_equal(PackedCodes.pack(codes.astype(np.uint8)[::3], 5).data, expected)
    assert np.array_equal(PackedCodes.pack(codes.astype(np.int32)[::3], 5).data, expected)


def test_code_beyond_its_bits() -> None:
    with pytest.raises(ValueError, match="a code needs more bits"):
        PackedCodes.pack(np.array([7, 8]), 3)


@pytest.mark.parametrize("bits", [0, 33, -1])
def test_bits_out_of_range(bits: int) -> None:
    with pytest.raises(ArtifactError, match=re.escape(f"code_bits {bits} is outside 1..32")):
        PackedCodes(np.zeros(99, np.uint8), 3, bits)


@pytest.mark.parametrize(
    "data", [np.zeros(8, np.uint8), np.zeros(10, np.uint8), np.zeros(9, np.int8), np.zeros((9, 1))]
)
def test_data_of_another_size(data: np.ndarray) -> None:
    with pytest.raises(ArtifactError, match="10 codes of 1 bits take 9 bytes, not"):
        PackedCodes(data, 10, 1)


class TestPackedRows:
    # Two rows of 3 and 2 bits: 5 and 1, then 2 and 3: 11 010 01 101, lowest bit first.
    CODES = (np.array([5, 2]), np.array([1, 3]))

    def test_by_hand(self) -> None:
        rows = PackedRows.pack(self.CODES, [3, 2])
        assert (rows.first_byte, rows.count, rows.widths) == (0, 2, (3, 2))
        assert rows.data.tolist() == [0b01001101, 0b11, 0, 0, 0, 0, 0, 0, 0]
        assert rows.unpack().tolist() == [[5, 1], [2, 3]]
        assert rows.gather(np.array([1, 0, 1])).tolist() == [[2, 3], [5, 1], [2, 3]]

    @given(
        data=st.data(),
        widths=st.lists(st.sampled_from([0, 1, 2, 7, 8, 13, 31, 32]), min_size=1, max_size=5),
        count=st.integers(0, 40),
    )
    def test_equals_one_packed_array_per_part(
        self, data: st.DataObject, widths: list[int], count: int
    ) -> None:
        rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
        codes = [rng.integers(0, 2**width, count, dtype=np.uint64) for width in widths]
        rows = PackedRows.pack(codes, widths)
        ids = rng.integers(0, count, 20) if count else np.zeros(0, np.int64)
        assert rows.data.nbytes == packed_bytes(count, sum(widths))
        for j, (part, width) in enumerate(zip(codes, widths, strict=True)):
            alone = PackedCodes.pack(part, max(width, 1))
            assert np.array_equal(rows.unpack()[:, j], alone.unpack())
            assert np.array_equal(rows.gather(ids)[:, j], alone.gather(ids))

    def test_several_back_to_back_in_one_buffer(self) -> None:
        rng = np.random.default_rng(0)
        shapes = [(5, (3, 2)), (9, ()), (64, (8, 4, 1)), (1000, (1,)), (3, (0,))]
        tiers = [np.array([rng.integers(0, 2**w, n) for w in widths]) for n, widths in shapes]
        starts = np.cumsum([0, *((n * sum(widths) + 7) // 8 for n, widths in shapes)]).tolist()
        data = np.full(starts[-1] + 7, 0xFF, np.uint8)
        for number in (2, 0, 3, 1, 4):  # in any order
            PackedRows.pack_into(data, starts[number], tiers[number], shapes[number][1])
        assert (data[-7:] == 0xFF).all()
        for start, tier, (count, widths) in zip(starts, tiers, shapes, strict=False):
            rows = PackedRows(data, start, count, widths)
            assert np.array_equal(rows.unpack(), tier.reshape(-1, count).T)
            last = rows.gather(np.array([count - 1]))
            assert np.array_equal(last[0], tier[..., -1] if len(tier) else [])

    def test_blocks_of_rows_give_the_whole(self) -> None:
        codes = np.random.default_rng(0).integers(0, 8, (2, 21))
        whole = PackedRows.pack(codes, [3, 4]).data
        data = np.zeros_like(whole)
        for first in (16, 0, 8):
            PackedRows.pack_into(data, first * 7 // 8, codes[:, first : first + 8], [3, 4])
        assert np.array_equal(data, whole)

    @pytest.mark.parametrize("width", [-1, 33])
    def test_width_out_of_range(self, width: int) -> None:
        with pytest.raises(ArtifactError, match=re.escape(f"widths (3, {width}) are not all in")):
            PackedRows(np.zeros(99, np.uint8), 0, 1, (3, width))

    @pytest.mark.parametrize(
        ("data", "first"),
        [
            (np.zeros(9, np.uint8), 1),
            (np.zeros(8, np.uint8), 0),
            (np.zeros(99, np.uint8), -1),
            (np.zeros(99, np.int8), 0),
            (np.zeros((9, 9), np.uint8), 0),
        ],
    )
    def test_rows_that_do_not_fit(self, data: np.ndarray, first: int) -> None:
        with pytest.raises(ArtifactError, match=f"2 rows of 5 bits from byte {first} on take"):
            PackedRows(data, first, 2, (3, 2))

    def test_writing_beyond_the_end(self) -> None:
        with pytest.raises(ValueError, match="rows of packed codes take"):
            PackedRows.pack_into(np.zeros(9, np.uint8), 1, self.CODES, [3, 2])


class TestCheckIds:
    @pytest.mark.parametrize(
        "ids",
        [
            [0, 4, 2],
            (0, 4, 2),
            np.array([0, 4, 2], np.uint8),
            np.array([0, 4, 2], np.int32),
            np.array([0, 4, 2], np.uint64),
            np.array([0, 9, 4, 9, 2])[::2],
        ],
    )
    def test_integers_of_any_kind(self, ids: object) -> None:
        checked = check_ids(ids, 5, "field 'user'")  # type: ignore[arg-type]
        assert checked.dtype == np.int64
        assert checked.flags.c_contiguous
        assert checked.tolist() == [0, 4, 2]

    def test_shape_is_kept(self) -> None:
        assert check_ids([[1, 2], [3, 4]], 5, "x").tolist() == [[1, 2], [3, 4]]
        assert check_ids(3, 5, "x").shape == ()
        assert check_ids([], 5, "x").shape == (0,)
        assert check_ids(np.zeros((2, 0)), 5, "x").shape == (2, 0)

    @pytest.mark.parametrize(
        ("ids", "message"),
        [
            ([0, 5, 7], "field 'user': id 5 at position 1 is outside [0, 5)"),
            ([[0, 1], [-1, 0]], "field 'user': id -1 at position 2 is outside [0, 5)"),
            (5, "field 'user': id 5 at position 0 is outside [0, 5)"),
            (np.array([1, 2**64 - 1], np.uint64), f"id {2**64 - 1} is outside [0, 5)"),
            ([1.0], "field 'user': ids must be integers, not float64"),
            ([True], "field 'user': ids must be integers, not bool"),
            (["a"], "field 'user': ids must be integers, not <U1"),
            ([2**70], "field 'user': ids must be integers, not object"),
        ],
    )
    def test_named_with_the_limit(self, ids: object, message: str) -> None:
        with pytest.raises(IdError, match=re.escape(message)):
            check_ids(ids, 5, "field 'user'")  # type: ignore[arg-type]

    @pytest.mark.parametrize("place", [0, 4095, 4096, 9999])
    def test_every_position_is_looked_at(self, place: int) -> None:
        ids = np.zeros(10_000, np.int32)
        ids[place] = 10
        with pytest.raises(IdError, match=f"id 10 at position {place} is outside"):
            check_ids(ids, 10, "x")
