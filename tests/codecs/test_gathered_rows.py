"""Coded rows of keys in files of a workspace: the best of them, and their function."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import peak_memory
import pytest
from numpy.typing import NDArray

from saec.codecs.axes.keyed_rows import EVERY_ROW, GatheredRows, StoredRows
from saec.keys.building import build_function
from saec.streaming.scratch import IN_MEMORY, Workspace
from saec.util.records import Records


def rows_of(
    saved: list[float] | NDArray[np.float64], bits: list[int] | NDArray[np.int64], first: int = 0
) -> StoredRows:
    """Rows with one string each, of so many bits; hashes count from ``first`` on."""
    count = len(saved)
    numbers = np.arange(first, first + count)
    lengths = np.asarray(bits, np.uint8)
    return StoredRows(
        roots=numbers % 3,
        saved=np.asarray(saved, np.float64),
        second=np.asarray(saved, np.float64) / 2,
        bits=np.asarray(bits, np.int64),
        shares=np.full(count, 0.125),
        harm=numbers * 0.5,
        owners=np.arange(count),
        hashes=numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15),
        values=np.zeros(count, np.uint64),
        lengths=lengths,
        unstored=2.0,
        unstored_second=1.5,
        occurrences=0.5,
    )


def test_rows_that_save_least_per_bit_are_left_out_by_hand(tmp_path: Path) -> None:
    for space in (IN_MEMORY, Workspace(tmp_path)):
        with closing(GatheredRows(space)) as rows:
            # Nats per bit: 2, 1, -1, 1; and 1/2, 3.
            rows.add(rows_of([8.0, 2.0, -3.0, 2.0], [4, 2, 3, 2]))
            rows.add(rows_of([2.0, 3.0], [4, 1], first=4))
            fewer = rows.fewer(
                EVERY_ROW, 0.4
            )  # of 16 bits: 3 and 4, up to the one that reaches 6.4
            assert fewer.bits == 7
            assert rows.planned(fewer)[1] == 9
            # The first of two that are equal; 0.1 of 9 bits.
            fewer = rows.fewer(fewer, 0.1)
            assert fewer.bits == 9
            totals = rows.totals(fewer, 3)
            assert (totals.saved, totals.shares) == (8.0 + 2.0 + 3.0, 3 * 0.125)
            assert totals.second == 13.0 / 2
            assert (totals.unstored, totals.unstored_second, totals.occurrences) == (4.0, 3.0, 1.0)
            assert totals.counts.tolist() == [2, 0, 1]  # rows 0, 3 and 5
            assert totals.harm.tolist() == [1.5, 0.0, 2.5]
            assert rows.function(fewer).keys == 3
            assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seed", range(3))
def test_the_same_rows_as_by_sorting_all(seed: int) -> None:
    """With many rows of equal gain, over several parts."""
    rng = np.random.default_rng(seed)
    saved = rng.choice(rng.standard_normal(40), 3000)
    bits = rng.integers(0, 6, 3000) * rng.integers(1, 3)
    order = np.argsort(saved / np.maximum(bits, 1), kind="stable")
    left = np.ones(3000, dtype=bool)
    with closing(GatheredRows(IN_MEMORY)) as rows:
        for first in range(0, 3000, 700):
            part = slice(first, first + 700)
            rows.add(rows_of(saved[part], bits[part], first))
        selected = EVERY_ROW
        for share in rng.uniform(0, 0.5, 4):
            own = order[left[order]]
            ends = np.cumsum(bits[own])
            left[own[: int(np.searchsorted(ends, share * ends[-1])) + 1]] = False
            selected = rows.fewer(selected, share)
            strings = build_function(
                *(
                    getattr(rows_of(saved, bits), name)[left]
                    for name in ("hashes", "values", "lengths")
                )
            )
            found = rows.function(selected)
            assert found.keys == left.sum()
            assert np.array_equal(found.bits, strings.bits)
            assert np.array_equal(found.directory, strings.directory)


def test_rows_in_files_are_not_in_memory(tmp_path: Path) -> None:
    count, parts = 1 << 16, 12
    ones = np.ones(count)
    with closing(GatheredRows(Workspace(tmp_path))) as rows:
        rows.add(rows_of(ones, np.full(count, 3)))
        before = peak_memory.begin()
        for part in range(1, parts):
            rows.add(rows_of(ones, np.full(count, 3), part * count))
        rows.fewer(EVERY_ROW, 0.5)
        # 76 bytes a row are in files; a part takes 10 MB of arrays.
        assert peak_memory.grown_since(before) < parts * count * 76 / 2


def test_records_are_read_as_they_were_appended(tmp_path: Path) -> None:
    dtype = np.dtype([("number", "<u4"), ("flag", "u1")])
    numbers = np.zeros(10, dtype)
    numbers["number"] = np.arange(10)
    for folder in (None, tmp_path):
        with closing(Records(dtype, folder)) as records:
            for part in (numbers[:4], numbers[4:4], numbers[::-1][:3]):
                records.append(part)
            assert len(records) == 7
            assert [block["number"].tolist() for block in records.blocks()] == [
                [0, 1, 2, 3],
                [],
                [9, 8, 7],
            ]
            assert records.read([(5, 7), (0, 0), (1, 2)])["number"].tolist() == [8, 7, 1]
            assert list(tmp_path.iterdir()) == []
