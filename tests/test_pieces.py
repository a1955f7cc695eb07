"""Pieces of tensors against the tensors packed at once: at every phase, width and cut."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from saec.bits.packing import PackedCodes, PackedRows, packed_bytes
from saec.streaming.bit_writes import (
    ByteRun,
    Piece,
    Scattered,
    lay,
    lay_and_let_go,
    run_of_codes,
    scattered_codes,
    within,
)
from saec.streaming.scratch import Workspace


def laid(pieces: Sequence[Piece], nbytes: int, first: int = 0) -> NDArray[np.uint8]:
    data = np.zeros(nbytes, np.uint8)
    lay(pieces, {"x": data}, first)
    return data


def drawn(count: int, widths: Sequence[int], seed: int = 0) -> list[NDArray[np.uint32]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(1 << width, size=count).astype(np.uint32) for width in widths]


def slow_bits(codes: Sequence[NDArray[np.uint32]], widths: Sequence[int]) -> NDArray[np.uint8]:
    """A row's bits one after the other, lowest first, (bits,) of 0 and 1."""
    bits = [
        int(part[row]) >> bit & 1
        for row in range(len(codes[0]))
        for part, width in zip(codes, widths, strict=True)
        for bit in range(width)
    ]
    return np.array(bits, dtype=np.uint8)


def test_a_run_by_hand() -> None:
    # 5, 2 and 7 in three bits each are 101 010 111, lowest first 101 010 11|1.
    codes = [np.array([5, 2, 7])]
    run = run_of_codes("x", 16, PackedRows.pack(codes, [3]))
    assert (run.role, run.first, run.data.tolist()) == ("x", 2, [0b11010101, 0b1])
    run = run_of_codes("x", 21, PackedRows.pack(codes, [3]))
    assert (run.first, run.data.tolist()) == (2, [0b10100000, 0b00111010])
    run = run_of_codes("x", 7, PackedRows.pack([np.array([1])], [1]))
    assert (run.first, run.data.tolist()) == (0, [128])


def test_scattered_by_hand() -> None:
    # Rows of a code of three bits and one of two, at bits 6 and 16.
    codes = [np.array([5, 2]), np.array([3, 1])]
    one, two = scattered_codes("x", np.array([6, 16]), codes, [3, 2])
    assert (one.places.tolist(), one.words.tolist()) == ([0, 2], [5 << 6, 2])
    assert (two.places.tolist(), two.words.tolist()) == ([1, 2], [3 << 1, 1 << 3])
    assert one.words.dtype == np.uint32
    assert laid([one, two], 4).tolist() == [0b01000000, 0b111, 0b01010, 0]
    assert scattered_codes("x", np.array([6, 16]), codes, [0, 0]) == []


def test_laid_a_slice_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saec.streaming.bit_writes._SLICE", 3)
    places = np.cumsum(np.random.default_rng(0).integers(1, 5000, 10))
    run = ByteRun("x", 100, np.arange(200, dtype=np.uint8))
    scattered = Scattered("x", places, np.arange(10, dtype=np.uint32) << 7)
    assert [len(piece.places) for piece in scattered.slices()] == [3, 3, 3, 1]
    found = Workspace(tmp_path).zeros(1 << 16)
    lay_and_let_go([run, scattered], {"x": found})
    np.testing.assert_array_equal(found, laid([run, scattered], 1 << 16))


def test_laid_by_hand() -> None:
    data = {"x": np.zeros(4, np.uint8), "y": np.zeros(2, np.uint8)}
    lay(
        [
            ByteRun("x", 11, np.array([1, 2], np.uint8)),
            Scattered("x", np.array([11, 12]), np.array([0x0304, 0x80], np.uint16)),
            ByteRun("y", 10, np.array([9], np.uint8)),
        ],
        data,
        10,
    )
    assert data["x"].tolist() == [0, 1 | 4, 2 | 3 | 0x80, 0]
    assert data["y"].tolist() == [9, 0]


def test_a_word_may_reach_beyond_the_tensor_with_zeros() -> None:
    word = Scattered("x", np.array([3]), np.array([0x7F], np.uint64))
    assert laid([word], 4).tolist() == [0, 0, 0, 0x7F]


@pytest.mark.parametrize("width", range(1, 33))
def test_codes_at_every_phase_and_width(width: int) -> None:
    for phase in range(8):
        check_codes_at(phase, width)


