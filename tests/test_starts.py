"""Packed starts of codes: by hand, for any numbers, and invalid lists."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saec.bits.elias_fano import pack_starts, starts_bytes, unpack_starts
from saec.errors import ArtifactError


def test_unary_by_hand() -> None:
    # Three starts among five rows have no low bits: ones at 1 + 0, 3 + 1 and 3 + 2.
    packed = pack_starts(np.array([1, 3, 3]), 5)
    assert packed.tolist() == [0b110010]
    assert starts_bytes(3, 5) == 1
    assert unpack_starts(packed, 3, 5).tolist() == [1, 3, 3]


def test_low_bits_by_hand() -> None:
    # 500 rows for each start: eight low bits, 2 and 188 = 700 - 2 x 256; ones at 0 + 0 and 2 + 1.
    packed = pack_starts(np.array([2, 700]), 1000)
    assert packed.tolist() == [2, 188, 0b1001]
    assert unpack_starts(packed, 2, 1000).tolist() == [2, 700]


def test_size_is_about_two_bits_plus_the_low_bits() -> None:
    assert starts_bytes(63, 64) == 16
    assert starts_bytes(63, 64 << 10) == pytest.approx(63 * (2 + 10) / 8, abs=3)


@given(st.lists(st.integers(0, 3000), min_size=1, max_size=500), st.integers(0, 10_000))
def test_packed_lists_are_unpacked(numbers: list[int], beyond: int) -> None:
    starts = np.sort(np.array(numbers, dtype=np.int64))
    rows = int(starts[-1]) + beyond
    packed = pack_starts(starts, rows)
    assert packed.shape == (starts_bytes(len(starts), rows),)
    assert np.array_equal(unpack_starts(packed, len(starts), rows), starts)


@pytest.mark.parametrize(
    ("data", "count", "rows", "message"),
    [
        ([0b10010], 3, 5, "2 codes start where 3 should"),
        ([0b11110010], 3, 5, "5 codes start where 3 should"),
        ([0b11000010], 3, 4, "ascend from 0 to 4 at most"),  # 1, 5, 5
        ([188, 2, 0b11], 2, 1000, "ascend from 0 to 1000 at most"),  # 188, then 2
        ([2, 255, 0b10001], 2, 1000, "ascend from 0 to 1000 at most"),  # 1023
    ],
)
def test_no_lists(data: list[int], count: int, rows: int, message: str) -> None:
    assert len(data) == starts_bytes(count, rows)
    with pytest.raises(ArtifactError, match=message):
        unpack_starts(np.array(data, np.uint8), count, rows)
