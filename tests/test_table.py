"""Field: what it accepts unchanged, and what it refuses by name."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saec.codecs.moments_and_samples import moments_of
from saec.errors import FieldError
from saec.streaming.map_reduce import LocalPasses
from saec.streaming.rows import FileRows
from saec.tables import field as table
from saec.tables.field import Field, check_fields

DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16]


def weights(rows: int = 3, dim: int = 2, dtype: object = np.float32) -> np.ndarray:
    return np.arange(rows * dim, dtype=np.float32).reshape(rows, dim).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sizes(dtype: object) -> None:
    field = Field("user", weights(3, 2, dtype), [1, 2, 3])
    assert (field.vocab_size, field.dim) == (3, 2)
    assert field.nbytes == 6 * np.dtype(dtype).itemsize
    assert repr(field) == f"Field('user', 3 x 2 {np.dtype(dtype)})"


@pytest.mark.parametrize(
    "frequencies",
    [
        [1, 0, 3],
        (1.0, 0.0, 3.0),
        np.array([1, 0, 3], np.uint8),
        np.array([1, 0, 3], np.int64),
        np.array([1, 0, 3], np.float16),
        np.array([1, 0, 3], ml_dtypes.bfloat16),
    ],
)
def test_frequencies_become_float64(frequencies: object) -> None:
    field = Field("user", weights(), frequencies)
    assert field.frequencies.dtype == np.float64
    assert field.frequencies.tolist() == [1.0, 0.0, 3.0]


def test_inputs_are_neither_copied_nor_changed() -> None:
    array, counts = weights(), np.array([1, 2, 3])
    field = Field("user", array, counts)
    assert field.weights is array
    assert np.array_equal(array, weights())
    assert counts.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    "array",
    [
        weights(6, 4)[::2, ::-2],
        np.asfortranarray(weights()),
        np.broadcast_to(np.float32([1, 2]), (3, 2)),
        weights(1, 1),
        weights(2, 512),
    ],
    ids=["strided", "fortran", "broadcast", "1x1", "dim512"],
)
def test_any_strides_and_sizes(array: np.ndarray) -> None:
    field = Field("user", array, np.ones(len(array)))
    assert field.weights is array
    assert field.nbytes == array.size * 4


def test_memory_map_stays_a_map(tmp_path: Path) -> None:
    np.save(tmp_path / "user.npy", weights())
    field = Field("user", np.load(tmp_path / "user.npy", mmap_mode="r"), [1, 2, 3])
    assert isinstance(field.weights, np.memmap)


@pytest.mark.parametrize("name", ["", None, 3])
def test_bad_names(name: object) -> None:
    with pytest.raises(FieldError, match=f"name must be a string that is not empty, not {name!r}"):
        Field(name, weights(), [1, 2, 3])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        ([[1.0, 2.0]], "weights must be a numpy array or memory map, not list"),
        (weights().astype(np.float64), "weights are float64; allowed are float32, float16, bfloat"),
        (weights().astype(np.int32), "weights are int32; allowed"),
        (weights().astype(">f4"), "weights are >f4; allowed"),
        (weights()[0], "weights must have 2 dimensions, not 1"),
        (weights()[None], "weights must have 2 dimensions, not 3"),
        (weights()[:0], "weights are 0 x 2, an empty table"),
        (weights()[:, :0], "weights are 3 x 0, an empty table"),
    ],
)
def test_bad_weights(array: object, message: str) -> None:
    with pytest.raises(FieldError, match=f"field 'user': {message}"):
        Field("user", array, [1, 2, 3])  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_value_that_is_not_finite_is_named(dtype: object, bad: float) -> None:
    array = weights(3, 2, dtype)
    array[1, 1] = bad
    array[2, 0] = np.nan
    with pytest.raises(FieldError, match=f"field 'user': weights hold {bad} at row 1, column 1"):
        Field("user", array, [1, 2, 3])


@given(rows=st.integers(7, 20), place=st.integers(0, 19), order=st.sampled_from("CF"))
def test_every_block_is_checked(rows: int, place: int, order: str) -> None:
    # Blocks of 3 rows: at least three blocks, the last one often ragged.
    place %= rows
    array = np.array(weights(rows), order=order)  # type: ignore[call-overload]
    array[place, 0] = np.inf
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, "BLOCK_VALUES", 6)
        with pytest.raises(FieldError, match=f"row {place},"):
            Field("user", array, np.ones(rows))


@pytest.mark.parametrize(
    ("frequencies", "message"),
    [
        ([1, 2], "weights have 3 rows, frequencies 2"),
        ([[1, 2, 3]], "frequencies must have 1 dimension, not 2"),
        ([1, -2, -3], "the frequency of id 1 is -2.0; it must be finite and not negative"),
        ([1, 2, np.nan], "the frequency of id 2 is nan"),
        ([np.inf, 2, 3], "the frequency of id 0 is inf"),
        ([0, 0, 0], "all 3 frequencies are zero"),
        ([1j, 2, 3], "frequencies are complex128, not real numbers"),
        (["a", "b", "c"], "frequencies are <U1, not real numbers"),
        ([1, None, 3], "frequencies are object, not real numbers"),
    ],
)
def test_bad_frequencies(frequencies: object, message: str) -> None:
    with pytest.raises(FieldError, match=f"field 'user': {message}"):
        Field("user", weights(), frequencies)  # type: ignore[arg-type]


def test_fields_are_compared_by_identity() -> None:
    a, b = (Field("user", weights(), [1, 2, 3]) for _ in range(2))
    assert a != b
    assert len({a, b}) == 2


def test_check_fields() -> None:
    user, item = (Field(name, weights(), [1, 2, 3]) for name in ("user", "item"))
    assert check_fields([user, item]) == (user, item)
    assert check_fields(f for f in (user,)) == (user,)
    with pytest.raises(FieldError, match="no fields were given"):
        check_fields([])
    with pytest.raises(FieldError, match="two fields are named 'user'"):
        check_fields([user, item, user])
    with pytest.raises(FieldError, match="expected a Field, got str"):
        check_fields(["user"])  # type: ignore[list-item]


def in_file(path: Path, array: np.ndarray) -> FileRows:
    path.write_bytes(array.tobytes())
    return FileRows(path, 0, array.shape, array.dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_files(dtype: object, tmp_path: Path) -> None:
    rows = in_file(tmp_path / "rows", weights(3, 2, dtype))
    counts = in_file(tmp_path / "counts", np.array([4, 0, 2], np.uint8))
    field = Field("user", rows, counts)
    assert field.rows is rows
    assert field.counts is counts
    assert (field.vocab_size, field.dim, field.dtype) == (3, 2, np.dtype(dtype))
    assert field.nbytes == 6 * np.dtype(dtype).itemsize
    assert field.frequencies.dtype == np.float64
    assert field.frequencies.tolist() == [4, 0, 2]
    assert repr(field) == f"Field('user', 3 x 2 {np.dtype(dtype)})"
    assert (field.census.total, field.census.seen) == (6, 2)


def test_files_are_checked_when_they_are_used(tmp_path: Path) -> None:
    array = weights()
    array[1, 1] = np.nan
    message = "field 'user': weights hold nan at row 1, column 1"
    for rows in (in_file(tmp_path / "rows", array), np.memmap(tmp_path / "rows", np.float32, "r")):
        table_of = rows if isinstance(rows, FileRows) else rows.reshape(3, 2)
        field = Field("user", table_of, [1, 2, 3])
        assert field.census.total == 6, "for which the weights are not read"
        with pytest.raises(FieldError, match=message):
            moments_of(field)
    with pytest.raises(FieldError, match=message):
        Field("user", np.array(array), [1, 2, 3])


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([1, -2, -3], "the frequency of id 1 is -2.0; it must be finite and not negative"),
        ([1, 2, np.nan], "the frequency of id 2 is nan"),
        ([0, 0, 0], "all 3 frequencies are zero"),
    ],
)
def test_bad_frequencies_in_files(counts: list[float], message: str, tmp_path: Path) -> None:
    field = Field("user", weights(), in_file(tmp_path / "counts", np.array(counts, np.float64)))
    with pytest.raises(FieldError, match=f"field 'user': {message}"):
        _ = field.census


@pytest.mark.parametrize(
    ("rows", "counts", "message"),
    [
        (weights(2), np.ones(3), "weights have 2 rows, frequencies 3"),
        (weights(3).astype(np.float64), np.ones(3), "weights are float64; allowed are float32"),
        (weights(3)[:, 0], np.ones(3), "weights must have 2 dimensions, not 1"),
        (weights(0), np.ones(0), "weights are 0 x 2, an empty table"),
        (weights(3), np.ones((3, 1)), "frequencies must have 1 dimension, not 2"),
        (weights(3), np.ones(3, np.complex64), "frequencies are complex64, not real numbers"),
    ],
)
def test_files_that_do_not_fit(
    rows: np.ndarray, counts: np.ndarray, message: str, tmp_path: Path
) -> None:
    with pytest.raises(FieldError, match=f"field 'user': {message}"):
        Field("user", in_file(tmp_path / "rows", rows), in_file(tmp_path / "counts", counts))


def test_a_census_is_made_once_by_given_passes() -> None:
    field = Field("user", weights(5), np.arange(5))

    calls: list[int] = []

    class Counting(LocalPasses):
        def run(self, *arguments: object, **options: object) -> object:
            calls.append(len(self.parts))
            return super().run(*arguments, **options)  # type: ignore[arg-type]

    for _ in range(2):
        field.take_census(Counting(field.parts))
        assert field.census.total == 10
        assert calls == [1], "the field knows its census after one pass"
