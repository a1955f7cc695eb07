"""Packed codes and the check of ids; the packing itself is tested in tests/native."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saec.codes import PackedCodes, bits_for, check_ids, packed_bytes
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
