"""Arguments and results of lookup and pool: types of ids and rows, threads, batches, errors."""

from __future__ import annotations

import os
import re
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from saec.bits.packing import PackedCodes, whole_ids
from saec.errors import ArtifactError, IdError
from saec.format.bags import Bags, bags_of
from saec.format.clustered_field import ClusteredField
from saec.format.codebook import Codebook
from saec.format.compressed import Compressed
from saec.format.compressed_field import CompressedField
from saec.format.load import load
from saec.format.native_lookup import RowRun, gather, run_table, tier_table
from saec.format.raw_field import RawField
from saec.format.tier_index import TierIndex
from saec.format.tier_layout import Layout
from saec.format.tiered_field import TieredField

VOCAB = 3000
OUTPUTS = [np.dtype(d) for d in (np.float32, np.float16, ml_dtypes.bfloat16)]


def clustered(clusters: int, rank: int, dim: int) -> ClusteredField:
    """Centroids in int8, by the axes if rank is below dim."""
    rng = np.random.default_rng(clusters)
    codes = PackedCodes.pack(rng.integers(0, clusters, VOCAB), (clusters - 1).bit_length())
    stored = rng.integers(-127, 128, (clusters, rank)).astype(np.int8)
    grid = rng.standard_normal((2, rank)).astype(np.float32)
    axes = rng.standard_normal((rank + 1, dim)).astype(np.float16) if rank < dim else None
    return ClusteredField(f"c{clusters}", codes, Codebook(stored, grid, axes), "float32")


def tiered(shuffled: bool) -> TieredField:
    layout = Layout.parse(VOCAB, ["4 3j2 2", "4 3", "2j2 - 3g", "3"])
    rng = np.random.default_rng(7)
    codes = rng.integers(0, 256, layout.code_bytes, dtype=np.uint8)
    values = rng.standard_normal(layout.value_count).astype(np.float16)
    axes = rng.standard_normal((layout.rank + 1, 12)).astype(np.float16)
    tiers = rng.permutation(np.repeat(np.arange(4), np.diff(layout.bounds)))
    index = TierIndex.of(tiers) if shuffled else None
    return TieredField(f"t{shuffled}", layout, codes, values, axes, index, "float32")


def raw(dtype: Any) -> RawField:
    weights = np.random.default_rng(3).standard_normal((VOCAB, 9)).astype(dtype)
    return RawField(f"r-{weights.dtype}", weights)


# Decoded codebooks of less than 512 KiB, larger ones as they are stored; all kinds of tables.
FIELDS: list[CompressedField] = [
    *map(raw, OUTPUTS),
    clustered(50, 12, 12),
    clustered(300, 5, 12),
    clustered(9000, 16, 16),
    clustered(9001, 5, 24),
    tiered(False),
    tiered(True),
]
any_field = pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
any_output = pytest.mark.parametrize("dtype", OUTPUTS, ids=str)


def some_ids(count: int, seed: int = 0) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, VOCAB, count)


def test_a_codebook_read_as_it_is_stored() -> None:
    # What the native core computes from int8 is what the codebook says, to the last bit.
    for field in FIELDS[3:7]:
        assert isinstance(field, ClusteredField)
        codes = field.codes.unpack()
        assert field.decode().tobytes() == field.codebook.values[codes].tobytes()
    near, far = FIELDS[3].lookup_table, FIELDS[5].lookup_table
    assert (near.stored_rows, far.stored_rows) == (50, 9000)


@any_field
def test_decode_is_all_rows(field: CompressedField) -> None:
    table = field.decode()
    assert table.shape == (VOCAB, field.dim)
    assert field.lookup(np.arange(VOCAB)).tobytes() == table.tobytes()
    ids = some_ids(1000)
    assert field.lookup(ids).tobytes() == table[ids].tobytes()


@any_field
@any_output
def test_types_of_rows(field: CompressedField, dtype: np.dtype[Any]) -> None:
    ids = some_ids(500).reshape(5, 100)
    rows = field.lookup(ids, dtype=dtype)
    assert rows.dtype == dtype
    assert rows.shape == (5, 100, field.dim)
    assert rows.tobytes() == field.lookup(ids).astype(dtype).tobytes()
    offsets = np.arange(0, 500, 9)
    sums = field.pool(ids, offsets, dtype=dtype)
    assert sums.dtype == dtype
    assert sums.tobytes() == field.pool(ids, offsets).astype(dtype).tobytes()


def test_rows_of_another_type() -> None:
    for dtype in (np.float64, np.int8, np.int32):
        message = f"rows are float32, float16 or bfloat16, not {np.dtype(dtype)}"
        with pytest.raises(ValueError, match=message):
            FIELDS[0].lookup([0], dtype=dtype)
        with pytest.raises(ValueError, match=message):
            FIELDS[0].pool([0], [0], dtype=dtype)


