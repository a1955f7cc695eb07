"""Artifacts opened with a limit of their memory: the rows, the limit, the counts and the errors."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import peak_memory
import pytest
from artifact_files import save_in_shards
from cold_lookups import check_random_lookups
from hypothesis import given
from hypothesis import strategies as st
from open_files import replaced_descriptors

import saec
from saec.bits.packing import PackedCodes
from saec.format.clustered_field import ClusteredField
from saec.format.codebook import Codebook
from saec.format.compressed import Compressed
from saec.format.raw_field import RawField
from saec.format.tier_index import TierIndex
from saec.format.tier_layout import Layout
from saec.format.tiered_field import TieredField

VOCAB, PAGE = 30_000, os.sysconf("SC_PAGE_SIZE")
MEMORY = 1_800_000  # of all tables below, some 30 pages are left

pytestmark = [
    pytest.mark.skipif(PAGE != 4096, reason="counts are for pages of 4 kB"),
    pytest.mark.usefixtures("coarse_prices"),
]


def clustered(name: str, clusters: int, dtype: Any, dim: int) -> ClusteredField:
    rng = np.random.default_rng(clusters)
    codes = PackedCodes.pack(rng.integers(0, clusters, VOCAB), (clusters - 1).bit_length())
    book = rng.standard_normal((clusters, dim)).astype(np.float32)
    return ClusteredField(name, codes, Codebook.round(book, dtype, None), "float32")


def tiered(name: str, shuffled: bool) -> TieredField:
    """A field with long codes, tiers without bits, and a tier that is decoded when it is opened."""
    layout = Layout.parse(VOCAB, ["4 3j2 2", "4 3", "", "2j2 - 3g", "9 9", "8 8j2"])
    rng = np.random.default_rng(7)
    codes = rng.integers(0, 256, layout.code_bytes, dtype=np.uint8)
    values = rng.standard_normal(layout.value_count).astype(np.float16)
    axes = rng.standard_normal((layout.rank + 1, 12)).astype(np.float16)
    tiers = rng.permutation(np.repeat(np.arange(6), np.diff(layout.bounds)))
    index = TierIndex.of(tiers) if shuffled else None
    return TieredField(name, layout, codes, values, axes, index, "float32")


def raw(name: str, rows: int, dim: int, dtype: Any) -> RawField:
    weights = np.random.default_rng(dim).standard_normal((rows, dim)).astype(dtype)
    return RawField(name, weights)


def all_tables() -> Compressed:
    return Compressed(
        [
            raw("narrow", VOCAB, 16, np.float32),
            raw("wide", 500, 3001, np.float16),  # each row takes two or three pages
            raw("odd", VOCAB, 9, ml_dtypes.bfloat16),
            clustered("small", 300, "float32", 8),
            clustered("large", 9000, "int8", 24),
            tiered("ranks", False),
            tiered("kept", True),
        ]
    )


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("cold") / "a.saec"
    all_tables().save(file)
    return file


@pytest.fixture(scope="module")
def pair(path: Path) -> tuple[Compressed, Compressed]:
    """The same tables, with a limit and mapped."""
    return saec.load(path, memory=MEMORY), saec.load(path)


def pages_of_rows(file: Path, rows: int, pages: int) -> Compressed:
    """A table with rows of a page each, from byte 256 of the file on, and room for some pages."""
    Compressed([raw("r", rows, PAGE // 4, np.float32)]).save(file)
    return saec.load(file, memory=12 * (rows + 1) + pages * PAGE)


def counts(tables: Compressed) -> tuple[int, int, int, int]:
    """Hits, misses, reads and pages read."""
    found = tables.read_counts
    assert found is not None
    return found.hits, found.misses, found.reads, found.pages_read


@given(st.data())
def test_rows_and_bags_equal_those_of_the_mapped_artifact(
    pair: tuple[Compressed, Compressed], data: st.DataObject
) -> None:
    check_random_lookups(*pair, data)


@pytest.mark.parametrize("name", ["narrow", "wide", "large", "kept"])
def test_one_field_and_its_whole_table(pair: tuple[Compressed, Compressed], name: str) -> None:
    cold, mapped = (tables[name] for tables in pair)
    ids = np.random.default_rng(1).integers(0, mapped.vocab_size, (40, 3))
    assert np.array_equal(cold.lookup(ids), mapped.lookup(ids))
    assert cold.decode().tobytes() == mapped.decode().tobytes()
    with pytest.raises(saec.IdError, match=f"id {mapped.vocab_size} at position 1"):
        cold.lookup([0, mapped.vocab_size])
    with pytest.raises(saec.IdError, match="offsets must ascend"):
        cold.pool([0, 1], [0, 5])


def test_counts_by_hand(tmp_path: Path) -> None:
    """Row i takes pages i and i + 1, because the rows begin 256 bytes after a page does."""
    tables = pages_of_rows(tmp_path / "a.saec", 100, 16)
    tables["r"].lookup([3])
    assert counts(tables) == (0, 2, 1, 2)
    tables["r"].lookup([3])
    assert counts(tables) == (2, 2, 1, 2)
    tables["r"].lookup([4, 9])  # page 4 is there; 5, and 9 with 10, are not
    assert counts(tables) == (3, 5, 3, 5)
    found = tables.read_counts
    assert found is not None
    assert found.bytes_read == 5 * PAGE
    assert (found.memory_bytes, found.most_memory_bytes) == (
        12 * 101 + 5 * PAGE,
        12 * 101 + 16 * PAGE,
    )


def test_pages_that_are_used_often_stay(tmp_path: Path) -> None:
    tables = pages_of_rows(tmp_path / "a.saec", 100, 16)
    for _ in range(4):
        tables["r"].lookup([0])
    for row in range(20, 50, 2):  # 30 pages, twice as many as there is room for
        tables["r"].lookup([row])
    hits = counts(tables)[0]
    tables["r"].lookup([0])
    assert counts(tables)[0] == hits + 2
    tables["r"].lookup([20])
    assert counts(tables)[0] == hits + 2


def test_no_more_pages_than_the_limit(tmp_path: Path) -> None:
    tables = pages_of_rows(tmp_path / "a.saec", 100, 16)
    mapped = saec.load(tmp_path / "a.saec")
    assert np.array_equal(tables["r"].lookup(range(100)), mapped["r"].lookup(range(100)))
    found = tables.read_counts
    assert found is not None
    assert found.memory_bytes == found.most_memory_bytes == 12 * 101 + 16 * PAGE
    with pytest.raises(saec.BudgetError, match=r"'r'.*a single bag take more memory"):
        tables["r"].pool(range(100), [0])
    assert np.array_equal(tables["r"].pool(range(9), [0]), mapped["r"].pool(range(9), [0]))


def test_memory_of_the_process_stays_below_the_limit(tmp_path: Path) -> None:
    Compressed([raw("r", 600_000, 16, np.float32)]).save(tmp_path / "a.saec")
    tables = saec.load(tmp_path / "a.saec", memory="8MB")
    ids = np.arange(0, 600_000, 40)  # on each page
    starts = np.arange(0, len(ids), 20)
    tables["r"].pool(ids[:1000], starts[:50])  # what the process needs once, such as threads
    before = peak_memory.begin()
    for first in range(5):
        tables["r"].pool(ids + first, starts)
    assert peak_memory.grown_since(before) < 9e6  # a batch and the numbers of its pages included
    found = tables.read_counts
    assert found is not None
    assert 7.9e6 < found.memory_bytes <= 8e6
    assert found.bytes_read > 4 * 8e6


def test_threads_that_share_few_pages(path: Path, pair: tuple[Compressed, Compressed]) -> None:
    cold, mapped = saec.load(path, memory=MEMORY), pair[1]

    def check(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(10):
            ids = {name: rng.integers(0, mapped[name].vocab_size, 20) for name in mapped}
            assert np.array_equal(cold.lookup(ids, threads=1), mapped.lookup(ids, threads=1))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(check, range(12), timeout=100))


def test_fields_of_two_artifacts_in_either_order(tmp_path: Path) -> None:
    fields = []
    for name in ("a", "b"):
        Compressed([raw(name, 2000, 64, np.float32)]).save(tmp_path / name)
        fields.append(saec.load(tmp_path / name, memory=2000 + 16 * PAGE)[name])
    orders = Compressed(fields), Compressed(fields[::-1])
    mapped = [saec.load(tmp_path / name)[name].decode() for name in ("a", "b")]

    def check(seed: int) -> None:
        for ids in np.random.default_rng(seed).integers(0, 2000, (30, 30)):
            own = orders[seed % 2].lookup({"a": ids, "b": ids})
            assert np.array_equal(own, np.hstack([mapped[0][ids], mapped[1][ids]]))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(check, range(8), timeout=100))


def test_a_read_error_is_an_error_of_its_lookup(tmp_path: Path) -> None:
    tables = pages_of_rows(tmp_path / "a.saec", 100, 30)
    expected = saec.load(tmp_path / "a.saec")["r"].lookup([3, 50])
    tables["r"].lookup([3])
    memory = os.open("/proc/self/mem", os.O_RDONLY)  # at unmapped addresses, the kernel says EIO
    with replaced_descriptors(tmp_path / "a.saec", memory):
        with pytest.raises(saec.ArtifactError, match="'r' cannot be read: Input/output error"):
            tables["r"].lookup([3, 50])
        assert np.array_equal(tables["r"].lookup([3]), expected[:1])  # in memory
    os.close(memory)
    assert np.array_equal(tables["r"].lookup([3, 50]), expected)


def test_truncated_and_changed_files(tmp_path: Path) -> None:
    file = tmp_path / "a.saec"
    tables = pages_of_rows(file, 100, 30)
    first = tables["r"].lookup([3])
    os.truncate(file, 50 * PAGE)
    with pytest.raises(saec.ArtifactError, match="has become shorter since it was opened"):
        tables["r"].lookup([80])
    with pytest.raises(saec.ArtifactError, match="the file has changed since it was opened"):
        tables["r"].lookup([20])
    assert np.array_equal(tables["r"].lookup([3]), first)


def test_a_file_that_is_replaced_keeps_its_rows_and_one_written_to_does_not(tmp_path: Path) -> None:
    file, other = tmp_path / "a.saec", tmp_path / "b.saec"
    tables = pages_of_rows(file, 100, 30)
    expected = saec.load(file)["r"].lookup([80])
    Compressed([RawField("r", np.zeros((100, PAGE // 4), np.float32))]).save(other)
    kept = tmp_path / "c.saec"
    os.link(file, kept)
    other.replace(file)
    assert np.array_equal(tables["r"].lookup([80]), expected)
    os.utime(kept, ns=(0, 0))
    with pytest.raises(saec.ArtifactError, match="the file has changed"):
        tables["r"].lookup([20])


@pytest.mark.exhaustive
def test_forked_processes_are_told_to_open_it_again(tmp_path: Path) -> None:
    pages_of_rows(tmp_path / "a.saec", 100, 30)
    Compressed([raw("r", 150_000, 16, np.float32)]).save(tmp_path / "b.saec")  # single rows
    script = (
        "import os, sys, saec\n"
        "pages = saec.load(sys.argv[1], memory='1MB')\n"
        "rows = saec.load(sys.argv[2], memory='5MB')\n"
        "for tables in (pages, rows):\n"
        "    tables['r'].lookup(range(100))\n"
        "child = os.fork()\n"
        "for tables in (pages, rows):\n"
        "    try:\n"
        "        tables['r'].lookup([1])\n"
        "    except saec.ArtifactError as error:\n"
        "        print(error)\n"
        "if child:\n"
        "    sys.exit(os.waitpid(child, 0)[1])\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "a.saec", tmp_path / "b.saec"],
        capture_output=True,
        check=True,
        text=True,
        timeout=60,
    )
    told = "field 'r' cannot be read: the artifact was opened before this process was forked"
    assert said.stdout.count(told) == 2
    assert said.stderr == ""


@pytest.mark.exhaustive
def test_shards_bytes_and_streams(tmp_path: Path, pair: tuple[Compressed, Compressed]) -> None:
    mapped = pair[1]
    ids = {name: np.arange(mapped[name].vocab_size)[-200:] for name in mapped}
    expected = mapped.lookup(ids)
    save_in_shards(all_tables(), tmp_path / "s.saec", roles=("codes", "weights"))
    sharded = saec.load(tmp_path / "s.saec", memory=MEMORY)
    assert sharded.shard_count > 7
    assert np.array_equal(sharded.lookup(ids), expected)
    stream = io.BytesIO()
    mapped.save(stream)
    assert np.array_equal(saec.load(stream.getvalue(), memory=MEMORY).lookup(ids), expected)


def test_copies_hold_all_bytes(pair: tuple[Compressed, Compressed]) -> None:
    cold, mapped = pair
    copied = pickle.loads(pickle.dumps(cold))
    ids = {"narrow": [5], "kept": [6]}
    assert np.array_equal(copied.lookup(ids), mapped.lookup(ids))
    assert copied.read_counts is mapped.read_counts is None


def test_file_systems_without_direct_reads(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "O_DIRECT")
    cold = saec.load(path, memory=MEMORY)
    rows = saec.load(path)["narrow"].lookup([5, 29_000])
    assert np.array_equal(cold["narrow"].lookup([5, 29_000]), rows)


def test_limits_that_are_too_small_or_no_sizes(path: Path, tmp_path: Path) -> None:
    with pytest.raises(saec.BudgetError, match="at most 500000 bytes of memory are impossible"):
        saec.load(path, memory="500kB")
    with pytest.raises(saec.BudgetError, match="cannot read '2 gigs' as a size"):
        saec.load(path, memory="2 gigs")
    with pytest.raises(saec.ArtifactError, match="no such file"):
        saec.load(tmp_path / "none", memory="2GB")


def test_fields_with_keys_are_refused(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((300, 4)).astype(np.float32)
    field = saec.Field("words", rows, np.arange(300, 0, -1), keys=np.arange(300))
    saec.compress([field], saec.Ratio(4), progress=False).save(tmp_path / "a.saec")
    with pytest.raises(saec.BudgetError, match=r"field 'words' is stored as .*a limit of memory"):
        saec.load(tmp_path / "a.saec", memory="1GB")