def check_codes_at(phase: int, width: int) -> None:
    before = drawn(phase, [1], 1)
    codes = drawn(19, [width], width)
    size = packed_bytes(phase + 19 * width, 1)
    expected = slow_bits(codes, [width])
    start = [run_of_codes("x", 0, PackedRows.pack(before, [1]))] if phase else []
    run = laid([*start, run_of_codes("x", phase, PackedRows.pack(codes, [width]))], size)
    bits = np.unpackbits(run, bitorder="little")
    assert np.array_equal(bits[phase : phase + len(expected)], expected)
    assert np.array_equal(bits[:phase], before[0] if phase else [])
    assert not bits[phase + len(expected) :].any()
    first_bits = phase + width * np.arange(19)
    assert np.array_equal(
        laid([*start, *scattered_codes("x", first_bits, codes, [width])], size), run
    )
    if not phase:
        assert np.array_equal(run, PackedCodes.pack(codes[0], width).data)


widths = st.lists(st.integers(0, 32), min_size=1, max_size=4).filter(any)


@given(
    widths=widths,
    count=st.integers(1, 60),
    cuts=st.lists(st.integers(0, 60), max_size=6),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_runs_lay_the_packed_rows(
    widths: list[int], count: int, cuts: list[int], seed: int
) -> None:
    codes = drawn(count, widths, seed)
    expected = PackedRows.pack(codes, widths).data
    bounds = sorted({0, count, *(cut for cut in cuts if cut < count)})
    row = sum(widths)
    runs = [
        run_of_codes("x", low * row, PackedRows.pack([part[low:high] for part in codes], widths))
        for low, high in pairwise(bounds)
    ]
    assert np.array_equal(laid(runs, len(expected)), expected)
    # In any order, and each as large as its own bits.
    assert np.array_equal(laid(runs[::-1], len(expected)), expected)
    for run, (low, high) in zip(runs, pairwise(bounds), strict=True):
        assert len(run.data) == -(-high * row // 8) - low * row // 8


@given(
    widths=widths,
    count=st.integers(1, 60),
    parts=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_scattered_rows_lay_the_packed_rows(
    widths: list[int], count: int, parts: int, seed: int
) -> None:
    codes = drawn(count, widths, seed)
    expected = PackedRows.pack(codes, widths).data
    owner = np.random.default_rng(seed).integers(parts, size=count)
    pieces: list[Piece] = []
    for part in range(parts):
        rows = np.flatnonzero(owner == part)
        own = [part[rows] for part in codes]
        pieces += scattered_codes("x", rows * sum(widths), own, widths)
    assert np.array_equal(laid(pieces, len(expected)), expected)


def test_within_by_hand() -> None:
    run = ByteRun("x", 10, np.arange(5, dtype=np.uint8))
    inside = within(run, 11, 13)
    assert isinstance(inside, ByteRun)
    assert (inside.role, inside.first, inside.data.tolist()) == ("x", 11, [1, 2])
    assert within(run, 0, 10) is None
    assert within(run, 15, 99) is None
    words = Scattered("x", np.array([4, 8, 9]), np.array([0x0102, 0x0304, 0x0506], np.uint16))
    whole = within(words, 4, 11)
    assert isinstance(whole, Scattered)
    assert whole.places.tolist() == [4, 8, 9]
    assert whole.words.dtype == np.uint16
    some = within(words, 5, 10)
    assert isinstance(some, Scattered)
    assert some.places.tolist() == [5, 8, 9, 9]
    assert some.words.tolist() == [1, 4, 3, 6]
    assert some.words.dtype == np.uint8
    assert within(words, 6, 8) is None
    assert within(words, 0, 4) is None
    assert within(words, 11, 99) is None


@given(
    widths=widths,
    count=st.integers(1, 60),
    windows=st.lists(st.integers(1, 400), max_size=8),
    phase=st.integers(0, 7),
    gaps=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_windows_together_are_the_whole(
    widths: list[int], count: int, windows: list[int], phase: int, gaps: bool, seed: int
) -> None:
    codes = drawn(count, widths, seed)
    row = sum(widths)
    spaced = np.cumsum(np.random.default_rng(seed).integers(1, 30, size=count)) - 1
    ranks = spaced if gaps else np.arange(count)
    pieces: list[Piece] = [
        run_of_codes("x", phase, PackedRows.pack(codes, widths)),
        *scattered_codes("x", phase + ranks * row, codes, widths),
    ]
    size = packed_bytes(1 + int(ranks[-1]) + 1, row)
    whole = laid(pieces, size)
    bounds = sorted({0, size, *(cut for cut in windows if cut < size)})
    for low, high in pairwise(bounds):
        own = [inside for piece in pieces if (inside := within(piece, low, high)) is not None]
        for piece in own:
            if isinstance(piece, ByteRun):
                assert low <= piece.first < piece.first + len(piece.data) <= high
            else:
                assert low <= piece.places.min()
                assert piece.places.max() + piece.words.itemsize <= high
                assert np.all(np.diff(piece.places) >= 0)
        assert np.array_equal(laid(own, high - low, low), whole[low:high])
