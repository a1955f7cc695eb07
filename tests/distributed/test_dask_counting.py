"""Counting and renumbering by the workers of a cluster."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from distributed import Client

from saec import DataError, FieldError, IdError, distributed
from saec.tables.counting import count_columns

COLUMNS = {"user": "u", "words": "w"}
SIZES = {"user": 50_000, "words": 40}


@pytest.fixture
def log(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Ten files, more than a group; users up to 20,000."""
    folder = tmp_path / "log"
    folder.mkdir()
    for number in range(10):
        words = [list(rng.integers(0, 30, rng.integers(0, 4))) for _ in range(1000)]
        users = rng.zipf(1.3, 1000).clip(max=20_000)
        table = {"u": users, "w": pa.array(words, pa.list_(pa.int16()))}
        pq.write_table(pa.table(table), folder / f"{number}.parquet")
    return folder


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saec.distributed.output_windows._LEAST", 1 << 16)


@pytest.mark.parametrize("sizes", [SIZES, None])
@pytest.mark.parametrize("filed", [False, True])
def test_counts_are_those_of_one_process(
    log: Path,
    tmp_path: Path,
    client: Client,
    small_windows: None,
    sizes: dict[str, int] | None,
    filed: bool,
) -> None:
    out = tmp_path / "counts" if filed else None
    (tmp_path / "counts").mkdir()
    expected = count_columns(log, COLUMNS, sizes, progress=False)
    found = distributed.count_columns(log, COLUMNS, sizes, client, out, progress=False)
    assert list(found) == ["user", "words"]
    for name, counts in found.items():
        assert counts.dtype == np.int64
        np.testing.assert_array_equal(counts, expected[name])
        assert isinstance(counts, np.memmap) == filed
    files = ["00000.npy", "00001.npy"] if filed else []
    assert sorted(path.name for path in (tmp_path / "counts").iterdir()) == files


def test_errors_of_a_log_are_reported(log: Path, tmp_path: Path, client: Client) -> None:
    with pytest.raises(IdError, match=r"'words': id \d+ is out of range; ids go from 0 to 4"):
        distributed.count_columns(log, {"words": "w"}, {"words": 5}, client)
    with pytest.raises(DataError, match="no column 'x'; there are u, w"):
        distributed.count_columns(log, {"user": "x"}, None, client)
    with pytest.raises(DataError, match="no such file"):
        distributed.count_columns(tmp_path / "none", COLUMNS, None, client)
    with pytest.raises(DataError, match="no columns"):
        distributed.count_columns(log, {}, None, client)


@pytest.mark.parametrize("filed", [False, True])
def test_renumbering_is_a_stable_sort(
    tmp_path: Path,
    client: Client,
    small_parts: None,
    small_windows: None,
    rng: np.random.Generator,
    filed: bool,
) -> None:
    counts = rng.zipf(1.2, 30_001).clip(max=2000) - 1
    np.save(tmp_path / "counts.npy", counts)
    out = tmp_path / "order.npy" if filed else None
    mapped = np.load(tmp_path / "counts.npy", mmap_mode="r")
    found = distributed.renumber(mapped, client, out, progress=False)
    np.testing.assert_array_equal(found, np.argsort(-counts, kind="stable"))
    left = ["counts.npy", "order.npy"] if filed else ["counts.npy"]
    assert sorted(path.name for path in tmp_path.iterdir()) == left


def test_renumbering_leaves_nothing_behind_if_it_fails(
    tmp_path: Path, client: Client, small_parts: None, small_windows: None
) -> None:
    counts = np.ones(30_000)
    counts[29_999] = np.nan
    with pytest.raises(FieldError, match="the frequency of id 29999 is nan"):
        distributed.renumber(counts, client, tmp_path / "order.npy", progress=False)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError, match=r"cannot write .*order.npy: .*none is no folder"):
        distributed.renumber(
            np.ones(30_000), client, tmp_path / "none" / "order.npy", progress=False
        )
