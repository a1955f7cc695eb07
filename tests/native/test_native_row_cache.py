"""The cache of rows by itself: arguments that are refused, and tables of several files."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import row_cache_alone
from row_cache_alone import CASES, DIM, MEMORY, ROWS, looked_up, table_at

from saec import _native
from saec.format.native_lookup import RowRun, run_table


@pytest.fixture(scope="module")
def rows() -> Any:
    return row_cache_alone.rows()


@pytest.fixture
def files(tmp_path: Path, rows: Any) -> Iterator[list[int]]:
    """The same rows twice: from byte 40 of one file on, and in another."""
    (tmp_path / "a").write_bytes(bytes(40) + rows.tobytes())
    (tmp_path / "b").write_bytes(rows.tobytes())
    descriptors = [os.open(tmp_path / name, os.O_RDONLY) for name in "ab"]
    yield descriptors
    for descriptor in descriptors:
        os.close(descriptor)


def test_tables_of_two_files_share_the_cache(files: list[int], rows: Any) -> None:
    parts = [(files[0], 40, rows.nbytes), (files[1], 0, rows.nbytes)]
    cache = _native.RowCache(parts, [(ROWS, 0), (ROWS, 1)], 4 * DIM, MEMORY)
    tables = [table_at(cache, part) for part in range(2)]
    for table in tables:
        cache.serve(table)
    rng = np.random.default_rng(0)
    for number in range(20):
        ids = rng.integers(0, ROWS, 500)
        assert np.array_equal(looked_up(tables[number % 2], ids), rows[ids])
    assert np.array_equal(looked_up(tables[0], np.array([0, ROWS - 1])), rows[[0, -1]])
    counts = cache.counts()
    assert counts["hits"] + counts["misses"] == 20 * 500 + 2
    assert counts["memory_bytes"] <= MEMORY


def test_a_row_of_the_file_is_read_once(files: list[int], rows: Any) -> None:
    cache = _native.RowCache([(files[0], 40, rows.nbytes)], [(ROWS, 0)], 4 * DIM, MEMORY)
    table = table_at(cache, 0)
    cache.serve(table)
    for _ in range(3):
        assert np.array_equal(looked_up(table, np.array([17, 17])), rows[[17, 17]])
    counts = cache.counts()
    assert (counts["hits"], counts["misses"], counts["reads"]) == (4, 2, 1)


def test_pages_take_over_where_rows_read_along_are_wanted(files: list[int], rows: Any) -> None:
    cache = _native.RowCache([(files[0], 40, rows.nbytes)], [(ROWS, 0)], 4 * DIM, MEMORY)
    table = table_at(cache, 0)
    cache.serve(table)

    def check(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(40):
            ids = (ROWS * rng.random(200) ** 4).astype(
                np.int64
            )  # more of the first than of the last
            assert np.array_equal(looked_up(table, ids), rows[ids])

    assert cache.keeps == "rows"
    with ThreadPoolExecutor(4) as pool:  # some of them look up rows while pages take over
        list(pool.map(check, range(4), timeout=100))
    assert cache.keeps == "pages"
    counts = cache.counts()
    assert counts["hits"] + counts["misses"] > 4 * 40 * 200  # a row of two pages counts twice
    assert counts["memory_bytes"] <= counts["most_memory_bytes"] <= MEMORY


def test_rows_stay_where_those_read_along_are_not_wanted(files: list[int], rows: Any) -> None:
    cache = _native.RowCache([(files[0], 40, rows.nbytes)], [(ROWS, 0)], 4 * DIM, MEMORY)
    table = table_at(cache, 0)
    cache.serve(table)
    hot = np.arange(0, ROWS, 128)  # one row on each page
    for _ in range(10):
        assert np.array_equal(looked_up(table, hot), rows[hot])
    assert cache.keeps == "rows"
    assert cache.counts()["misses"] == len(hot)


@pytest.mark.parametrize(
    ("tables", "row_bytes", "memory", "message"),
    [
        ([(ROWS, 0)], 0, MEMORY, "rows have 1 or more bytes, at most an eighth of a page, not 0"),
        ([(ROWS, 0)], 513, MEMORY, "at most an eighth of a page, not 513"),
        ([(ROWS, 0)], 32, MEMORY - 1, "1048575 bytes of memory are too few"),
        ([(ROWS, 1)], 32, MEMORY, "part 1 of 1 parts does not exist"),
        ([(2 * ROWS, 0)], 32, MEMORY, "80000 rows go beyond the parts"),
    ],
)
def test_arguments_that_are_refused(
    files: list[int], tables: Any, row_bytes: int, memory: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        _native.RowCache([(files[1], 0, 4 * DIM * ROWS)], tables, row_bytes, memory)


def test_tables_that_are_not_in_the_cache(files: list[int]) -> None:
    cache = _native.RowCache([(files[1], 0, 4 * DIM * ROWS)], [(ROWS, 0)], 4 * DIM, MEMORY)
    other = np.zeros((10, DIM), np.float32)
    table = run_table(10, [RowRun(0, 0, 0, 0)], np.zeros(0, np.uint8), other)
    with pytest.raises(ValueError, match="no table starts at this address"):
        cache.serve(table)
    wide = run_table(5, [RowRun(0, 0, 0, 0)], np.zeros(0, np.uint8), other.reshape(5, 2 * DIM))
    with pytest.raises(ValueError, match="rows of table and cache differ in bytes: 64 and 32"):
        cache.serve(wide)
    with pytest.raises(ValueError, match="part 1 of 1 parts does not exist"):
        cache.offset(1)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="calls Linux by number")
@pytest.mark.parametrize("case", CASES)
def test_in_a_process_of_its_own(tmp_path: Path, rows: Any, case: str) -> None:
    (tmp_path / "rows").write_bytes(rows.tobytes())
    done = subprocess.run(
        [
            sys.executable,
            *["-S"] * sys.flags.no_site,  # as this process, if it has an instrumented module
            row_cache_alone.__file__,
            case,
            tmp_path / "rows",
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
