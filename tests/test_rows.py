"""Rows in memory, in files and in shards: all read the same rows and raise named errors."""

from __future__ import annotations

import os
import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from saec.errors import CheckpointError
from saec.sources.beside import BesideRows
from saec.streaming.rows import ArrayRows, FileRows, JoinedRows, Rows, rows_of

DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16, np.float64, np.int64, np.uint8, np.bool_]


def table(rows: int = 7, dim: int = 3, dtype: object = np.float32) -> NDArray[Any]:
    return (np.arange(rows * dim).reshape(rows, dim) % 128).astype(dtype)


def in_file(path: Path, array: NDArray[Any], offset: int = 0) -> FileRows:
    """``array`` as it lies in a file, after ``offset`` other bytes and before one more."""
    path.write_bytes(b"\xff" * offset + array.tobytes() + b"\xff")
    return FileRows(path, offset, array.shape, array.dtype)


def check_all_reads(rows: Rows, expected: NDArray[Any]) -> None:
    count = len(expected)
    assert (len(rows), rows.shape, rows.ndim) == (count, expected.shape, expected.ndim)
    assert rows.dtype == expected.dtype
    assert rows.nbytes == expected.nbytes
    for start in range(count + 1):
        for stop in range(start, count + 2):
            found = rows.read(start, stop)
            assert found.dtype == expected.dtype
            assert found.shape == expected[start:stop].shape
            assert found.tobytes() == expected[start:stop].tobytes()
            part = rows.part(start, stop)
            assert part.shape == expected[start:stop].shape
            assert part.read(0, len(part)).tobytes() == expected[start:stop].tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(7, 3), (5,), (1, 1)])
def test_rows_of_every_kind_read_the_same(
    dtype: object, shape: tuple[int, ...], tmp_path: Path
) -> None:
    array = table(7, 3, dtype).ravel()[: int(np.prod(shape))].reshape(shape)
    check_all_reads(ArrayRows(array), array)
    for offset in (0, 1, 13):
        check_all_reads(in_file(tmp_path / "rows", array, offset), array)
    cut = min(2, len(array))
    shards = [
        ArrayRows(array[:cut]),
        in_file(tmp_path / "empty", array[:0]),
        in_file(tmp_path / "rest", array[cut:], 5),
    ]
    check_all_reads(JoinedRows(shards), array)


def test_a_file_by_hand(tmp_path: Path) -> None:
    (tmp_path / "rows").write_bytes(bytes([9, 9, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0]))
    rows = FileRows(tmp_path / "rows", 2, (3, 2), "<u2")
    assert (len(rows), rows.row_bytes, rows.nbytes, rows.borders) == (3, 4, 12, (0, 3))
    assert rows.read(1, 3).tolist() == [[3, 4], [5, 6]]
    part = rows.part(1, 2)
    assert (part.offset, part.shape) == (6, (1, 2))
    assert rows.mapped().tolist() == [[1, 2], [3, 4], [5, 6]]
    assert not rows.mapped().flags.writeable


def test_a_row_beyond_four_gigabytes(tmp_path: Path) -> None:
    far = (5 << 30) // 8
    with (tmp_path / "rows").open("wb") as stream:
        stream.truncate(8 * far + 17)  # a hole, which takes no room
        stream.seek(1 + 8 * far)
        stream.write(np.array([1.5, -2], "<f4").tobytes())
    rows = FileRows(tmp_path / "rows", 1, (far + 2, 2), np.float32)
    assert rows.read(far - 1, far + 1).tolist() == [[0, 0], [1.5, -2]]
    assert rows.part(far, far + 2).read(0, 2).tolist() == [[1.5, -2], [0, 0]]


def test_memory_is_viewed_and_not_copied() -> None:
    array = table()
    assert np.shares_memory(ArrayRows(array).read(2, 4), array)
    assert np.shares_memory(ArrayRows(array).part(2, 6).read(1, 2), array)
    one = JoinedRows([ArrayRows(array[:4]), ArrayRows(array[4:])])
    assert np.shares_memory(one.read(0, 4), array)
    assert rows_of(array).array is array  # type: ignore[attr-defined]


def test_rows_objects_are_returned_unchanged() -> None:
    rows = ArrayRows(table())
    assert rows_of(rows) is rows
    assert rows_of([1, 2, 3]).read(1, 3).tolist() == [2, 3]


def mapped(path: Path, array: NDArray[Any], offset: int = 0, **how: Any) -> np.memmap[Any, Any]:
    path.write_bytes(b"\xff" * offset + array.tobytes())
    how = {"mode": "r", **how}
    return np.memmap(path, array.dtype, offset=offset, shape=array.shape, **how)


