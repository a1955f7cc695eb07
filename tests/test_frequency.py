"""Counting feature ids in arrays, batches and files."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from saec.errors import DataError, IdError
from saec.streaming.rows import FileRows, rows_of
from saec.tables import log_blocks
from saec.tables.counting import count_batches, count_columns, count_ids, unseen_frequency

LOG = pl.DataFrame(
    {
        "user": [0, 2, 2, None, 1, 2],
        "tags": [[0, 1], [1], None, [], [1, None], [3]],
        "name": ["a", "b", "c", "d", "e", "f"],
    },
    schema={"user": pl.Int32, "tags": pl.List(pl.Int64), "name": pl.String},
)
USERS = [1, 1, 3]
TAGS = [1, 3, 0, 1]


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"])
def test_count_ids_of_any_integer_dtype(dtype: str) -> None:
    counts = count_ids(np.array([[3, 0], [3, 1]], dtype), 5)
    assert counts.dtype == np.int64
    assert counts.tolist() == [1, 1, 0, 2, 0]


def test_count_ids_of_any_shape_and_kind() -> None:
    assert count_ids([[0], [1]], 2).tolist() == [1, 1]
    assert count_ids(1, 2).tolist() == [0, 1]
    assert count_ids([], 2).tolist() == [0, 0]
    assert count_ids(np.arange(12).reshape(3, 4)[:, ::2].T, 11).sum() == 6


@given(hnp.arrays(np.int32, st.integers(0, 50), elements=st.integers(0, 9)))
def test_count_ids_equals_bincount(ids: np.ndarray) -> None:
    before = ids.copy()
    assert np.array_equal(count_ids(ids, 10), np.bincount(ids, minlength=10))
    assert np.array_equal(ids, before)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([0, 5, 9], "id 5 is out of range; ids go from 0 to 4"),
        ([[0], [-1]], "id -1 is out of range; ids go from 0 to 4"),
        (np.array([2**64 - 1], np.uint64), "id 18446744073709551615 is out of range"),
        ([0.0], "ids must be integers, not float64"),
        ([True], "ids must be integers, not bool"),
        (["a"], "ids must be integers, not <U1"),
    ],
)
def test_bad_ids(ids: object, message: str) -> None:
    with pytest.raises(IdError, match=message):
        count_ids(ids, 5)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, -3, 2.0, "5", True])
def test_bad_vocab_size(size: object) -> None:
    with pytest.raises(IdError, match=f"a vocabulary of {size!r}; it must be at least 1"):
        count_ids([], size)  # type: ignore[arg-type]


def test_counts_that_no_memory_holds() -> None:
    with pytest.raises(IdError, match=r"counts of \d+ features take \d+ bytes of memory"):
        count_ids([1], 1 << 60)


def test_ids_of_ragged_rows() -> None:
    with pytest.raises(IdError, match=r"'u': ids cannot be read as an array: .* inhomogeneous"):
        count_batches([{"u": [[1], [1, 2]]}])


@pytest.mark.parametrize("batch", [(1, 2), np.array([1]), "user"])
def test_batches_that_are_no_mappings(batch: object) -> None:
    with pytest.raises(DataError, match=r"a batch is a mapping \{field: ids\}, not"):
        count_batches([batch])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("paths", "message"),
    [([], "no files were given"), ("**b", r"\*\*b: Invalid pattern"), ("a" * 5000, "too long")],
)
def test_paths_that_name_no_files(paths: str | list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        count_columns(paths, {"u": "user"})


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["user", "user"])
    pq.write_table(table, tmp_path / "log.parquet")
    with pytest.raises(DataError, match=r"log\.parquet: 2 columns are named 'user'"):
        count_columns(tmp_path / "log.parquet", {"u": "user"})


@pytest.mark.parametrize(
    "values", [pa.array([Decimal("1.5")]), pa.array([[Decimal(2)]]), pa.array([Decimal(2)])]
)
def test_decimals_are_no_ids(values: pa.Array, tmp_path: Path) -> None:
    pq.write_table(pa.table({"user": values}), tmp_path / "log.parquet")
    with pytest.raises(DataError, match=r"column 'user' holds decimal128.*, not integer ids"):
        count_columns(tmp_path / "log.parquet", {"u": "user"})


def test_counts_in_a_folder_need_room(tmp_path: Path) -> None:
    pq.write_table(pa.table({"user": [1]}), tmp_path / "log.parquet")
    (tmp_path / "counts").mkdir()

    def count(size: int, folder: str) -> list[int]:
        log = tmp_path / "log.parquet"
        return count_columns(log, {"u": "user"}, {"u": size}, folder=tmp_path / folder)[
            "u"
        ].tolist()

    with pytest.raises(DataError, match=r"cannot write \d+ bytes to .*; \d+ bytes are free"):
        count(1 << 57, "counts")
    assert not list((tmp_path / "counts").iterdir())
    with pytest.raises(DataError, match=r"cannot write to .*: Not a directory"):
        count(9, "log.parquet")
    assert count(4, "counts") == [0, 1, 0, 0]


def test_count_batches_of_named_fields() -> None:
    batches = [
        {"user": np.array([0, 1]), "item": [[2, 2], [0, 1]], "label": [0.5, 1.0]},
        {"user": np.array([1, 1])},
    ]
    counts = count_batches(batches, {"user": 3, "item": 3})
    assert {name: c.tolist() for name, c in counts.items()} == {
        "user": [1, 3, 0],
        "item": [1, 1, 2],
    }


def test_count_batches_grows_with_the_ids() -> None:
    counts = count_batches(iter([{"user": [1]}, {"user": [4, 1], "item": [0]}]))
    assert {name: c.tolist() for name, c in counts.items()} == {
        "user": [0, 2, 0, 0, 1],
        "item": [1],
    }


@given(st.lists(hnp.arrays(np.int64, st.integers(0, 20), elements=st.integers(0, 300)), min_size=1))
def test_batches_equal_the_whole(batches: list[np.ndarray]) -> None:
    whole = np.concatenate(batches)
    counts = count_batches([{"user": ids} for ids in batches], progress=False)["user"]
    assert np.array_equal(counts, np.bincount(whole))
    fixed = count_batches([{"user": ids} for ids in batches], {"user": 301}, progress=False)
    assert np.array_equal(fixed["user"], count_ids(whole, 301))


def test_bad_batches() -> None:
    with pytest.raises(IdError, match="'user': id 7 is out of range; ids go from 0 to 6"):
        count_batches([{"user": [0, 7]}], {"user": 7})
    with pytest.raises(IdError, match="'user': id -2 is out of range; ids go from 0 or more"):
        count_batches([{"user": [-2]}])
    with pytest.raises(IdError, match="'user': id 4294967296 is above 2147483647; give a vocab"):
        count_batches([{"user": [2**32]}])
    with pytest.raises(DataError, match="no batch holds 'usr', 'itm'; the batches hold 'user'"):
        count_batches([{"user": [0]}], {"usr": 7, "itm": 7})
    with pytest.raises(DataError, match="no batch holds a field; the batches hold nothing"):
        count_batches([])


@pytest.mark.parametrize("sizes", [None, {"user": 5, "tag": 4}])
def test_parquet_columns(tmp_path: Path, sizes: dict[str, int] | None) -> None:
    LOG.write_parquet(tmp_path / "log.parquet")
    counts = count_columns(tmp_path / "log.parquet", {"user": "user", "tag": "tags"}, sizes)
    assert counts["user"].tolist() == (USERS if sizes is None else [*USERS, 0, 0])
    assert counts["tag"].tolist() == TAGS


def test_counts_in_files_of_a_folder(tmp_path: Path) -> None:
    LOG.write_parquet(tmp_path / "log.parquet")
    (tmp_path / "counts").mkdir()
    columns = {"user": "user", "tag": "tags"}
    counts = count_columns(
        tmp_path / "log.parquet", columns, {"user": 5, "tag": 4}, folder=tmp_path / "counts"
    )
    assert counts["user"].tolist() == [*USERS, 0, 0]
    rows = rows_of(counts["tag"])
    assert isinstance(rows, FileRows)
    assert rows.path.parent == tmp_path / "counts"
    assert rows.read(1, 4).tolist() == TAGS[1:]
    assert len(list((tmp_path / "counts").iterdir())) == 2
    with pytest.raises(DataError, match="counts in a folder need vocab_sizes"):
        count_columns(tmp_path / "log.parquet", columns, folder=tmp_path)
    with pytest.raises(DataError, match=r"cannot write to .*absent: No such file or directory"):
        count_columns(
            tmp_path / "log.parquet", {"user": "user"}, {"user": 5}, folder=tmp_path / "absent"
        )


@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz"])
def test_csv_columns(tmp_path: Path, name: str) -> None:
    compression = "gzip" if name.endswith("gz") else "uncompressed"
    LOG.drop("tags").write_csv(tmp_path / name, compression=compression, check_extension=False)
    assert count_columns(tmp_path / name, {"u": "user"})["u"].tolist() == USERS


def test_one_column_may_serve_two_fields(tmp_path: Path) -> None:
    LOG.write_parquet(tmp_path / "log.parquet")
    counts = count_columns(str(tmp_path / "log.parquet"), {"a": "user", "b": "user"})
    assert counts["a"].tolist() == counts["b"].tolist() == USERS


@pytest.mark.parametrize("where", ["directory", "pattern", "list"])
def test_many_files(tmp_path: Path, where: str) -> None:
    (tmp_path / "day=2").mkdir()
    LOG.write_parquet(tmp_path / "1.parquet")
    LOG.write_parquet(tmp_path / "day=2" / "2.parquet")
    (tmp_path / "_SUCCESS").touch()
    paths = {
        "directory": tmp_path,
        "pattern": f"{tmp_path}/**/*.parquet",
        "list": [tmp_path / "1.parquet", tmp_path / "day=2"],
    }[where]
    assert count_columns(paths, {"u": "user"})["u"].tolist() == [2, 2, 6]


@pytest.mark.parametrize("name", ["log.parquet", "log.csv"])
def test_many_blocks_equal_one(
    tmp_path: Path, name: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = rng.integers(0, 40, 1000)
    frame = pl.DataFrame({"user": ids})
    path = tmp_path / name
    if name == "log.csv":
        frame.write_csv(path)
    else:
        frame.write_parquet(path, row_group_size=400)
    monkeypatch.setattr(log_blocks, "BATCH_ROWS", 7)
    monkeypatch.setattr(log_blocks, "CSV_BLOCK_BYTES", 100)
    assert len(list(log_blocks.log_blocks(path, ["user"]))) > 20
    assert np.array_equal(count_columns(path, {"u": "user"})["u"], np.bincount(ids))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"u": "usr"}, "log.parquet: no column 'usr'; there are user, tags, name"),
        ({"u": "name"}, "column 'name' holds .*string.*, not integer ids or lists of them"),
        ({}, "no columns were given"),
    ],
)
def test_bad_parquet_columns(tmp_path: Path, columns: dict[str, str], message: str) -> None:
    LOG.write_parquet(tmp_path / "log.parquet")
    with pytest.raises(DataError, match=message):
        count_columns(tmp_path / "log.parquet", columns)


@pytest.mark.parametrize(
    ("column", "message"),
    [("usr", "log.csv: .*'usr'.* does not exist"), ("name", "log.csv: .*conversion error")],
)
def test_bad_csv_columns(tmp_path: Path, column: str, message: str) -> None:
    LOG.drop("tags").write_csv(tmp_path / "log.csv")
    with pytest.raises(DataError, match=message):
        count_columns(tmp_path / "log.csv", {"u": column})


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent.parquet: no such file"):
        count_columns(tmp_path / "absent.parquet", {"u": "user"})
    with pytest.raises(DataError, match="no Parquet or CSV file in it"):
        count_columns(tmp_path, {"u": "user"})
    (tmp_path / "log.txt").write_text("user\n1\n")
    with pytest.raises(DataError, match=r"log.txt: neither .parquet nor .csv"):
        count_columns(tmp_path / "log.txt", {"u": "user"})
    (tmp_path / "log.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match=r"log.parquet: .*Parquet"):
        count_columns(tmp_path / "log.parquet", {"u": "user"})
    (tmp_path / "log.csv").touch()
    with pytest.raises(DataError, match=r"log.csv: .*[Ee]mpty"):
        count_columns(tmp_path / "log.csv", {"u": "user"})


def test_bad_ids_and_sizes_of_columns(tmp_path: Path) -> None:
    LOG.write_parquet(tmp_path / "log.parquet")
    with pytest.raises(IdError, match="'u': id 2 is out of range; ids go from 0 to 1"):
        count_columns(tmp_path / "log.parquet", {"u": "user"}, {"u": 2})
    with pytest.raises(DataError, match="must name the same fields; they differ in 'u', 'v'"):
        count_columns(tmp_path / "log.parquet", {"u": "user"}, {"v": 2})


PEAK = """
import sys
from pathlib import Path
from saec.tables.counting import count_columns

