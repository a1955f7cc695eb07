"""Parquet datasets with one row per feature."""

from __future__ import annotations

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saec.errors import CheckpointError, FieldError, OptionalDependencyError
from saec.sources import parquet_rows, read_source
from saec.sources.parquet_rows import ParquetRows
from saec.streaming.chunks import chunks_of
from saec.streaming.rows import JoinedRows, Rows
from saec.tables.checkpoint import read_fields, read_frequencies, read_tables

ROWS, DIM = 23, 3
VECTORS = np.arange(ROWS * DIM, dtype=np.float32).reshape(ROWS, DIM)
COUNTS = np.arange(ROWS)[::-1].copy()


def values(rows: Rows) -> np.ndarray:
    return rows.read(0, len(rows))


def lists(vectors: np.ndarray) -> pa.Array:
    return pa.array(list(vectors), pa.list_(pa.from_numpy_dtype(vectors.dtype)))


def large_lists(vectors: np.ndarray) -> pa.Array:
    return pa.array(list(vectors), pa.large_list(pa.from_numpy_dtype(vectors.dtype)))


def fixed_lists(vectors: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])


def columns(vectors: np.ndarray, start: int = 0, kind: Any = fixed_lists) -> dict[str, Any]:
    ids = np.arange(start, start + len(vectors))
    return {"id": ids, "frequency": COUNTS[ids], "vector": kind(vectors)}


