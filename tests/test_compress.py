"""Compression to a budget: the size, the allocation, and independence of order and threads."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from saec import (
    BitsPerFeature,
    Budget,
    BudgetError,
    Clusters,
    Compressed,
    Field,
    FieldError,
    MaxBytes,
    Ratio,
    compress,
    load,
    measure,
)
from saec.compression.plan import Priced
from saec.compression.run import compress_priced
from saec.format.clustered_field import ClusteredField
from saec.format.raw_field import RawField


def zipf(count: int) -> NDArray[np.float64]:
    return np.ceil(5000 / np.arange(1, count + 1))


def grouped(
    rng: np.random.Generator, count: int, dim: int, groups: int = 40
) -> NDArray[np.float32]:
    """Rows around planted centroids."""
    centroids = rng.standard_normal((groups, dim))
    rows = centroids[rng.integers(groups, size=count)] + 0.3 * rng.standard_normal((count, dim))
    return rows.astype(np.float32)


def make_fields() -> list[Field]:
    rng = np.random.default_rng(0)
    return [
        Field("user", grouped(rng, 1500, 8), zipf(1500)),
        Field("item", grouped(rng, 600, 4).astype(np.float16), zipf(600)[::-1]),
        Field("gender", grouped(rng, 3, 8), [7, 5, 0]),
        Field("bias", grouped(rng, 200, 1), zipf(200)),
        Field("always", grouped(rng, 1, 4), [9]),
    ]


FIELDS = make_fields()
ORIGINAL = sum(field.nbytes for field in FIELDS)
FEATURES = sum(field.vocab_size for field in FIELDS)


def run(
    budget: Budget | None = None,
    codec: Clusters | None = None,
    fields: Sequence[Field] = FIELDS,
    seed: int = 0,
) -> Compressed:
    return compress(fields, budget, codec, seed=seed, progress=False)


@cache
def measured(codec: Clusters | None) -> Priced:
    """The usual fields, measured once for all budgets."""
    return measure(FIELDS, codec, progress=False)


def spend(budget: Budget, codec: Clusters | None = None) -> Compressed:
    """The usual fields within a budget; test_the_seed_decides compares this with :func:`run`."""
    return compress(measured(codec), budget)


@cache
def at_ratio(ratio: float) -> Compressed:
    """The usual fields; used by several tests."""
    return spend(Ratio(ratio))


def distortion(result: Compressed, fields: Sequence[Field] = FIELDS) -> float:
    total = 0.0
    for field in fields:
        lost = result[field.name].decode().astype(np.float64) - field.weights.astype(np.float64)
        total += float((lost**2).sum(axis=1) @ field.frequencies)
    return total


def same(a: Compressed, b: Compressed) -> bool:
    return set(a) == set(b) and all(
        a[name].description == b[name].description
        and all(np.array_equal(a[name].tensors[r], t) for r, t in b[name].tensors.items())
        for name in a
    )


@pytest.mark.parametrize(
    "budget",
    [Ratio(4), Ratio(10), Ratio(18), MaxBytes("9kB"), BitsPerFeature(30), BitsPerFeature(16.5)],
    ids=str,
)
def test_budget_is_kept_and_spent(budget: Budget, tmp_path: Path) -> None:
    result = spend(budget)
    limit = budget.max_bytes(ORIGINAL, FEATURES)
    result.save(tmp_path / "a.saec")
    assert (tmp_path / "a.saec").stat().st_size == result.nbytes
    assert 0.85 * limit <= result.nbytes <= limit
    assert result.original_nbytes == ORIGINAL
    assert list(result) == [field.name for field in FIELDS]
    assert same(load(tmp_path / "a.saec"), result)


@pytest.mark.parametrize(
    ("budget", "codec"),
    [
        (Ratio(500), Clusters()),
        (MaxBytes(100), Clusters(clusters=100)),
        (BitsPerFeature(0.1), Clusters(clusters=0.2)),
    ],
    ids=str,
)
def test_smallest_possible_budget(budget: Budget, codec: Clusters) -> None:
    limit = budget.max_bytes(ORIGINAL, FEATURES)
    message = re.escape(f"{budget} allows {limit} bytes; the smallest possible is ")
    with pytest.raises(BudgetError, match=message + r"\d+ bytes, ratio") as caught:
        spend(budget, codec)
    found = re.search(r"possible is (\d+) bytes, ratio (\S+)", str(caught.value))
    assert found is not None
    smallest = int(found[1])
    assert float(found[2]) == pytest.approx(ORIGINAL / smallest, abs=0.05)
    assert spend(MaxBytes(smallest), codec).nbytes <= smallest
    with pytest.raises(BudgetError, match=f"the smallest possible is {smallest} bytes"):
        spend(MaxBytes(smallest - 1), codec)


def test_more_budget_loses_less() -> None:
    lost = [distortion(at_ratio(ratio)) for ratio in (18, 12, 6, 1.5)]
    for less, more in pairwise(lost):
        # The curve is an estimate, so that small steps may go wrong a little.
        assert more < 1.02 * less
    assert lost[-1] < 0.05 * lost[0]


def test_nothing_fits_between_a_byte_per_value_and_the_table() -> None:
    # All rows as int8 centroids take a third; the tables and a header more than their bytes.
    result = at_ratio(1.5)
    assert 2 < result.compression_ratio < 4
    whole = spend(MaxBytes(ORIGINAL + 1200))
    assert whole.nbytes > ORIGINAL
    assert distortion(whole) == 0


def test_shared_bytes_count_once() -> None:
    # One cluster a field, whose size is known beforehand.
    fields = [Field(f"f{i}", np.full((800, 4), i, np.float32), np.ones(800)) for i in range(30)]
    codec = Clusters(clusters=1)
    smallest = run(codec=codec, fields=fields)
    with pytest.raises(BudgetError, match=f"smallest possible is {smallest.nbytes} bytes"):
        run(MaxBytes(smallest.nbytes - 1), codec, fields)
    assert same(run(MaxBytes(smallest.nbytes), codec, fields), smallest)


@pytest.mark.exhaustive(keep=1)
@pytest.mark.parametrize("in_nats", [False, True])
def test_every_budget_is_kept_and_most_are_spent(in_nats: bool) -> None:
    rng = np.random.default_rng(4)
    fields = [
        Field(f"f{i}", grouped(rng, count, 8), zipf(count))
        for i, count in enumerate(rng.integers(2, 700, size=8).tolist())
    ]
    metrics = {field.name: np.eye(8) for field in fields} if in_nats else None
    priced = Priced.of(fields, None, metrics, seed=3, progress=False)
    original = sum(field.nbytes for field in fields)
    unspent = []
    for limit in np.geomspace(0.1 * original, 1.05 * original, 15).astype(int).tolist():
        nbytes = compress_priced(priced, MaxBytes(limit)).nbytes
        assert nbytes <= limit
        unspent.append((limit - nbytes) / limit)
    assert np.median(unspent) < 0.01


def test_bits_go_where_they_lower_the_distortion() -> None:
    rng = np.random.default_rng(1)
    rows = grouped(rng, 1000, 8)
    wide = Field("wide", rows, np.ones(1000))
    narrow = Field("narrow", rows / 100, np.ones(1000))
    seldom = Field("seldom", rows, np.full(1000, 1e-4))
    result = run(Ratio(15), fields=[wide, narrow, seldom])
    for other in ("narrow", "seldom"):
        assert result["wide"].nbytes > 2 * result[other].nbytes


def test_allocation_beats_a_share_of_the_rows_for_all() -> None:
    fixed = run(codec=Clusters(clusters=0.03))
    allocated = run(MaxBytes(fixed.nbytes), codec=Clusters())
    assert distortion(allocated) < distortion(fixed)


def test_fields_that_would_not_get_smaller_stay() -> None:
    result = run(codec=Clusters(clusters=50))
    for name in ("gender", "always"):
        assert isinstance(result[name], RawField)
    assert np.array_equal(result["gender"].decode(), FIELDS[2].weights)
    assert isinstance(result["user"], ClusteredField)
    assert result["user"].codebook.clusters == 50


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_raw_fields_keep_their_dtype(dtype: object, tmp_path: Path) -> None:
    field = Field("x", np.array([[1.5, -2], [3, 0.25]]).astype(dtype), [1, 1])
    run(codec=Clusters(clusters=2), fields=[field]).save(tmp_path / "a.saec")
    kept = load(tmp_path / "a.saec")["x"]
    assert isinstance(kept, RawField)
    assert kept.dtype == np.dtype(dtype).name
    assert kept.nbytes == field.nbytes
    assert kept.decode().tolist() == [[1.5, -2], [3, 0.25]]


def test_order_of_fields_does_not_matter() -> None:
    forward, backward = at_ratio(12), run(Ratio(12), fields=FIELDS[::-1])
    assert list(backward) == [field.name for field in FIELDS[::-1]]
    assert same(forward, backward)


def test_other_fields_do_not_matter() -> None:
    codec = Clusters(clusters=30)
    alone = run(codec=codec, fields=FIELDS[:1])
    together = run(codec=codec)
    assert np.array_equal(alone["user"].decode(), together["user"].decode())


def test_the_seed_decides() -> None:
    assert same(run(Ratio(12)), at_ratio(12))
    assert not same(run(Ratio(12), seed=1), at_ratio(12))


def test_strides_and_maps_equal_the_array(tmp_path: Path) -> None:
    rows, frequencies = FIELDS[0].weights[:400], FIELDS[0].frequencies[:400]
    np.save(tmp_path / "rows.npy", rows)
    spaced = np.zeros((800, 16), np.float32)
    spaced[::-2, ::2] = rows
    expected = run(Ratio(8), fields=[Field("user", rows, frequencies)])
    for other in (
        np.asfortranarray(rows),
        spaced[::-2, ::2],
        np.load(tmp_path / "rows.npy", mmap_mode="r"),
    ):
        field = Field("user", other, frequencies)
        assert same(run(Ratio(8), fields=[field]), expected)


def test_inputs_are_not_changed() -> None:
    fields = make_fields()
    run(Ratio(12), fields=fields)
    for field, fresh in zip(fields, make_fields(), strict=True):
        assert np.array_equal(field.weights, fresh.weights)
        assert np.array_equal(field.frequencies, fresh.frequencies)


SAVE = """
import sys
import numpy as np
import saec