def peak_kilobytes():
    # Not getrusage, whose peak begins with the parent's memory at the fork.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])

small, large = sys.argv[1:]
count_columns(small, {"user": "user"})
before = peak_kilobytes()
counts = count_columns(large, {"user": "user"})["user"]
print(int(counts.sum()), peak_kilobytes() - before)
"""


def write_96_megabytes(small: Path, large: Path, ids: np.ndarray) -> None:
    """Write 100,000 ids of seven digits, and the same over and over up to 12 million."""
    if small.suffix == ".csv":
        lines = "".join(f"{i}\n" for i in ids)
        small.write_text("user\n" + lines)
        large.write_text("user\n" + 120 * lines)
        return
    # One row group without dictionary or compression: the whole column in one piece.
    for path, times in ((small, 1), (large, 120)):
        table = pa.table({"user": np.tile(ids, times)})
        pq.write_table(
            table, path, row_group_size=len(table), use_dictionary=False, compression="none"
        )


@pytest.mark.exhaustive
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_memory_does_not_grow_with_the_file(
    tmp_path: Path, kind: str, rng: np.random.Generator
) -> None:
    small, large = tmp_path / f"small.{kind}", tmp_path / f"large.{kind}"
    write_96_megabytes(small, large, rng.integers(10**6, 10**6 + 1000, 100_000, dtype=np.int64))
    done = subprocess.run(
        [sys.executable, "-c", PEAK, small, large], capture_output=True, text=True, check=True
    )
    counted, kilobytes = map(int, done.stdout.split())
    assert counted == 12_000_000
    assert large.stat().st_size >= 96e6
    assert kilobytes < 32_000


@pytest.mark.parametrize(
    ("counts", "frequency"), [([5, 1, 1, 0, 1], 3.0), ([5, 2], 1.0), ([], 1.0), ([1.0, 1.5], 1.0)]
)
def test_unseen_frequency_counts_features_seen_once(counts: list[float], frequency: float) -> None:
    assert unseen_frequency(counts) == frequency