def write(path: Path, holds: dict[str, Any], rows_of_group: int = 10, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(holds), path, row_group_size=rows_of_group, **options)
    return path


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A table in two files, with row groups of 10, 5 and 8 rows."""
    write(tmp_path / "user" / "part-9.parquet", columns(VECTORS[:15]))
    write(tmp_path / "user" / "part-10.parquet", columns(VECTORS[15:], 15))
    return tmp_path / "user"


@pytest.mark.parametrize("kind", [lists, large_lists, fixed_lists])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_vectors_in_lists(tmp_path: Path, kind: Any, dtype: type) -> None:
    path = write(tmp_path / "user.parquet", columns(VECTORS.astype(dtype), kind=kind))
    tables = read_tables(path)
    assert list(tables) == ["user"]
    assert (tables["user"].shape, tables["user"].dtype) == ((ROWS, DIM), np.dtype(dtype))
    assert np.array_equal(values(tables["user"]), VECTORS)
    assert values(read_frequencies(path)["user"]).tolist() == COUNTS.tolist()


@pytest.mark.parametrize("names", ["v{}", "emb_{}", "{}"])
def test_vectors_in_columns(tmp_path: Path, names: str) -> None:
    holds = {names.format(i): VECTORS[:, i] for i in reversed(range(DIM))}
    path = write(tmp_path / "user.parquet", {"other": COUNTS, **holds})
    assert np.array_equal(values(read_tables(path)["user"]), VECTORS)


def test_eleven_columns_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "user.parquet", {f"v{i}": np.array([i], "f4") for i in range(11)})
    assert values(read_tables(path)["user"]).tolist() == [list(range(11))]


def test_files_that_polars_writes(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {"frequency": [5, 0], "embedding": [[1.0, 2.0], [3.0, 4.0]]},
        schema={"frequency": pl.UInt32, "embedding": pl.Array(pl.Float32, 2)},
    )
    frame.write_parquet(tmp_path / "user.parquet")
    (field,), metrics = read_fields(tmp_path / "user.parquet")
    assert metrics is None
    assert field.name == "user"
    assert values(field.rows).tolist() == [[1, 2], [3, 4]]
    assert field.frequencies.tolist() == [5, 0]


@pytest.mark.parametrize("where", ["", "*.parquet"])
def test_a_folder_is_one_table(dataset: Path, where: str) -> None:
    tables = read_tables(dataset / where)
    assert list(tables) == ["user"]
    rows = tables["user"]
    assert isinstance(rows, JoinedRows)
    assert rows.borders == (0, 10, 15, 23)
    assert np.array_equal(values(rows), VECTORS)
    assert np.array_equal(rows.read(8, 17), VECTORS[8:17])
    assert rows.read(9, 9).shape == (0, DIM)
    (field,), _ = read_fields(dataset / where)
    assert field.frequencies.tolist() == COUNTS.tolist()
    assert [part.start for part in chunks_of("user", field.rows, field.counts)] == [0, 10, 15]


def test_folders_in_a_folder_are_tables(tmp_path: Path) -> None:
    write(tmp_path / "tables" / "_SUCCESS", columns(VECTORS))
    write(tmp_path / "tables" / "user" / "part-0.parquet", columns(VECTORS))
    write(tmp_path / "tables" / "item" / "part-0.parquet", columns(VECTORS[:4]))
    fields, _ = read_fields(tmp_path / "tables")
    assert [(field.name, field.vocab_size) for field in fields] == [("item", 4), ("user", ROWS)]
    (field,), _ = read_fields(tmp_path / "tables", only=["us*"])
    assert field.name == "user"
    with pytest.raises(CheckpointError, match=r"files of .*item, .*user; name one folder"):
        read_tables(tmp_path / "tables" / "*" / "*.parquet")


def test_frequencies_of_other_files(tmp_path: Path) -> None:
    holds = columns(VECTORS)
    del holds["frequency"]
    path = write(tmp_path / "user.parquet", holds)
    np.save(tmp_path / "counts.npy", COUNTS)
    (field,), _ = read_fields(path, tmp_path / "counts.npy")
    assert field.frequencies.tolist() == COUNTS.tolist()
    with pytest.raises(
        CheckpointError, match=r"user.parquet: has no frequencies next to its vectors"
    ):
        read_fields(path)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, ROWS), st.integers(0, ROWS)), min_size=1), st.data())
def test_any_reads_in_any_order(
    dataset: Path, spans: list[tuple[int, int]], data: st.DataObject
) -> None:
    rows = read_tables(dataset)["user"]
    for start, stop in spans:
        assert np.array_equal(rows.read(start, stop), VECTORS[start:stop])
        first = data.draw(st.integers(0, ROWS))
        part = pickle.loads(pickle.dumps(rows.part(first, ROWS)))
        assert len(part) == ROWS - first
        assert np.array_equal(part.read(start, stop), VECTORS[first:][start:stop])


def test_blocks_smaller_than_parts_and_row_groups(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = rng.normal(size=(1000, 4)).astype(np.float32)
    path = write(tmp_path / "user.parquet", {"vector": fixed_lists(vectors)}, 400)
    monkeypatch.setattr(parquet_rows, "_BATCH_VALUES", 4 * 37)
    rows = read_tables(path)["user"]
    for size in (11, 37, 100, 999):
        starts = range(0, 1000, size)
        read = [rows.read(start, start + size) for start in starts]
        assert np.array_equal(np.concatenate(read), vectors)


def opened_groups(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Row groups whose decoding begins from now on."""
    begun: list[int] = []
    init = parquet_rows._RowGroupReader.__init__

    def counting(self: Any, path: Path, column: Any, group: int, *rest: Any) -> None:
        begun.append(group)
        init(self, path, column, group, *rest)

    monkeypatch.setattr(parquet_rows._RowGroupReader, "__init__", counting)
    return begun


def test_parts_of_a_row_group_decode_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "user.parquet", columns(VECTORS))
    (field,), _ = read_fields(path)
    begun = opened_groups(monkeypatch)
    for start in range(0, ROWS, 2):
        rows = pickle.loads(pickle.dumps(field.rows.part(start, start + 2)))
        assert np.array_equal(values(rows), VECTORS[start : start + 2])
        values(field.counts.part(start, start + 2))
    assert begun == [0, 0, 1, 1, 2, 2]  # vectors and frequencies
    field.rows.read(12, 13)  # behind what was read
    assert begun[6:] == [1]


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    path = write(tmp_path / "user.parquet", columns(VECTORS))
    rows = read_tables(path)["user"]
    before = rows.identity
    rows.read(0, 3)
    write(path, columns(VECTORS + 100))
    assert rows.identity != before
    assert np.array_equal(rows.read(3, 6), VECTORS[3:6] + 100)
    write(path, columns(VECTORS[:5]))
    with pytest.raises(CheckpointError, match=r"user.parquet: row group 0 is shorter than it was"):
        rows.read(3, 6)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"user.parquet: No such file"):
        rows.read(3, 6)


