"""Folders of torch.distributed.checkpoint, written by PyTorch, read without it."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex

from saec.errors import CheckpointError
from saec.sources.beside import BesideRows
from saec.sources.pickles import StandIn, unpickled
from saec.streaming.rows import ArrayRows, FileRows, JoinedRows, Rows
from saec.tables.checkpoint import read_frequencies, read_tables

USER = torch.arange(12, dtype=torch.float32).reshape(6, 2)
ITEM = torch.arange(8, dtype=torch.float32).reshape(2, 4).to(torch.bfloat16)


def save(state: dict[str, Any], folder: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # says that there is but one process
        dcp.save(state, checkpoint_id=folder)
    return folder


def values(rows: Rows) -> np.ndarray:
    return rows.read(0, len(rows))


def model() -> dict[str, torch.Tensor]:
    return {
        "user.weight": USER,
        "item.weight": ITEM,
        "turned": USER.T,
        "seen": torch.tensor([5, 0, 2]),
        "cube": torch.ones(2, 2, 2),
        "ids": torch.ones(2, 2, dtype=torch.int32),
        "none": torch.ones(0, 4),
    }


def test_tables_are_read_in_place(tmp_path: Path) -> None:
    folder = save(model(), tmp_path / "step-1")
    tables = read_tables(folder)
    assert set(tables) == {"user.weight", "item.weight", "turned"}
    user = tables["user.weight"]
    assert isinstance(user, FileRows)
    assert user.path == folder / "__0_0.distcp"
    assert user.read(1, 3).tolist() == [[2, 3], [4, 5]]
    assert np.array_equal(values(tables["turned"]), USER.T.numpy())
    assert tables["item.weight"].dtype == ml_dtypes.bfloat16
    assert values(tables["item.weight"]).astype(int).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert values(read_frequencies(folder)["seen"]).tolist() == [5, 0, 2]


def test_a_file_for_each_tensor(tmp_path: Path) -> None:
    writer = dcp.FileSystemWriter(tmp_path / "step-1", single_file_per_rank=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save({"a": USER, "b": USER + 1}, storage_writer=writer)
    tables = read_tables(tmp_path / "step-1")
    assert np.array_equal(values(tables["a"]) + 1, values(tables["b"]))
    assert tables["a"].identity[0] != tables["b"].identity[0]


@pytest.mark.parametrize("key", ["model", "state_dict", "model_state_dict"])
def test_the_state_dict_may_be_an_inner_one(tmp_path: Path, key: str) -> None:
    state = {key: model(), "optim": {"exp_avg": torch.zeros(6, 2)}, "epoch": 3}
    tables = read_tables(save(state, tmp_path / "step-1"))
    assert set(tables) == {"user.weight", "item.weight", "turned"}


def test_a_module_named_model_stays_in_names(tmp_path: Path) -> None:
    folder = save({"model.user": USER, "model.item": USER, "other": USER}, tmp_path / "step-1")
    assert set(read_tables(folder)) == {"model.user", "model.item", "other"}


TWO_PROCESSES = """
import os, sys, warnings
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed._shard import sharded_tensor
from torch.distributed._shard.metadata import ShardMetadata
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

warnings.simplefilter("ignore")
store, folder = sys.argv[1:]
child = os.fork()  # the second process, which need not import anything again
rank = int(child == 0)
dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))
whole = torch.arange(28, dtype=torch.float32).reshape(7, 4)
state = {
    "rows": distribute_tensor(whole, mesh, [Shard(0)]),
    "columns": distribute_tensor(whole, mesh, [Shard(1)]),
    "copies": distribute_tensor(whole, mesh, [Replicate()]),
    "seen": distribute_tensor(torch.arange(7), mesh, [Shard(0)]),
}
first, last = ((0, 3), (3, 7))[rank]  # as torchrec cuts its tables
place = ShardMetadata([first, 0], [last - first, 4], f"rank:{rank}/cpu")
local = sharded_tensor.Shard(whole[first:last].clone(), place)
state["local"] = sharded_tensor.init_from_local_shards([local], 7, 4)
dcp.save(state, checkpoint_id=folder)
dist.barrier()
failed = child and os.waitpid(child, 0)[1]
os._exit(int(failed != 0))  # gloo's threads now and then abort a process whose peer has just gone
"""


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of two processes."""
    folder = tmp_path_factory.mktemp("sharded")
    words = [str(folder / "store"), str(folder / "step-1")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", TWO_PROCESSES, *words]
    subprocess.run(command, env=environment, check=True, timeout=120)
    return folder / "step-1"


@pytest.mark.exhaustive
def test_shards_of_two_processes_are_put_together(sharded: Path) -> None:
    whole = np.arange(28, dtype=np.float32).reshape(7, 4)
    tables = read_tables(sharded)
    assert {name: type(rows) for name, rows in tables.items()} == {
        "rows": JoinedRows,
        "columns": BesideRows,
        "copies": FileRows,
        "local": JoinedRows,
    }
    assert tables["rows"].borders == (0, 4, 7)
    assert tables["local"].borders == (0, 3, 7)
    for rows in tables.values():
        assert np.array_equal(values(rows), whole)
        assert np.array_equal(rows.read(3, 5), whole[3:5])
        part = pickle.loads(pickle.dumps(rows.part(2, 6)))
        assert np.array_equal(part.read(1, 4), whole[3:6])
        assert part.identity != rows.identity
    assert values(read_frequencies(sharded)["seen"]).tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_columns_that_do_not_fit() -> None:
    four, three = ArrayRows(np.ones((4, 2))), ArrayRows(np.ones((3, 2)))
    with pytest.raises(CheckpointError, match="shard 1 of the columns has 3 rows of float64, sh"):
        BesideRows([four, three])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    folder = save(model(), tmp_path / "step-1")
    (folder / "__0_0.distcp").unlink()
    with pytest.raises(CheckpointError, match=r"__0_0.distcp: no such file; [\w.]+ lies in it"):
        read_tables(folder)


def edit(folder: Path, change: Any) -> None:
    path = folder / ".metadata"
    metadata = pickle.loads(path.read_bytes())
    change(metadata)
    path.write_bytes(pickle.dumps(metadata))


def chunks(*places: tuple[tuple[int, int], tuple[int, int]]) -> Any:
    """Say that the tensor lies in these chunks, all stored where the first one is."""

    def change(metadata: Any) -> None:
        metadata.state_dict_metadata["user"].chunks = [
            ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes))
            for offsets, sizes in places
        ]
        stored = metadata.storage_data[MetadataIndex("user", (0, 0))]
        for offsets, _ in places:
            metadata.storage_data[MetadataIndex("user", offsets)] = stored

    return change