def off_by_a_byte(ids: NDArray[Any]) -> NDArray[Any]:
    buffer = np.zeros(ids.nbytes + 1, np.uint8)
    buffer[1:] = ids.view(np.uint8)
    return buffer[1:].view(ids.dtype)


@any_field
def test_types_of_ids(field: CompressedField) -> None:
    ids = some_ids(300)
    table = field.decode()
    for dtype in ("i4", "i8", "u2", "i2", "u4", "u8", ">i4", ">i8"):
        given = ids.astype(dtype)
        for same in (given, np.repeat(given, 2)[::2], off_by_a_byte(given)):
            assert np.array_equal(field.lookup(same), table[ids])
            assert np.array_equal(field.pool(same, np.arange(300)), field.pool(ids, np.arange(300)))
    small = np.array([3, 200, 255], np.uint8)
    assert np.array_equal(field.lookup(small), table[small])
    assert np.array_equal(field.lookup(ids.tolist()), table[ids])
    assert field.lookup(np.int32(5)).shape == (field.dim,)
    assert np.array_equal(field.lookup(5), table[5])
    assert np.array_equal(field.lookup(ids.reshape(3, 100).T), table[ids.reshape(3, 100).T])


def test_ids_are_read_in_place() -> None:
    for dtype in (np.int32, np.int64):
        ids = np.arange(10, dtype=dtype)
        assert np.shares_memory(whole_ids(ids, "x"), ids)
        ids.flags.writeable = False
        assert FIELDS[0].lookup(ids).shape == (10, 9)


@pytest.mark.parametrize("ids", [[0.5], ["1"], [True], np.zeros(1, np.float32)], ids=repr)
def test_invalid_ids_are_refused(ids: Any) -> None:
    for call in (FIELDS[0].lookup, lambda ids: FIELDS[0].pool(ids, [0])):
        with pytest.raises(IdError, match="field 'r-float32': ids must be integers, not "):
            call(ids)


@any_field
@pytest.mark.parametrize("bad", [-1, VOCAB, 2**31 - 1, -(2**31), 2**62, -(2**63)])
def test_ids_out_of_range(field: CompressedField, bad: int) -> None:
    for position in (0, 63, 64, 700, 999):
        for dtype in (np.int64, np.int32):
            if not np.iinfo(dtype).min <= bad <= np.iinfo(dtype).max:
                continue
            ids = some_ids(1000).astype(dtype)
            ids[position] = bad
            message = f"{field.place}: id {bad} at position {position} is outside [0, {VOCAB})"
            with pytest.raises(IdError, match=re.escape(message)):
                field.lookup(ids)
            with pytest.raises(IdError, match=re.escape(message)):
                field.pool(ids, np.arange(0, 1000, 7), dtype=np.float16)


def test_ids_too_large_to_be_one() -> None:
    message = f"field 'r-float32': id {2**63} is too large for any table"
    with pytest.raises(IdError, match=re.escape(message)):
        FIELDS[0].lookup(np.array([1, 2**63], np.uint64))


@any_field
@pytest.mark.parametrize("threads", [0, 1, 2, 5])
def test_threads_change_nothing(field: CompressedField, threads: int) -> None:
    ids = some_ids(40_000)
    one = field.lookup(ids, threads=1)
    assert field.lookup(ids, threads=threads).tobytes() == one.tobytes()
    offsets = np.sort(np.random.default_rng(0).integers(0, len(ids), 3000))
    offsets[0] = 0
    pooled = field.pool(ids, offsets, threads=1)
    assert field.pool(ids, offsets, threads=threads).tobytes() == pooled.tobytes()


@given(
    number=st.integers(0, len(FIELDS) - 1),
    lengths=st.lists(st.integers(0, 200), min_size=1, max_size=9),
    seed=st.integers(0, 2**32 - 1),
    mode=st.sampled_from(["sum", "mean", "max"]),
)
def test_bags_against_numpy(number: int, lengths: list[int], seed: int, mode: Any) -> None:
    field, rng = FIELDS[number], np.random.default_rng(seed)
    ids, offsets = some_ids(sum(lengths), seed), np.cumsum([0, *lengths[:-1]])
    rows = np.split(field.decode()[ids].astype(np.float64), offsets[1:])
    reduce = {"sum": np.sum, "mean": np.mean, "max": np.max}[mode]
    wanted = [reduce(bag, axis=0) if len(bag) else np.zeros(field.dim) for bag in rows]
    found = field.pool(ids.astype(np.int32), offsets, mode=mode)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=2e-3)
    weights = rng.standard_normal(len(ids))
    parts = np.split(weights, offsets[1:])
    wanted = [factors @ bag for factors, bag in zip(parts, rows, strict=True)]
    np.testing.assert_allclose(field.pool(ids, offsets, weights), wanted, rtol=1e-4, atol=2e-3)