def test_threads_do_not_share_a_reader(tmp_path: Path, rng: np.random.Generator) -> None:
    vectors = rng.normal(size=(5000, 4)).astype(np.float32)
    path = write(tmp_path / "user.parquet", {"vector": fixed_lists(vectors)}, 5000)
    rows = read_tables(path)["user"]
    spans = [(start, start + 100) for start in range(0, 5000, 100)]
    with ThreadPoolExecutor(4) as threads:
        read = list(threads.map(lambda span: rows.read(*span), spans))
    assert np.array_equal(np.concatenate(read), vectors)


def replaced(name: str, row: int, value: Any, kind: Any = None) -> dict[str, Any]:
    """The columns, with one value changed."""
    holds = {"id": list(range(ROWS)), "frequency": COUNTS.tolist(), "vector": VECTORS.tolist()}
    holds[name][row] = value
    types = {"id": pa.int64(), "frequency": kind or pa.int64(), "vector": pa.list_(pa.float32())}
    return {key: pa.array(column, types[key]) for key, column in holds.items()}


WHERE = "in row 2 of row group 1, row 12 of the file"


@pytest.mark.parametrize(
    ("holds", "message"),
    [
        (replaced("vector", 12, None), f"column 'vector' holds null {WHERE}"),
        (replaced("vector", 12, [1, None, 2]), f"column 'vector' holds null {WHERE}"),
        (replaced("vector", 12, [1, 2]), f"'vector' holds a list that is not 3 long {WHERE}"),
        (replaced("vector", 12, []), f"'vector' holds a list that is not 3 long {WHERE}"),
        (replaced("vector", 12, [1, 2, np.nan]), f"holds a value that is not finite {WHERE}"),
        (replaced("vector", 12, [1, -np.inf, 2]), f"holds a value that is not finite {WHERE}"),
        (replaced("frequency", 12, None), f"column 'frequency' holds null {WHERE}"),
        (
            replaced("frequency", 12, np.nan, pa.float64()),
            f"column 'frequency' holds a value that is not finite {WHERE}",
        ),
        (
            {f"v{i}": np.where(np.arange(ROWS) == 12, np.nan, 1) for i in range(2)},
            f"column 'v0' holds a value that is not finite {WHERE}",
        ),
        ({"vector": replaced("vector", 12, [1.0])["vector"]}, f"not 3 long {WHERE}"),
        (replaced("id", 12, 11), f"column 'id' holds an id out of order.* {WHERE}"),
        (replaced("id", 12, None), f"column 'id' holds null {WHERE}"),
    ],
)
def test_bad_values(tmp_path: Path, holds: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "user.parquet", holds)
    source = read_source(path)
    with pytest.raises(CheckpointError, match=message):
        [values(rows) for rows in (*source.tables.values(), *source.counts.values())]


def test_nulls_in_fixed_lists(tmp_path: Path) -> None:
    column = pa.array([[1.0, 2.0], None, [3.0, None]], pa.list_(pa.float32(), 2))
    path = write(tmp_path / "user.parquet", {"vector": column})
    with pytest.raises(CheckpointError, match="holds null in row 1 of row group 0"):
        values(read_tables(path)["user"])
    assert read_tables(path)["user"].read(0, 0).shape == (0, 2)


def test_files_out_of_order_are_found_at_once(dataset: Path) -> None:
    (dataset / "part-9.parquet").rename(dataset / "part-11.parquet")
    message = "part-10.parquet: begins with id 15, not 0; write the rows in the order of"
    with pytest.raises(CheckpointError, match=message):
        read_tables(dataset)


ONES = np.ones(2, np.float32)