rng = np.random.default_rng(0)
rows = rng.standard_normal((40_000, 16)).astype(np.float32)  # enough for a second thread to join
field = saec.Field("x", rows, np.ceil(1e5 / np.arange(1, 40_001)))
codec = saec.Clusters(clusters=300, iterations=3)
saec.compress([field], codec=codec, progress=False).save(sys.argv[1])
"""


@pytest.mark.exhaustive
def test_number_of_threads_does_not_matter(tmp_path: Path) -> None:
    for threads in ("1", "2"):
        environment = os.environ | {"OMP_NUM_THREADS": threads}
        command = [sys.executable, "-c", SAVE, str(tmp_path / threads)]
        subprocess.run(command, env=environment, check=True)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


@pytest.mark.parametrize(("count", "dim"), [(1, 1), (2, 1), (300, 1), (1, 512)])
def test_narrow_wide_and_short_tables(count: int, dim: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(dim)
    field = Field("x", grouped(rng, count, dim), zipf(count))
    room = MaxBytes(field.nbytes + 1000)
    assert np.array_equal(run(room, fields=[field])["x"].decode(), field.weights)
    fixed = run(codec=Clusters(clusters=2), fields=[field])
    fixed.save(tmp_path / "a.saec")
    assert load(tmp_path / "a.saec")["x"].decode().shape == (count, dim)
    assert fixed["x"].nbytes <= field.nbytes


def test_wide_table() -> None:
    field = Field("x", grouped(np.random.default_rng(0), 300, 512, 4), zipf(300))
    decoded = run(codec=Clusters(clusters=16), fields=[field])["x"].decode()
    # Rows lie 0.3 around four centroids in every direction.
    assert ((decoded - field.weights) ** 2).mean() == pytest.approx(0.09, rel=0.1)


def test_equal_rows_take_one_bit_each() -> None:
    field = Field("x", np.full((8000, 4), 2.5, np.float32), np.ones(8000))
    result = run(Ratio(50), fields=[field])
    assert np.array_equal(result["x"].decode(), field.weights)
    assert result["x"].nbytes < 1000 + 7 + 4 * 4 + 8 * 4 + 1


@pytest.mark.parametrize("name", ["x" * 5000, '\u4e2d\u6587\n"\\', "\U0001f600"])
def test_names_of_any_length_are_in_the_budget(name: str, tmp_path: Path) -> None:
    field = Field(name, FIELDS[0].weights, FIELDS[0].frequencies)
    limit = 12_000
    result = run(MaxBytes(limit), fields=[field])
    result.save(tmp_path / "a.saec")
    assert (tmp_path / "a.saec").stat().st_size == result.nbytes <= limit
    assert list(load(tmp_path / "a.saec")) == [name]


@pytest.mark.exhaustive
def test_many_fields(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    fields = [Field(f"f{i}", grouped(rng, 80, 2), zipf(80)) for i in range(50)]
    limit = 50 * 500
    result = run(MaxBytes(limit), fields=fields)
    result.save(tmp_path / "a.saec")
    assert (tmp_path / "a.saec").stat().st_size == result.nbytes <= limit
    assert list(load(tmp_path / "a.saec")) == [field.name for field in fields]


@given(data=st.data())
def test_any_tables(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    fields = []
    for place in range(data.draw(st.integers(1, 3))):
        count, dim = data.draw(st.integers(1, 120)), data.draw(st.integers(1, 9))
        dtype = data.draw(st.sampled_from([np.float32, np.float16, ml_dtypes.bfloat16]))
        rows = rng.integers(-3, 4, (count, dim)).astype(np.float32)
        frequencies = rng.integers(0, 5, count)
        frequencies[rng.integers(count)] = 1
        fields.append(Field(f"f{place}", rows.astype(dtype), frequencies))
    codec = Clusters(codebook=data.draw(st.sampled_from(["float32", "float16", "int8"])))
    size = data.draw(st.integers(1, 3000))
    logging.disable(logging.WARNING)  # few different rows
    try:
        result = run(MaxBytes(size), codec, fields)
    except BudgetError as error:
        found = re.search(r"smallest possible is (\d+)", str(error))
        assert found is not None
        size = int(found[1])
        result = run(MaxBytes(size), codec, fields)
    finally:
        logging.disable(logging.NOTSET)
    path = tmp_path_factory.getbasetemp() / "any.saec"
    result.save(path)
    assert path.stat().st_size == result.nbytes <= size
    assert same(load(path), result)
    for field in fields:
        assert np.isfinite(result[field.name].decode()).all()


def test_invalid_arguments_are_refused() -> None:
    with pytest.raises(BudgetError, match="does not fix the number of clusters needs a budget"):
        run(fields=FIELDS[:1])
    with pytest.raises(FieldError, match="no fields were given"):
        run(Ratio(2), fields=[])
    with pytest.raises(FieldError, match="two fields are named 'user'"):
        run(Ratio(2), fields=[FIELDS[0], FIELDS[0]])
