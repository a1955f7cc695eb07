"""Artifacts opened with a limit of their memory whose rows are kept one by one, not in pages."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from artifact_files import save_in_shards
from cold_lookups import check_random_lookups
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from open_files import replaced_descriptors

import saec
from saec import _native
from saec.bits.packing import PackedCodes
from saec.format.clustered_field import ClusteredField
from saec.format.codebook import Codebook
from saec.format.compressed import Compressed
from saec.format.native_lookup import pool_request
from saec.format.raw_field import RawField

PAGE, MEMORY, ROWS = os.sysconf("SC_PAGE_SIZE"), 5_000_000, 200_000
WAYS = ["io_uring", "threads"]

pytestmark = pytest.mark.skipif(PAGE != 4096, reason="counts are for pages of 4 kB")


def raw(name: str, rows: int, dim: int, dtype: Any) -> RawField:
    weights = np.random.default_rng(dim).standard_normal((rows, dim), np.float32).astype(dtype)
    return RawField(name, weights)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of 64 bytes from byte 256 of the file on."""
    file = tmp_path_factory.mktemp("rows") / "a.saec"
    Compressed([raw("r", ROWS, 16, np.float32)]).save(file)
    return file


@pytest.fixture(scope="module")
def rows(path: Path) -> NDArray[np.float32]:
    return np.asarray(saec.load(path)["r"].decode())