def moved(**attributes: object) -> Any:
    def change(metadata: Any) -> None:
        for key, value in attributes.items():
            setattr(metadata.storage_data[MetadataIndex("user", (0, 0))], key, value)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (chunks(((0, 0), (6, 2)), ((7, 0), (6, 2))), "leave or repeat row 6"),
        (chunks(((0, 0), (6, 2)), ((5, 0), (6, 2))), "leave or repeat row 6"),
        (chunks(((0, 0), (5, 2))), r"user is \(6, 2\) there, not \(5, 2\)"),
        (chunks(((0, 0), (6, 1))), "from row 0 on do not lie side by side"),
        (chunks(((0, 0), (6, 1)), ((0, 1), (5, 1))), "from row 0 on do not lie side by side"),
        (chunks(), "end at row 0 of 6"),
        (moved(relative_path="../x"), r"user lies in '\.\./x', a file outside"),
        (moved(relative_path="/x"), "user lies in '/x', a file outside"),
        (moved(transform_descriptors=["zstd"]), r"stored by extensions \(zstd\)"),
        (moved(length=100), "user at byte 0 is damaged: File is not a zip file"),
        (
            lambda metadata: metadata.storage_data.clear(),
            r"\.metadata: damaged: more chunks than are stored",
        ),
    ],
)
def test_bad_metadata(tmp_path: Path, change: Any, message: str) -> None:
    folder = save({"user": USER}, tmp_path / "step-1")
    edit(folder, change)
    with pytest.raises(CheckpointError, match=message):
        read_tables(folder)


class Exploit:
    """Unpickling one would end the process."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return sys.exit, ("unpickled",)


def test_nothing_in_the_metadata_is_run(tmp_path: Path) -> None:
    folder = save({"user": USER}, tmp_path / "step-1")
    edit(folder, lambda metadata: setattr(metadata, "storage_meta", Exploit()))
    assert values(read_tables(folder)["user"]).tolist() == USER.tolist()
    (folder / ".metadata").write_bytes(pickle.dumps(Exploit()))
    with pytest.raises(CheckpointError, match=r"\.metadata: not the metadata of a distributed"):
        read_tables(folder)


def test_stand_ins_hold_what_a_pickle_gives() -> None:
    found = unpickled(pickle.dumps({"a": [Exploit(), (1, 2.5, "b", None)]}))
    assert isinstance(found, dict)
    exploit, plain = found["a"]
    assert isinstance(exploit, StandIn)
    assert (exploit.kind, exploit.given, plain) == (
        "sys.exit",
        ("unpickled",),
        (1, 2.5, "b", None),
    )
    with pytest.raises(ValueError, match="a pickle of 4 bytes"):
        unpickled(pickle.dumps(None), most=3)
    with pytest.raises(ValueError, match="a persistent id"):
        unpickled(b"\x80\x02K\x01Q.")


def test_a_pickle_cannot_ask_for_a_huge_memo() -> None:
    assert unpickled(b"\x80\x02K\x01r\xff\xff\xff\xff.") == 1  # LONG_BINPUT 4294967295


@pytest.mark.parametrize("name", [".metadata", "__0_0.distcp"])
def test_damaged_bytes_end_in_an_error_or_a_table(
    tmp_path: Path, name: str, rng: np.random.Generator
) -> None:
    folder = save({"user": USER}, tmp_path / "step-1")
    whole = (folder / name).read_bytes()
    errors = 0
    for _ in range(150):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), 3):
            damaged[place] = rng.integers(256)
        (folder / name).write_bytes(damaged)
        try:
            assert all(values(table).ndim == 2 for table in read_tables(folder).values())
        except CheckpointError:
            errors += 1
    assert errors


def test_tensors_that_cannot_be_read_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = torch.ones(3, 2, dtype=torch.complex64)
    with pytest.raises(CheckpointError, match="cannot be read: other is complex"):
        read_tables(save({"other": other}, tmp_path / "one"))
    assert set(read_tables(save({"user": USER, "other": other}, tmp_path / "two"))) == {"user"}
    assert "two: tensors that cannot be read: other is complex" in caplog.text
