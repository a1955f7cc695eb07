"""Several files as one: indices, folders, patterns, and shards of one table."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from saec.errors import CheckpointError
from saec.sources.naming import in_order
from saec.streaming.rows import FileRows, JoinedRows, Rows
from saec.tables.checkpoint import read_frequencies, read_tables

USER = np.arange(14, dtype=np.float32).reshape(7, 2)
ITEM = np.arange(6, dtype=np.float16).reshape(2, 3)
INDEX = "model.safetensors.index.json"


def values(rows: Rows) -> np.ndarray:
    return rows.read(0, len(rows))


def write_index(folder: Path, places: Mapping[str, object], name: str = INDEX) -> Path:
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / name).write_text(json.dumps(index))
    return folder / name


@pytest.fixture
def indexed(tmp_path: Path) -> Path:
    """Two tables in two files with an index, one of them in three shards of rows."""
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    save_file({"user-0-of-3": USER[:4], "item.weight": ITEM}, tmp_path / first)
    save_file({"user-1-of-3": USER[4:6], "user-2-of-3": USER[6:]}, tmp_path / second)
    places = {"user-0-of-3": first, "item.weight": first}
    write_index(tmp_path, places | {"user-1-of-3": second, "user-2-of-3": second})
    return tmp_path


@pytest.mark.parametrize("where", ["", INDEX, "*.safetensors", "*.json"])
def test_an_index_and_its_files(indexed: Path, where: str) -> None:
    tables = read_tables(indexed / where)
    assert set(tables) == {"user", "item.weight"}
    assert isinstance(tables["item.weight"], FileRows)
    assert np.array_equal(values(tables["item.weight"]), ITEM)
    assert isinstance(tables["user"], JoinedRows)
    assert tables["user"].borders == (0, 4, 6, 7)
    assert np.array_equal(values(tables["user"]), USER)
    assert tables["user"].read(3, 5).tolist() == [[6, 7], [8, 9]]
    assert pickle.loads(pickle.dumps(tables["user"])).read(6, 7).tolist() == [[12, 13]]


def test_what_an_index_leaves_out_is_left_out(tmp_path: Path) -> None:
    save_file({"user": USER, "item": ITEM}, tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_text("of something else")
    assert set(read_tables(write_index(tmp_path, {"user": "a.safetensors"}))) == {"user"}


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ({"user": "a.safetensors", "x": "a.safetensors"}, r"files that it names: x \(a.safet"),
        ({"user": "b.safetensors"}, "names 'b.safetensors'; .*: no such file"),
        ({"user": "../a.safetensors"}, "names '../a.safetensors', a file outside its folder"),
        ({"user": "/a.safetensors"}, "names '/a.safetensors', a file outside its folder"),
        ({"user": 1}, "not an index: weight_map must give a file for each tensor"),
        ([1], "not an index"),
    ],
)
def test_bad_indices(tmp_path: Path, places: dict[str, object], message: str) -> None:
    save_file({"user": USER}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=message):
        read_tables(write_index(tmp_path, places))


@pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 100_000])
def test_files_that_are_no_index(tmp_path: Path, text: str) -> None:
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(CheckpointError, match=r"index.json: not an index"):
        read_tables(tmp_path)


def test_two_indices_in_a_folder(indexed: Path) -> None:
    write_index(indexed, {}, "other.safetensors.index.json")
    with pytest.raises(CheckpointError, match="2 indices, of which one is to be named; it holds "):
        read_tables(indexed)


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("form", ["user-{}", "user-0000{}", "user-{}-of-3", "user-0000{}-of-00003"])
def test_numpy_files_are_shards(tmp_path: Path, form: str, first: int) -> None:
    for number, rows in enumerate((USER[:4], USER[4:6], USER[6:])):
        np.save(tmp_path / f"{form.format(first + number)}.npy", rows)
    np.save(tmp_path / "item.npy", ITEM)
    tables = read_tables(tmp_path)
    assert set(tables) == {"user", "item"}
    assert np.array_equal(values(tables["user"]), USER)
    (only,) = read_tables(tmp_path / "user-*.npy").values()
    assert np.array_equal(values(only), USER)
    single = tmp_path / f"{form.format(first)}.npy"
    assert list(read_tables(single)) == [single.stem]


def test_shards_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in range(12):
        np.save(tmp_path / f"counts-{number}.npy", np.array([number, 10 * number]))
    expected = [value for number in range(12) for value in (number, 10 * number)]
    assert values(read_frequencies(tmp_path)["counts"]).tolist() == expected
    names = [Path(name) for name in ("a/b-10", "a/b-9", "a-2/b", "a-10/b")]
    assert [str(path) for path in in_order(names)] == ["a/b-9", "a/b-10", "a-2/b", "a-10/b"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["user-0", "user-2"], "shards 0, 2 of user; they must count from 0 or 1 without a gap$"),
        (["user-2", "user-3"], "shards 2, 3 of user; they must count from 0 or 1 without"),
        (["user-0-of-3", "user-2-of-3"], "shards 0, 2 of user; .* a gap to the last of 3"),
        (["user-0-of-3", "user-1-of-3"], "shards 0, 1 of user; .* a gap to the last of 3"),
        (["user-0-of-2", "user-1-of-3"], "shards 0, 1 of user; "),
        (["user-0-of-2", "user-1"], "shards 0, 1 of user; "),
        (["user-1", "user-01"], "user-01 and user-1 are the same rows"),
        (["user", "user-0"], "user and user-0 are the same rows"),
        (["user-0-of-99999999999999"], "to the last of 99999999999999"),
    ],
)
def test_missing_shards(tmp_path: Path, names: list[str], message: str) -> None:
    for name in names:
        np.save(tmp_path / f"{name}.npy", USER)
    with pytest.raises(CheckpointError, match=message):
        read_tables(tmp_path / "*.npy")


def test_shards_that_differ(tmp_path: Path) -> None:
    save_file({"user-1-of-2": USER, "user-2-of-2": ITEM}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"user: shard 1 has rows of float16 \(3,\), shard 0"):
        read_tables(tmp_path / "model.safetensors")


def test_numbers_alone_do_not_join_the_tensors_of_a_state_dict(tmp_path: Path) -> None:
    torch.save({"tower-0": torch.ones(2, 2), "tower-1": torch.ones(2, 2)}, tmp_path / "model.pt")
    assert set(read_tables(tmp_path / "model.pt")) == {"tower-0", "tower-1"}


def test_several_files_of_any_kind(tmp_path: Path) -> None:
    torch.save({"user": torch.from_numpy(USER)}, tmp_path / "a.pt")
    torch.save({"item": torch.from_numpy(ITEM)}, tmp_path / "b.pt")
    assert set(read_tables(tmp_path)) == set(read_tables(f"{tmp_path}/[ab].pt")) == {"user", "item"}
    torch.save({"item": torch.from_numpy(ITEM)}, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match=r"c.pt: holds item, as .*b.pt does"):
        read_tables(tmp_path)


def test_folders_and_patterns_with_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no kind of file that is known; it holds none"):
        read_tables(tmp_path)
    with pytest.raises(CheckpointError, match=r"absent-\*.npy: no such file"):
        read_tables(tmp_path / "absent-*.npy")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "logs").mkdir()
    with pytest.raises(CheckpointError, match=r"is known; it holds config.json, logs/"):
        read_tables(tmp_path)
    np.save(tmp_path / "user.npy", USER)
    assert set(read_tables(tmp_path)) == {"user"}
    np.savez(tmp_path / "user.npz", user=USER)
    with pytest.raises(
        CheckpointError, match=r"several kinds, .npy, .npz; name those of one, like"
    ):
        read_tables(tmp_path)


def test_brackets_in_a_folder_s_name(tmp_path: Path) -> None:
    folder = tmp_path / "run[1]"
    folder.mkdir()
    np.save(folder / "user.npy", USER)
    assert set(read_tables(folder)) == set(read_tables(folder / "user.npy")) == {"user"}


PEAK = """
import sys
from pathlib import Path
from saec.tables.checkpoint import read_tables