def test_types_of_offsets_and_weights() -> None:
    field, ids = FIELDS[4], some_ids(12)
    expected = field.pool(ids, [0, 3, 3, 7], np.arange(12, dtype=np.float32))
    for dtype in ("i4", "u1", "u8", ">i8"):
        offsets = np.array([0, 9, 3, 9, 3, 9, 7, 9], dtype)[::2]
        for weights in (np.arange(12), np.arange(12.0), np.arange(24.0, dtype=np.float32)[::2] / 2):
            assert np.array_equal(field.pool(ids, offsets, weights), expected)
    assert np.array_equal(field.pool(ids, (0, 3, 3, 7), [*range(12)]), expected)


def test_several_fields_in_one_call() -> None:
    dims = [field.dim for field in FIELDS]
    offsets = np.array([0, 0, 5, 300])
    bags = [bags_of(some_ids(400, i), offsets, None, "mean", "x") for i in range(len(FIELDS))]
    tables = [field.lookup_table for field in FIELDS]
    places = [field.place for field in FIELDS]
    for dtype in OUTPUTS:
        out = np.empty((4, sum(dims)), dtype)
        gather(tables, bags, places, out)
        alone = [
            field.pool(bag.ids, offsets, mode="mean", dtype=dtype)
            for field, bag in zip(FIELDS, bags, strict=True)
        ]
        assert np.array_equal(out, np.concatenate(alone, axis=1))


def test_the_field_that_failed_is_named() -> None:
    tables = [field.lookup_table for field in FIELDS]
    places = [field.place for field in FIELDS]
    for number, field in enumerate(FIELDS):
        bags = [Bags(some_ids(100, i)) for i in range(len(FIELDS))]
        bags[number].ids[70] = VOCAB
        out = np.empty((100, sum(field.dim for field in FIELDS)), np.float32)
        message = f"{field.place}: id {VOCAB} at position 70 is outside [0, {VOCAB})"
        with pytest.raises(IdError, match=re.escape(message)):
            gather(tables, bags, places, out)


def test_pads_by_hand() -> None:
    stored = np.array([[1, 2], [3, 4]], np.float32)
    table = run_table(
        3, [RowRun(0, 1, 0, 0)], np.array([0b010, *[0] * 7], np.uint8), stored, pads={2: 1}
    )
    out = np.empty((3, 2), np.float32)
    gather([table], [Bags(np.arange(3))], ["x"], out)
    assert out.tolist() == [[1, 2], [3, 4], [3, 4]]
    layout = Layout.parse(2, ["1"])
    codes, values = np.array([0b10, *[0] * 7], np.uint8), np.array([1, 5], np.float32)
    axes, pad = np.array([[1, 0], [0, 9]], np.float32), np.array([7, 8], np.float32)
    table = tier_table(layout, codes, values, axes, None, {0: pad})
    gather([table], [Bags(np.arange(2))], ["x"], out[:2])
    assert out[:2].tolist() == [[7, 8], [5, 9]]


def test_damaged_fields_are_refused() -> None:
    codes = PackedCodes.pack(np.array([0, 3, 1]), 2)
    book = Codebook.round(np.ones((3, 2), np.float32), "float32")
    field = ClusteredField("user", codes, book, "float32")
    message = "field 'user': row 1 has a code beyond the 3 centroids"
    for call in (lambda: field.lookup([0, 2, 1]), lambda: field.pool([1], [0]), field.decode):
        with pytest.raises(ArtifactError, match=message):
            call()
    whole = tiered(True)
    assert whole.index is not None
    nowhere = TierIndex(np.full_like(whole.index.data, 0xFF), VOCAB, whole.index.tiers)
    layout, values = whole.layout, whole.values
    field = TieredField("city", layout, whole.codes, values, whole.axes, nowhere, "float32")
    with pytest.raises(ArtifactError, match="field 'city': the tier index contradicts itself"):
        field.lookup([5])


def test_tables_outlive_their_sources(tmp_path: Path) -> None:
    Compressed(FIELDS).save(tmp_path / "all.saec")
    expected = [field.lookup(some_ids(100)) for field in FIELDS]
    tables = [field.lookup_table for field in load(tmp_path / "all.saec").values()]
    for table, rows in zip(tables, expected, strict=True):
        out = np.empty_like(rows)
        gather([table], [Bags(some_ids(100))], ["x"], out)
        assert np.array_equal(out, rows)


def test_a_forked_child_has_threads_of_its_own() -> None:
    field, ids = tiered(False), some_ids(50_000)
    expected = field.lookup(ids, threads=2)  # the parent's threads are there now
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of such forks
        child = os.fork()
    if child == 0:
        same = np.array_equal(field.lookup(ids, threads=2), expected)
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_concurrent_calls_get_their_own_rows() -> None:
    field = tiered(False)
    batches = [some_ids(40_000, seed) for seed in range(8)]
    expected = [field.lookup(ids, threads=1) for ids in batches]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            found = pool.map(lambda ids: field.lookup(ids, threads=2), batches)
            for rows, wanted in zip(found, expected, strict=True):
                assert np.array_equal(rows, wanted)