@pytest.mark.parametrize(
    ("holds", "message"),
    [
        ({"id": [0, 1], "name": ["a", "b"]}, "no vectors: neither .* there are id, name"),
        ({"a": lists(VECTORS), "b": lists(VECTORS)}, "no vectors: .* there are a, b"),
        ({"v0": ONES, "v2": ONES}, "no vectors: .* there are v0, v2"),
        ({"v0": ONES, "w0": ONES}, "no vectors: .* there are v0, w0"),
        ({"v0": ONES, "v1": ONES.astype("f8")}, "columns v0, v1 are of several types"),
        ({"v0": [1, 2]}, "column 'v0' holds int64, not floating-point numbers"),
        ({"vector": lists(VECTORS.astype(int))}, "'vector' holds int64, not floating"),
        ({"vector": [["a"], ["b"]]}, "'vector' holds string, not floating-point"),
        ({"vector": pa.array([[]], pa.list_(pa.float32()))}, "'vector' holds empty lists"),
        (
            {"vector": pa.nulls(1, pa.list_(pa.float32(), (1 << 20) + 1))},
            "'vector' has lists of 1048577; at most 1048576 are read",
        ),
        ({"v0": ONES, "id": ["a", "b"]}, "column 'id' holds string, not integers"),
        ({"v0": ONES, "frequency": ["a", "b"]}, "'frequency' holds string, not numbers"),
        ({"v0": ONES[:0]}, r"user.parquet: no rows"),
        ({"vector": pa.array([None, None], pa.list_(pa.string()))}, "'vector' holds string, not"),
    ],
)
def test_bad_columns(tmp_path: Path, holds: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "user.parquet", holds)
    with pytest.raises(CheckpointError, match=message):
        read_tables(path)


def test_the_column_vector_is_preferred(tmp_path: Path) -> None:
    path = write(tmp_path / "user.parquet", {"a": lists(VECTORS + 1), "vector": lists(VECTORS)})
    assert np.array_equal(values(read_tables(path)["user"]), VECTORS)


def test_files_that_are_not_alike(tmp_path: Path) -> None:
    write(tmp_path / "0.parquet", columns(VECTORS))
    write(tmp_path / "1.parquet", {"vector": fixed_lists(VECTORS[:, :2])})
    with pytest.raises(
        CheckpointError,
        match=r"1.parquet: holds vector float32 x 2, but .*0.parquet: ids, vector float32 x 3, "
        "frequency int64; a table's files must be alike",
    ):
        read_tables(tmp_path)


def test_files_without_rows_are_left_out(tmp_path: Path) -> None:
    write(tmp_path / "0.parquet", columns(VECTORS[:0], kind=lists))
    write(tmp_path / "1.parquet", columns(VECTORS, kind=lists))
    assert np.array_equal(values(read_tables(tmp_path)[tmp_path.name]), VECTORS)


def test_files_that_are_no_parquet(tmp_path: Path) -> None:
    (tmp_path / "user.parquet").write_bytes(b"PAR1 not really PAR1")
    with pytest.raises(CheckpointError, match=r"user.parquet: .*Parquet"):
        read_tables(tmp_path / "user.parquet")


def test_a_damaged_page_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "user.parquet", columns(VECTORS), compression="zstd")
    content = bytearray(path.read_bytes())
    content[4 : len(content) // 3] = bytes(len(content) // 3 - 4)
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"user.parquet: "):
        values(read_tables(path)["user"])


@pytest.mark.parametrize("kind", [lists, fixed_lists])
def test_damaged_bytes_end_in_an_error_or_a_table(
    tmp_path: Path, kind: Any, rng: np.random.Generator
) -> None:
    path = write(tmp_path / "user.parquet", columns(VECTORS, kind=kind))
    whole = path.read_bytes()
    errors = 0
    for _ in range(150):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), 3):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            source = read_source(path)
            for rows in (*source.tables.values(), *source.counts.values()):
                assert len(values(rows)) == len(rows)
        except CheckpointError:
            errors += 1
    assert errors