@pytest.mark.parametrize("offset", [0, 64, 4096, 5000])
@pytest.mark.parametrize("mode", ["r", "r+"])
def test_a_map_is_read_from_its_file(offset: int, mode: str, tmp_path: Path) -> None:
    array = table()
    one = mapped(tmp_path / "rows", array, offset, mode=mode)
    flat = one.reshape(-1)
    for view, expected in (
        (one, array),
        (one[2:5], array[2:5]),
        (one[2:][1:3], array[3:5]),
        (one[6:], array[6:]),
        (flat[5:9], array.ravel()[5:9]),
        (one.view(np.int32)[1:], array.view(np.int32)[1:]),
    ):
        rows = rows_of(view)
        assert isinstance(rows, FileRows)
        assert rows.path == tmp_path / "rows"
        check_all_reads(rows, expected)


def test_bfloat16_in_a_map(tmp_path: Path) -> None:
    array = table(7, 3, ml_dtypes.bfloat16)
    view = mapped(tmp_path / "rows", array.view(np.uint16), 6).view(ml_dtypes.bfloat16)[1:]
    rows = rows_of(view)
    assert isinstance(rows, FileRows)
    check_all_reads(rows, array[1:])


def test_arrays_saved_by_numpy(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", table())
    rows = rows_of(np.load(tmp_path / "rows.npy", mmap_mode="r"))
    assert isinstance(rows, FileRows)
    assert rows.offset == 128
    check_all_reads(rows, table())


def test_maps_that_are_no_runs_of_a_file(tmp_path: Path) -> None:
    array = table()
    copied = mapped(tmp_path / "copied", array, mode="c")
    copied[3] = -1  # in memory alone
    one = mapped(tmp_path / "rows", array)
    fortran = mapped(tmp_path / "other", np.asfortranarray(array), order="F")
    for view in (copied, one[::2], one[::-1], one[:, 1:], one.T, fortran, fortran.T, one + 1):
        rows = rows_of(view)
        assert isinstance(rows, ArrayRows)
        check_all_reads(rows, np.array(view))
    assert rows_of(copied).read(3, 4).tolist() == [[-1, -1, -1]]


def test_an_array_that_only_looks_like_a_map(tmp_path: Path) -> None:
    # What numpy computes from a map is of the map's class, and lies elsewhere.
    one = mapped(tmp_path / "rows", table(), 32)
    for other in (one.copy(), one * 2, np.negative(one[1:3]), one[[1, 2]], one.astype(np.float64)):
        rows = rows_of(other)
        check_all_reads(rows, np.array(other))


def test_a_map_without_a_name_is_an_array(tmp_path: Path) -> None:
    with (tmp_path / "rows").open("w+b") as stream:
        stream.write(table().tobytes())
        stream.flush()
        handle = os.fdopen(os.dup(stream.fileno()), "r+b")
        (tmp_path / "rows").unlink()
        with handle:
            one = np.memmap(handle, np.float32, "r+", shape=(7, 3))
    assert isinstance(rows_of(one), ArrayRows)
    check_all_reads(rows_of(one), table())


@pytest.mark.parametrize("missing", [1, 4, 50])
def test_a_file_that_is_too_short(missing: int, tmp_path: Path) -> None:
    rows = in_file(tmp_path / "rows", table(), 8)
    os.truncate(tmp_path / "rows", 8 + 7 * 12 - missing)
    message = f"rows ends at byte {8 + 84 - missing}; rows are missing"
    with pytest.raises(CheckpointError, match=message):
        rows.read(2, 7)
    with pytest.raises(CheckpointError, match=message):
        rows.part(1, 7).read(0, 6)
    assert rows.read(0, 2).tolist() == table()[:2].tolist()
    with pytest.raises(CheckpointError, match="rows"):
        rows.mapped()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    rows = FileRows(tmp_path / "none", 0, (2, 2), np.float32)
    for use in (lambda: rows.read(0, 1), rows.mapped, lambda: rows.identity):
        with pytest.raises(CheckpointError, match=r"none: .*No such file"):
            use()
    (tmp_path / "none").mkdir()
    with pytest.raises(CheckpointError, match="none: Is a directory"):
        rows.read(0, 1)


def test_shards_by_hand(tmp_path: Path) -> None:
    one, two, three = ArrayRows(table(2)), in_file(tmp_path / "two", table(3)), ArrayRows(table(1))
    rows = JoinedRows([one, two, three])
    assert rows.shape == (6, 3)
    assert rows.borders == (0, 2, 5, 6)
    assert rows.read(1, 6)[:, 0].tolist() == [3, 0, 3, 6, 0]
    assert isinstance(rows.part(2, 5), FileRows)
    assert isinstance(rows.part(3, 4), FileRows)
    assert rows.part(1, 4).borders == (0, 1, 3)
    assert rows.part(2, 2).shape == (0, 3)
    assert rows.read(4, 4).shape == (0, 3)
    nested = JoinedRows([three, rows, one])
    assert nested.borders == (0, 1, 3, 6, 7, 9)
    assert nested.read(0, 9)[:, 0].tolist() == [0, 0, 3, 0, 3, 6, 0, 0, 3]


def test_empty_shards_have_no_borders() -> None:
    none = ArrayRows(table(0))
    assert JoinedRows([none, ArrayRows(table(2)), none, ArrayRows(table(3)), none]).borders == (
        *(0, 2, 5),
    )
    empty = JoinedRows([none, none])
    assert (empty.shape, empty.borders) == ((0, 3), (0, 0))
    assert empty.read(0, 1).shape == empty.part(0, 1).shape == (0, 3)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (table(2, 4), r"shard 1 has rows of float32 \(4,\), shard 0 of float32 \(3,\)"),
        (table(2, 3, np.float16), r"shard 1 has rows of float16 \(3,\), shard 0 of float32"),
        (table(2, 3)[:, 0], r"shard 1 has rows of float32 \(\), shard 0 of float32 \(3,\)"),
    ],
)
def test_shards_must_be_alike(other: NDArray[Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        JoinedRows([ArrayRows(table()), ArrayRows(other)])


@given(
    sizes=st.lists(st.integers(0, 6), min_size=1, max_size=6),
    start=st.integers(0, 40),
    length=st.integers(0, 40),
)
def test_any_shards_are_their_rows_together(sizes: list[int], start: int, length: int) -> None:
    array = table(sum(sizes))
    bounds = np.cumsum([0, *sizes])
    shards = [ArrayRows(array[a:b]) for a, b in pairwise(bounds.tolist())]
    rows = JoinedRows(shards)
    assert rows.borders[0] == 0
    assert rows.borders[-1] == len(array)
    assert set(rows.borders) == set(bounds.tolist())
    stop = start + length
    assert np.array_equal(rows.read(start, stop), array[start:stop])
    part = rows.part(start, stop)
    assert np.array_equal(part.read(0, len(part)), array[start:stop])


def test_all_can_be_sent_elsewhere(tmp_path: Path) -> None:
    array = table()
    in_memory, file = ArrayRows(array), in_file(tmp_path / "rows", array, 3)
    for rows in (in_memory, file, JoinedRows([in_memory, file]).part(5, 9)):
        sent = pickle.loads(pickle.dumps(rows))
        assert type(sent) is type(rows)
        assert np.array_equal(sent.read(0, len(sent)), rows.read(0, len(rows)))
        assert sent.borders == rows.borders
    assert len(pickle.dumps(in_file(tmp_path / "large", table(100_000)))) < 1000
    few = ArrayRows(table(100_000)).part(7, 9)
    assert len(pickle.dumps(few)) < 1000, "only the part is sent"


def test_identity_of_memory() -> None:
    array = table()
    known = ArrayRows(array).identity
    spaced = np.zeros((14, 6), np.float32)
    spaced[::-2, ::2] = array
    assert ArrayRows(spaced[::-2, ::2]).identity == ArrayRows(np.asfortranarray(array)).identity
    assert ArrayRows(spaced[::-2, ::2]).identity == known
    changed = array.copy()
    changed[6, 2] += 1
    reordered = array.reshape(3, 7)
    for other in (changed, reordered, array.view(np.int32), array[:6], array.astype(np.float64)):
        assert ArrayRows(other).identity != known
    for dtype in DTYPES:
        assert ArrayRows(table(dtype=dtype)).identity == ArrayRows(table(dtype=dtype)).identity


def test_identity_of_memory_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    known = ArrayRows(table()).identity
    monkeypatch.setattr("saec.streaming.rows._HASHED_BYTES", 30)  # two rows at once
    assert ArrayRows(table()).identity == known
    assert ArrayRows(table()[:, 0]).identity != known


def test_identity_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = in_file(tmp_path / "rows", table())
    known = rows.identity
    assert FileRows(tmp_path / "rows", 0, (7, 3), np.float32).identity == known
    monkeypatch.chdir(tmp_path)
    assert FileRows("rows", 0, (7, 3), np.float32).identity == known
    for other in (
        FileRows(tmp_path / "rows", 4, (7, 3), np.float32),
        FileRows(tmp_path / "rows", 0, (3, 7), np.float32),
        FileRows(tmp_path / "rows", 0, (7, 3), np.int32),
        rows.part(0, 6),
        JoinedRows([rows]),
    ):
        assert other.identity != known
    os.utime("rows", ns=(0, 12345))
    touched = rows.identity
    assert touched != known
    in_file(tmp_path / "rows", table(8))
    os.utime("rows", ns=(0, 12345))
    assert rows.identity != touched, "another size"


def test_columns_side_by_side() -> None:
    left, right = ArrayRows(np.arange(6).reshape(3, 2)), ArrayRows(np.arange(3)[:, None] + 10)
    rows = BesideRows([left, right])
    assert rows.shape == (3, 3)
    assert rows.read(0, 2).tolist() == [[0, 1, 10], [2, 3, 11]]
    assert rows.part(1, 3).read(1, 2).tolist() == [[4, 5, 12]]
    assert rows.identity == [left.identity, right.identity]
    with pytest.raises(CheckpointError, match="shard 1 of the columns has 2 rows"):
        BesideRows([left, ArrayRows(np.zeros((2, 1), np.int64))])
