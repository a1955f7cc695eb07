"""Compressed fields: lookups and pooling against the decoded table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from saec.bits.packing import PackedCodes
from saec.errors import ArtifactError, FieldError, IdError
from saec.format import compressed_field as stored_field
from saec.format.clustered_field import ClusteredField
from saec.format.codebook import Codebook
from saec.format.compressed import Compressed
from saec.format.compressed_field import CompressedField
from saec.format.load import load
from saec.format.raw_field import RawField

# Centroids (1, 10), (2, 20), (3, 30); five features.
CODES = [2, 0, 1, 1, 0]
BOOK = np.array([[1, 10], [2, 20], [3, 30]], np.float32)
TABLE = BOOK[CODES]


def clustered(name: str = "user") -> ClusteredField:
    codes = PackedCodes.pack(np.array(CODES), 2)
    return ClusteredField(name, codes, Codebook.round(BOOK, "float32"), "float32")


def raw(dtype: object = np.float32, name: str = "item") -> RawField:
    return RawField(name, TABLE.astype(dtype))


FIELDS = [clustered(), raw(), raw(np.float16), raw(ml_dtypes.bfloat16)]
any_field = pytest.mark.parametrize("field", FIELDS, ids=lambda f: f"{f.codec}-{f.dtype}")


@any_field
def test_lookup_by_hand(field: CompressedField) -> None:
    rows = field.lookup([0, 2, 0])
    assert rows.dtype == np.float32
    assert rows.tolist() == [[3, 30], [2, 20], [3, 30]]


@any_field
def test_decode(field: CompressedField) -> None:
    assert field.decode().dtype == np.float32
    assert np.array_equal(field.decode(), TABLE)
    assert (field.vocab_size, field.dim) == (5, 2)


@any_field
def test_shapes_of_ids(field: CompressedField) -> None:
    assert field.lookup([]).shape == (0, 2)
    assert field.lookup(np.zeros((3, 0), np.int64)).shape == (3, 0, 2)
    assert np.array_equal(field.lookup(3), TABLE[3])
    ids = np.array([[0, 1, 4], [2, 2, 3]])
    for dtype in (np.int64, np.int32, np.uint8, np.uint64):
        assert np.array_equal(field.lookup(ids.astype(dtype)), TABLE[ids])
    assert np.array_equal(field.lookup(ids.T[::-1]), TABLE[ids.T[::-1]])


@any_field
@pytest.mark.parametrize("bad", [-1, 5, 2**40])
def test_id_out_of_range(field: CompressedField, bad: int) -> None:
    message = f"field {field.name!r}: id {bad} at position 2 is outside [0, 5)"
    with pytest.raises(IdError, match=re.escape(message)):
        field.lookup([0, 1, bad])
    with pytest.raises(IndexError, match=re.escape(message)):
        field.pool([0, 1, bad], [0])


@any_field
def test_lookups_are_copies(field: CompressedField) -> None:
    field.lookup([0])[:] = 99
    field.decode()[:] = 99
    assert np.array_equal(field.decode(), TABLE)


@pytest.mark.parametrize("block", [1, 2, 4, 5])
def test_decode_in_blocks(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_field, "_DECODE_ROWS", block)
    assert np.array_equal(clustered().decode(), TABLE)


@any_field
def test_pool_by_hand(field: CompressedField) -> None:
    ids, offsets = [0, 2, 4, 3], [0, 2, 2]  # bags (3, 2), none, (1, 2) in the first column
    assert field.pool(ids, offsets).tolist() == [[5, 50], [0, 0], [3, 30]]
    assert field.pool(ids, offsets, mode="mean").tolist() == [[2.5, 25], [0, 0], [1.5, 15]]
    assert field.pool(ids, offsets, mode="max").tolist() == [[3, 30], [0, 0], [2, 20]]
    weighted = field.pool(ids, offsets, per_sample_weights=[1, 0.5, -1, 2])
    assert weighted.tolist() == [[4, 40], [0, 0], [3, 30]]
    assert weighted.dtype == np.float32


def pooled_by_loops(
    rows: NDArray[np.float32], offsets: Sequence[int], mode: str
) -> NDArray[np.float32]:
    reduce = {"sum": np.sum, "mean": np.mean, "max": np.max}[mode]
    bags = np.split(rows, offsets[1:])
    return np.array([reduce(bag, axis=0) if len(bag) else np.zeros(2) for bag in bags], np.float32)


@given(
    lengths=st.lists(st.integers(0, 5), min_size=1, max_size=12),
    seed=st.integers(0, 2**32 - 1),
    mode=st.sampled_from(["sum", "mean", "max"]),
)
def test_pool_against_loops(lengths: list[int], seed: int, mode: stored_field.Mode) -> None:
    rng = np.random.default_rng(seed)
    ids = rng.integers(5, size=sum(lengths))
    offsets = np.cumsum([0, *lengths[:-1]])
    field = RawField("x", -TABLE)  # so that an empty bag's zeros are not the least
    expected = pooled_by_loops(-TABLE[ids], offsets.tolist(), mode)
    np.testing.assert_allclose(field.pool(ids, offsets, mode=mode), expected, rtol=1e-6)
    weights = rng.standard_normal(len(ids)).astype(np.float32)
    weighted = pooled_by_loops(-TABLE[ids] * weights[:, None], offsets.tolist(), "sum")
    found = field.pool(ids, offsets, weights)
    np.testing.assert_allclose(found, weighted, rtol=1e-5, atol=1e-4)


def test_no_bags_and_empty_bags() -> None:
    assert clustered().pool([], []).shape == (0, 2)
    for mode in ("sum", "mean", "max"):
        assert clustered().pool([], [0, 0, 0], mode=mode).tolist() == [[0, 0]] * 3


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([1, 2], "offsets must ascend from 0 to at most 3"),
        ([0, 2, 1], "offsets must ascend from 0 to at most 3"),
        ([0, 4], "offsets must ascend from 0 to at most 3"),
        ([-1, 2], "offsets must ascend from 0 to at most 3"),
        ([[0, 1]], "offsets must be a vector of integers"),
        ([0.0, 1.0], "offsets must be a vector of integers"),
        ([], "3 ids, but no bags"),
    ],
)
def test_bad_offsets(offsets: object, message: str) -> None:
    with pytest.raises(IdError, match=re.escape(f"field 'user': {message}")):
        clustered().pool([0, 1, 2], offsets)  # type: ignore[arg-type]


def test_bad_pooling_options() -> None:
    field = clustered()
    with pytest.raises(ValueError, match="mode is sum, mean or max, not 'median'"):
        field.pool([0], [0], mode="median")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="per_sample_weights go with mode 'sum', not 'mean'"):
        field.pool([0], [0], [1.0], mode="mean")
    message = re.escape("2 ids, but per_sample_weights of shape (3,)")
    with pytest.raises(ValueError, match=message):
        field.pool([0, 1], [0], [1.0, 2.0, 3.0])


def test_code_beyond_the_codebook() -> None:
    codes = PackedCodes.pack(np.array([0, 3, 1]), 2)
    field = ClusteredField("user", codes, Codebook.round(BOOK, "float32"), "float32")
    assert np.array_equal(field.lookup([0, 2]), BOOK[:2])
    message = "field 'user': row 1 has a code beyond the 3 centroids"
    with pytest.raises(ArtifactError, match=message):
        field.lookup([0, 1])
    with pytest.raises(ArtifactError, match=message):
        field.decode()


def test_sizes() -> None:
    field = clustered()
    assert field.nbytes == (2 + 7) + 6 * 4
    assert field.original_nbytes == 40
    assert raw(np.float16).nbytes == raw(np.float16).original_nbytes == 20
    both = Compressed([field, raw(np.float16)])
    assert both.original_nbytes == 60
    assert both.compression_ratio == 60 / both.nbytes
    assert repr(field) == "ClusteredField('user', 5 x 2, 33 bytes, ratio 1.2)"
    assert repr(both) == f"Compressed(2 fields, {both.nbytes} bytes, ratio {60 / both.nbytes:.1f})"


def test_mapping() -> None:
    user, item = clustered(), raw()
    both = Compressed([user, item])
    assert list(both) == ["user", "item"]
    assert both["item"] is item
    assert len(both) == 2
    assert "city" not in both
    with pytest.raises(KeyError, match="city"):
        both["city"]
    with pytest.raises(FieldError, match="field names are not unique"):
        Compressed([user, raw(name="user")])


def test_the_predicted_loss_increase_is_carried(tmp_path: Path) -> None:
    for loss in (None, 0, 2.5e-4, np.float64(1e300)):
        result = Compressed([clustered(), raw()], loss)
        result.save(tmp_path / "a.saec")
        loaded = load(tmp_path / "a.saec").predicted_loss_increase
        assert loaded == result.predicted_loss_increase == loss
        assert loaded is None or type(loaded) is float
        assert result.nbytes == (tmp_path / "a.saec").stat().st_size
    assert Compressed([clustered()]).predicted_loss_increase is None


@pytest.mark.parametrize("loss", [-1e-9, float("nan"), float("inf"), 10**400, True, "1", [1.0]])
def test_a_predicted_loss_increase_that_cannot_be(loss: float) -> None:
    message = "predicted_loss_increase is a finite number of at least 0, not "
    with pytest.raises(ArtifactError, match=message):
        Compressed([clustered()], loss)


def test_a_batch_of_several_fields() -> None:
    tables = Compressed([clustered(), raw(np.float16)])
    user, gender = (tables[name] for name in tables)
    ids = {gender.name: [0, 4, 4], user.name: np.array([1, 0, 3], np.int32)}
    rows = tables.lookup(ids)
    assert rows.shape == (3, gender.dim + user.dim)
    assert np.array_equal(rows[:, : gender.dim], gender.lookup([0, 4, 4]))
    assert np.array_equal(rows[:, gender.dim :], user.lookup([1, 0, 3]))
    assert tables.lookup(ids, dtype=np.float16).dtype == np.float16

    starts = {user.name: [0, 1], gender.name: [0, 0]}
    bags = tables.pool(ids, starts, mode="mean")
    assert np.array_equal(bags[:, : gender.dim], gender.pool([0, 4, 4], [0, 0], mode="mean"))
    assert np.array_equal(bags[:, gender.dim :], user.pool([1, 0, 3], [0, 1], mode="mean"))
    weighted = tables.pool(ids, starts, {user.name: [2, 0, 1]})
    assert np.array_equal(weighted[:, : gender.dim], gender.pool([0, 4, 4], [0, 0]))
    assert np.array_equal(weighted[:, gender.dim :], user.pool([1, 0, 3], [0, 1], [2, 0, 1]))


def test_bad_batches() -> None:
    tables = Compressed([clustered(), raw(np.float16)])
    one, two = tables
    with pytest.raises(
        FieldError, match=rf"as many rows in each field, not {{'{one}': 1, '{two}': 2}}"
    ):
        tables.lookup({one: [0], two: [0, 1]})
    with pytest.raises(FieldError, match=r"as many rows in each field, not \{\}"):
        tables.lookup({})
    with pytest.raises(FieldError, match="there is no field 'zip'; there are"):
        tables.lookup({"zip": [0]})
    with pytest.raises(
        FieldError, match=rf"field '{one}': ids have shape \(1, 1\), not \(batch,\)"
    ):
        tables.lookup({one: [[0]]})
    with pytest.raises(IdError, match=rf"field '{two}': id 9 at position 1 is outside"):
        tables.lookup({one: [0, 1], two: [0, 9]})
    with pytest.raises(FieldError, match=f"field '{two}' has no offsets, or no ids"):
        tables.pool({one: [0], two: [0]}, {one: [0]})
    with pytest.raises(FieldError, match=f"field '{two}' has no offsets, or no ids"):
        tables.pool({one: [0]}, {one: [0]}, {two: [1]})
    with pytest.raises(IdError, match=rf"field '{two}': offsets must ascend from 0 to at most 1"):
        tables.pool({one: [0], two: [0]}, {one: [0], two: [1]})