def test_tables_side_by_side_are_not_taken_for_one(tmp_path: Path) -> None:
    for name in ("item", "user"):
        write(tmp_path / f"{name}.parquet", {"vector": fixed_lists(VECTORS)})
    with pytest.raises(
        CheckpointError,
        match=r"item.parquet and user.parquet do not look like shards of one table; give each",
    ):
        read_tables(tmp_path)
    assert list(read_tables(tmp_path / "user.parquet")) == ["user"]


def test_any_names_will_do_with_ids(tmp_path: Path) -> None:
    write(tmp_path / "beef-1.parquet", columns(VECTORS[:9]))
    write(tmp_path / "cafe-0.parquet", columns(VECTORS[9:], 9))
    assert np.array_equal(values(read_tables(tmp_path)[tmp_path.name]), VECTORS)


def test_frequencies_alone(tmp_path: Path) -> None:
    np.save(tmp_path / "user.npy", VECTORS)
    path = write(tmp_path / "seen.parquet", {"id": np.arange(ROWS), "frequency": COUNTS})
    (field,), _ = read_fields(tmp_path / "user.npy", path)
    assert field.frequencies.tolist() == COUNTS.tolist()
    for name in ("user", "item"):
        write(tmp_path / "counts" / name / "0.parquet", {"frequency": COUNTS})
    np.savez(tmp_path / "both.npz", user=VECTORS, item=VECTORS)
    fields, _ = read_fields(tmp_path / "both.npz", tmp_path / "counts")
    assert [field.frequencies.tolist() for field in fields] == 2 * [COUNTS.tolist()]
    with pytest.raises(CheckpointError, match=r"seen.parquet: no vectors: .* are id, frequency"):
        read_tables(path)


def test_float64_is_for_the_field_to_refuse(tmp_path: Path) -> None:
    path = write(tmp_path / "user.parquet", columns(VECTORS.astype(np.float64)))
    with pytest.raises(FieldError, match="'user': weights are float64; allowed are"):
        read_fields(path)


def test_pyarrow_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "user.parquet", columns(VECTORS))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(OptionalDependencyError, match=r"pip install 'saec\[data\]'"):
        read_tables(path)


def test_one_file_is_read_by_one_object(tmp_path: Path) -> None:
    path = write(tmp_path / "user.parquet", columns(VECTORS))
    rows = read_tables(path)["user"]
    assert isinstance(rows, ParquetRows)
    assert rows.borders == (0, 10, 20, 23)
    assert rows.part(5, 21).borders == (0, 5, 15, 16)


PEAK = """
import sys
from pathlib import Path
from saec.tables.checkpoint import read_fields
from saec.streaming.chunks import chunks_of

def peak_megabytes():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1000

def total(path):
    (field,), _ = read_fields(path)
    rows = field.rows
    return sum(
        float(rows.read(start, start + 65536).sum(dtype=float))
        + float(field.counts.read(start, start + 65536).sum())
        for start in range(0, len(rows), 65536)
    )

small, large = sys.argv[1:]
total(small)
before = peak_megabytes()
print(total(large), peak_megabytes() - before)
"""


@pytest.mark.exhaustive
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("kind", ["lists", "columns"])
def test_a_large_row_group_is_not_held(tmp_path: Path, kind: str) -> None:
    rows = 2_000_000
    vectors = np.full((rows, 16), 0.5, np.float32)  # 128 MB
    vectors[::2] = 0.25
    for path, n in (("small.parquet", 1000), ("large.parquet", rows)):
        holds: dict[str, Any] = {"frequency": np.ones(n, np.int64), "id": np.arange(n)}
        if kind == "lists":
            holds["vector"] = fixed_lists(vectors[:n])
        else:
            holds |= {f"v{i}": vectors[:n, i] for i in range(16)}
        write(tmp_path / path, holds, n, use_dictionary=False, compression="none")
    done = subprocess.run(
        [sys.executable, "-c", PEAK, tmp_path / "small.parquet", tmp_path / "large.parquet"],
        capture_output=True,
        text=True,
        check=True,
    )
    total, megabytes = map(float, done.stdout.split())
    assert total == rows * 16 * 0.375 + rows
    assert megabytes < 80
