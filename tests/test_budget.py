"""Budgets: how many bytes each allows, and what it refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saec.compression.budget import BitsPerFeature, Budget, MaxBytes, Ratio
from saec.errors import BudgetError
from saec.util.sizes import parse_size


@pytest.mark.parametrize(
    ("budget", "nbytes"),
    [
        (Ratio(1), 1000),
        (Ratio(4), 250),
        (Ratio(27), 37),  # 37.04 rounded down: never over budget
        (Ratio(np.float32(2.5)), 400),
        (MaxBytes(300), 300),
        (MaxBytes("2kB"), 2000),
        (BitsPerFeature(4), 25),
        (BitsPerFeature(0.5), 3),
    ],
)
def test_max_bytes_of_1000_bytes_and_50_features(budget: Budget, nbytes: int) -> None:
    assert budget.max_bytes(1000, 50) == nbytes


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("4096", 4096),
        ("4096B", 4096),
        ("1kB", 1000),
        ("161MB", 161_000_000),
        ("161 mb", 161_000_000),
        ("4.46GB", 4_460_000_000),
        ("1TB", 10**12),
        ("1KiB", 1024),
        ("1.5MiB", 3 * 2**19),
        (" 2GiB ", 2**31),
        ("1TiB", 2**40),
        ("9007199254740993", 9007199254740993),  # 2^53 + 1: not through a float
        (np.int64(7), 7),
    ],
)
def test_parse_size(text: str | int, nbytes: int) -> None:
    assert parse_size(text) == nbytes
    assert MaxBytes(text).value == nbytes


@pytest.mark.parametrize("text", ["", "MB", "-1MB", "1ib", "1 PB", "1,5MB", "1e6", "0x10", "1M B"])
def test_sizes_that_cannot_be_read(text: str) -> None:
    with pytest.raises(BudgetError, match=f"cannot read '{text}' as a size"):
        MaxBytes(text)


@pytest.mark.parametrize("size", [0, -5, "0", "0.5B"])
def test_sizes_below_one_byte(size: str | int) -> None:
    with pytest.raises(BudgetError, match="at least 1 byte"):
        MaxBytes(size)


@pytest.mark.parametrize("size", [1.5, True, None])
def test_sizes_of_another_type(size: object) -> None:
    with pytest.raises(BudgetError, match="whole number of bytes or text"):
        MaxBytes(size)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0.99, 0, -1, math.nan, math.inf, "27", True, None])
def test_bad_ratios(value: object) -> None:
    with pytest.raises(BudgetError, match=f"at least 1, not {value!r}"):
        Ratio(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, "4", False, None])
def test_bad_bits_per_feature(value: object) -> None:
    with pytest.raises(BudgetError, match=f"above 0, not {value!r}"):
        BitsPerFeature(value)  # type: ignore[arg-type]


def test_budgets_are_values() -> None:
    assert MaxBytes("1kB") == MaxBytes(1000)
    assert hash(Ratio(2)) == hash(Ratio(2))
    with pytest.raises(AttributeError):
        Ratio(2).value = 3  # type: ignore[misc]


@given(
    st.integers(1, 10**13),
    st.integers(1, 10**9),
    st.floats(1, 1e6),
    st.floats(1e-3, 1e3),
)
def test_never_above_what_was_asked(nbytes: int, features: int, ratio: float, bits: float) -> None:
    assert Ratio(ratio).max_bytes(nbytes, features) * ratio <= nbytes * (1 + 1e-12)
    assert BitsPerFeature(bits).max_bytes(nbytes, features) * 8 <= features * bits * (1 + 1e-12)