@pytest.fixture(params=WAYS)
def tables(path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The table with a limit, read in each of the ways that the system allows."""
    monkeypatch.setenv("SAEC_READS", request.param)
    opened = saec.load(path, memory=MEMORY)
    (cache,) = caches_of(opened)
    assert isinstance(cache, _native.RowCache)
    if cache.reads_by != request.param:
        pytest.skip("this system has no io_uring, or does not allow it")
    return opened


def caches_of(tables: Compressed) -> list[_native.PageCache | _native.RowCache]:
    assert tables.cold is not None
    return tables.cold._caches


def counts(tables: Compressed) -> tuple[int, int, int, int, int]:
    """Hits, misses, reads, pages read and bytes read."""
    found = tables.read_counts
    assert found is not None
    return found.hits, found.misses, found.reads, found.pages_read, found.bytes_read


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Compressed, Compressed]:
    """Two tables that share a cache of rows, one with a cache of its own, and one in pages."""
    file = tmp_path_factory.mktemp("mixed") / "a.saec"
    Compressed(
        [
            raw("one", 90_000, 16, np.float32),
            raw("two", 60_000, 32, np.float16),
            raw("odd", 400_000, 9, ml_dtypes.bfloat16),  # some rows are on two pages
            raw("wide", 100, 1000, np.float32),
        ]
    ).save(file)
    cold = saec.load(file, memory="13MB")
    assert sorted(type(cache).__name__ for cache in caches_of(cold)) == [
        "PageCache",
        "RowCache",
        "RowCache",
    ]
    return cold, saec.load(file)


@given(st.data())
def test_rows_and_bags_equal_those_of_the_mapped_artifact(
    pair: tuple[Compressed, Compressed], data: st.DataObject
) -> None:
    check_random_lookups(*pair, data)


@pytest.mark.parametrize("name", ["one", "two", "odd"])
def test_whole_tables_and_ids_out_of_range(pair: tuple[Compressed, Compressed], name: str) -> None:
    cold, mapped = (tables[name] for tables in pair)
    assert cold.decode().tobytes() == mapped.decode().tobytes()
    with pytest.raises(saec.IdError, match=f"id {mapped.vocab_size} at position 2"):
        cold.lookup([0, 1, mapped.vocab_size])
    with pytest.raises(saec.IdError, match="id -1 at position 1"):
        cold.pool([0, -1], [0])


def test_counts_by_hand(tables: Compressed, rows: NDArray[np.float32]) -> None:
    """Page 0 has rows 0 to 59, and page 1 rows 60 to 123."""
    assert np.array_equal(tables["r"].lookup([3, 3]), rows[[3, 3]])
    assert counts(tables) == (0, 2, 1, 1, PAGE)
    tables["r"].lookup([3, 59])  # row 59 was read along with row 3
    assert counts(tables) == (2, 2, 1, 1, PAGE)
    tables["r"].lookup([123, 60, 124, 1000])  # pages 1 and 2 by one read, and page 15
    assert counts(tables) == (2, 6, 3, 4, 4 * PAGE)


def test_full_memory_reads_sectors_and_keeps_what_is_used_often(
    path: Path, rows: NDArray[np.float32]
) -> None:
    tables = saec.load(path, memory=MEMORY)
    hot = np.arange(500) * 399 + 7
    for _ in range(4):
        tables["r"].lookup(hot)
    assert np.array_equal(tables["r"].lookup(np.arange(ROWS)), rows)  # 12.8 MB
    before = counts(tables)
    assert np.array_equal(tables["r"].lookup(hot), rows[hot])
    assert counts(tables) == (before[0] + len(hot), *before[1:])
    found = tables.read_counts
    assert found is not None
    assert 0.93 * MEMORY < found.memory_bytes <= found.most_memory_bytes <= MEMORY
    missing = next(row for row in range(ROWS) if _misses(tables, row))
    after = counts(tables)
    tables["r"].lookup([missing])
    assert counts(tables)[:2] == (after[0] + 1, after[1])


def _misses(tables: Compressed, row: int) -> bool:
    """Whether a row was not in memory; it then was read by itself, with its sector at most."""
    before = counts(tables)
    tables["r"].lookup([row])
    after = counts(tables)
    assert after[4] - before[4] in (0, 512, PAGE)  # some file systems read pages only
    return after[1] > before[1]


def test_bags_that_need_more_rows_than_a_lookup_may_have(tables: Compressed) -> None:
    ids = np.arange(1500)  # a 64th of the memory has 1,220
    with pytest.raises(saec.BudgetError, match=r"'r'.*a single bag take more"):
        tables["r"].pool(ids, [0])
    assert tables["r"].pool(ids, [0, 750]).shape == (2, 16)


def test_ids_that_are_left_out(tables: Compressed, rows: NDArray[np.float32]) -> None:
    ids, out = np.array([5, 9, 5, 9, 9, 7]), np.empty((2, 16), np.float32)
    offsets = np.array([0, 4])
    request = pool_request(
        tables["r"].lookup_table,
        ids.ctypes.data,
        8,
        len(ids),
        offsets.ctypes.data,
        2,
        0,
        "mean",
        out.ctypes.data,
        out.strides[0],
        9,
    )
    assert _native.pool([request], 0)[0] == 0
    assert np.array_equal(out, rows[[5, 7]])


def test_threads_that_share_a_cache(tables: Compressed, rows: NDArray[np.float32]) -> None:
    def check(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(10):
            ids = rng.integers(0, ROWS, 200)
            assert np.array_equal(tables["r"].lookup(ids, threads=1), rows[ids])

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(check, range(12), timeout=100))


def test_a_read_error_is_an_error_of_its_lookup(
    path: Path, tables: Compressed, rows: NDArray[np.float32]
) -> None:
    tables["r"].lookup([3])
    memory = os.open("/proc/self/mem", os.O_RDONLY)  # at unmapped addresses, the kernel says EIO
    with replaced_descriptors(path, memory):
        for ids in ([3, 5000], np.arange(0, ROWS, 1000)):
            with pytest.raises(saec.ArtifactError, match="'r' cannot be read: Input/output error"):
                tables["r"].lookup(ids)
        assert np.array_equal(tables["r"].lookup([3]), rows[[3]])  # in memory
    os.close(memory)
    assert np.array_equal(tables["r"].lookup([3, 5000]), rows[[3, 5000]])


@pytest.mark.parametrize("way", WAYS)
def test_truncated_and_changed_files(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAEC_READS", way)
    file = tmp_path / "a.saec"
    Compressed([raw("r", ROWS, 16, np.float32)]).save(file)
    tables = saec.load(file, memory=MEMORY)
    first = tables["r"].lookup([3])
    os.truncate(file, 50 * PAGE)
    with pytest.raises(saec.ArtifactError, match="has become shorter since it was opened"):
        tables["r"].lookup([8000])
    for _ in range(2):  # nothing was kept the first time
        with pytest.raises(saec.ArtifactError, match="the file has changed since it was opened"):
            tables["r"].lookup([2000])
    assert np.array_equal(tables["r"].lookup([3]), first)


@pytest.mark.exhaustive
def test_shards(tmp_path: Path) -> None:
    one = raw("r", 80_000, 16, np.float32)
    save_in_shards(Compressed([one]), tmp_path / "s.saec")
    tables = saec.load(tmp_path / "s.saec", memory="4600kB")
    assert tables.shard_count == 79
    (cache,) = caches_of(tables)
    assert isinstance(cache, _native.RowCache)
    ids = np.random.default_rng(5).integers(0, 80_000, 3000)
    assert np.array_equal(tables["r"].lookup(ids), one.weights[ids])


def test_enough_memory_for_all_keeps_pages(path: Path) -> None:
    (cache,) = caches_of(saec.load(path, memory="20MB"))
    assert isinstance(cache, _native.PageCache)


@pytest.mark.exhaustive
def test_a_codebook_that_is_decoded_leaves_each_cache_some_memory(tmp_path: Path) -> None:
    """Of 36.5 MB, 8 MB of int8 values and their 32 MB of float32 leave 4 MB for three caches."""
    book = np.random.default_rng(0).standard_normal((40_000, 200), np.float32)
    codes = PackedCodes.pack(np.arange(1000), 16)
    fields = [
        raw("long", 410_000, 16, np.float32),
        raw("short", 165_000, 8, np.float32),  # a sixth of all bytes, so of 4 MB too little
        ClusteredField("codes", codes, Codebook.round(book, "int8", None), "float32"),
    ]
    Compressed(fields).save(tmp_path / "a.saec")
    cold, mapped = saec.load(tmp_path / "a.saec", memory="36.5MB"), saec.load(tmp_path / "a.saec")
    assert len(caches_of(cold)) == 3
    found = cold.read_counts
    assert found is not None
    assert found.most_memory_bytes <= 36_500_000
    ids = np.arange(0, 1000, 3)
    for name in mapped:
        assert np.array_equal(cold[name].lookup(ids), mapped[name].lookup(ids))