def peak_megabytes():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1000

before = peak_megabytes()
(rows,) = read_tables(sys.argv[1]).values()
starts = range(0, len(rows), 100_000)
total = sum(float(rows.read(start, start + 100_000).sum(dtype=float)) for start in starts)
print(total, peak_megabytes() - before)
"""


@pytest.mark.exhaustive
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("kind", ["safetensors", "npy", "npz", "pt", "shards"])
def test_reading_parts_does_not_hold_the_table(tmp_path: Path, kind: str) -> None:
    table = np.zeros((5_000_000, 16), np.float32)  # 320 MB
    table[::1000] = 0.25
    writers = {
        "safetensors": lambda: save_file({"user": table}, tmp_path / "user.safetensors"),
        "npy": lambda: np.save(tmp_path / "user.npy", table),
        "npz": lambda: np.savez(tmp_path / "user.npz", user=table),
        "pt": lambda: torch.save({"user": torch.from_numpy(table)}, tmp_path / "user.pt"),
        "shards": lambda: [
            np.save(tmp_path / f"user-{i}.npy", rows) for i, rows in enumerate(np.split(table, 4))
        ],
    }
    writers[kind]()
    where = tmp_path if kind == "shards" else tmp_path / f"user.{kind}"
    done = subprocess.run(
        [sys.executable, "-c", PEAK, where], capture_output=True, text=True, check=True
    )
    for file in tmp_path.iterdir():
        file.unlink()
    total, megabytes = map(float, done.stdout.split())
    assert total == 5000 * 16 * 0.25
    assert megabytes < 60
