"""Small checkpoints that would take endless time or gigabytes: read or refused within limits."""

from __future__ import annotations

import os
import pickle
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import onnx
import peak_memory
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from saec.errors import CheckpointError, DataError, MetricError
from saec.sources import pickles
from saec.tables.checkpoint import read_tables
from saec.tables.counting import count_columns
from saec.tables.loss_metric_file import load_metrics

MIB = 1 << 20


@contextmanager
def cheap(seconds: float = 5, mib: int = 64) -> Iterator[None]:
    """Check that this context takes little time and memory."""
    before, start = peak_memory.begin(), time.process_time()
    yield
    assert time.process_time() - start < seconds
    assert peak_memory.grown_since(before) < mib * MIB


def write_archive(
    path: Path, pickled: bytes, kind: int = zipfile.ZIP_STORED, storage: bytes = bytes(16)
) -> Path:
    """What ``torch.save`` writes, with a pickle made by hand."""
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", storage, zipfile.ZIP_STORED)
    return path


def laughs() -> object:
    """A tuple of two references to a tuple of two references, and so on: 2^60 leaves."""
    inner: tuple[object, ...] = ("a",)
    for _ in range(60):
        inner = (inner, inner)
    return inner


def as_key(value: object) -> bytes:
    return b"\x80\x04}" + pickle.dumps(value)[2:-1] + b"K\x01s."


# Each is a whole pickle; none may take long, or memory that its bytes do not pay for.
MEMO = b"\x94"  # MEMOIZE
ORDERED = b"ccollections\nOrderedDict\n"
NAME = b"ca\nb\n"
BOMBS: dict[str, bytes] = {
    "hash of a key": as_key(laughs()),
    "hash of a member of a set": b"\x80\x04\x8f(" + pickle.dumps(laughs())[2:-1] + b"\x90.",
    "repr of what is found": pickle.dumps(laughs()),
    "value under state_dict": pickle.dumps({"state_dict": laughs()}),
    "copies of a dictionary": b"\x80\x04(" + b"".join(b"K%cK\0" % n for n in range(200)) + b"d"
    b"\x85" + MEMO + b"0" + ORDERED + MEMO + b"0(" + b"h\1h\0R" * 300_000 + b"l.",
    "arguments copied": b"\x80\x04("
    + b"N" * 100_000
    + b"t"
    + MEMO
    + b"0"
    + NAME
    + MEMO
    + b"0("
    + b"h\1h\0R" * 100_000
    + b"l.",
    "arguments of new objects": b"\x80\x04("
    + b"N" * 100_000
    + b"t"
    + MEMO
    + b"0"
    + NAME
    + MEMO
    + b"0("
    + b"h\1h\0\x81" * 100_000
    + b"l.",
    "a large integer": b"\x80\x02}\x8b" + struct.pack("<i", 1000) + b"\x7f" * 1000 + b"K\x01s.",
    "equal hashes": b"\x80\x02}("
    + b"".join(b"\x8a\x0c" + (k * (2**61 - 1)).to_bytes(12, "little") + b"N" for k in range(40_000))
    + b"u.",
    "a claimed buffer": b"\x80\x05\x96" + (1 << 40).to_bytes(8, "little") + b".",
    "a claimed text": b"\x80\x04\x8d" + (1 << 40).to_bytes(8, "little") + b".",
    "many sets": b"\x80\x04(" + b"\x8f" * 300_000 + b"l.",
    "many classes": b"\x80\x02(" + b"".join(b"ca\nb%d\n" % n for n in range(99_999)) + b"l.",
    "a deep list": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
}


FORMS = ("zip", "before 1.6", "distributed")


# One reader reads them in all forms.
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bomb", BOMBS)
def test_pickles_that_never_end_are_refused(tmp_path: Path, bomb: str, form: str) -> None:
    if form == "zip":
        path = write_archive(tmp_path / "model.pt", BOMBS[bomb])
    elif form == "distributed":
        path = tmp_path
        (path / ".metadata").write_bytes(BOMBS[bomb])
    else:
        path = tmp_path / "model.pt"
        path.write_bytes(BOMBS[bomb])
    with cheap(seconds=20, mib=150), pytest.raises(CheckpointError):
        read_tables(path)


def test_pickles_have_a_number_of_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # An eighth of the usual number, in an eighth of the time.
    assert pickles.MOST_STEPS == 8 << 18
    monkeypatch.setattr(pickles, "MOST_STEPS", 1 << 18)
    path = write_archive(tmp_path / "model.pt", b"\x80\x02" + b"N0" * (1 << 17) + b"N.")
    with cheap(seconds=2.5), pytest.raises(CheckpointError, match="more than 262144 steps"):
        read_tables(path)


class Tensor:
    """Pickles to a tensor of any shape on storage 0."""

    def __init__(self, shape: object, strides: object) -> None:
        self.shape, self.strides = shape, strides

    def __reduce__(self) -> tuple[object, ...]:
        return torch._utils._rebuild_tensor_v2, ("ST", 0, self.shape, self.strides, False, None)


class Pickler(pickle._Pickler):
    storage: tuple[object, ...] = ("storage", torch.FloatStorage, "0", "cpu", 4)

    def persistent_id(self, thing: object) -> object:
        return self.storage if thing == "ST" else None


def pickled_tensor(path: Path, shape: object, strides: object) -> bytes:
    with path.open("wb") as stream:
        Pickler(stream, 2).dump({"a": Tensor(shape, strides)})
    return path.read_bytes()


@pytest.mark.parametrize(
    ("shape", "strides"),
    [
        (laughs(), (1,)),
        ((2, laughs()), (1, 1)),
        ((1,) * 65, (1,) * 65),
        ((1 << 40, 4), (0, 1)),
        ((-1, 4), (0, 1)),
        ((2, 4), (1 << 62, 1)),
    ],
    ids=["nested", "nested length", "long", "repeated", "negative", "beyond"],
)
def test_shapes_that_never_end_are_refused(tmp_path: Path, shape: object, strides: object) -> None:
    pickled = pickled_tensor(tmp_path / "pickle", shape, strides)
    path = write_archive(tmp_path / "model.pt", pickled)
    with cheap(), pytest.raises(CheckpointError, match=r"not a file of tensors alone.*a tensor"):
        read_tables(path)


def test_a_storage_that_is_no_text_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = ("storage", torch.FloatStorage, laughs(), "cpu", 4)
    monkeypatch.setattr(Pickler, "storage", odd)
    path = write_archive(tmp_path / "model.pt", pickled_tensor(tmp_path / "p", (4,), (1,)))
    with cheap(), pytest.raises(CheckpointError, match="persistent id that is no storage's"):
        read_tables(path)


@pytest.mark.parametrize(
    ("member", "mib", "kind", "message"),
    [
        (
            "data.pkl",
            65,
            zipfile.ZIP_DEFLATED,
            "data.pkl takes 68157440 bytes; the limit",
        ),
        ("byteorder", 1, zipfile.ZIP_DEFLATED, "byteorder takes 1048576 bytes; the limit is 16"),
        ("data.pkl", 1, zipfile.ZIP_BZIP2, "data.pkl is packed otherwise than by deflate"),
        ("data.pkl", 1, zipfile.ZIP_LZMA, "data.pkl is packed otherwise than by deflate"),
    ],
)
def test_packed_members_are_refused_before_they_are_unpacked(
    tmp_path: Path, member: str, mib: int, kind: int, message: str
) -> None:
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w", kind) as archive:
        if member != "data.pkl":
            archive.writestr("archive/data.pkl", pickle.dumps({}))
        with archive.open(f"archive/{member}", "w", force_zip64=True) as stream:
            for _ in range(mib):
                stream.write(bytes(MIB))
    with cheap(mib=16), pytest.raises(CheckpointError, match=message):
        read_tables(path)


def test_members_that_claim_less_than_they_hold_are_refused(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "model.pt", bytes(100 * MIB), zipfile.ZIP_DEFLATED)
    whole = path.read_bytes()
    assert whole.count(struct.pack("<I", 100 * MIB)) == 2  # in the member's header, the directory
    path.write_bytes(whole.replace(struct.pack("<I", 100 * MIB), struct.pack("<I", 1000)))
    with cheap(mib=16), pytest.raises(CheckpointError, match="not a file of tensors alone"):
        read_tables(path)


def npy_header(shape: tuple[int, ...]) -> bytes:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (64 - (10 + len(text) + 1) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def test_packed_arrays_have_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", npy_header((1 << 28, 1)) + bytes(MIB))
    claim = len(npy_header((1 << 28, 1))) + MIB
    with cheap(), pytest.raises(CheckpointError, match=r"a\.npy is truncated"):
        read_tables(path)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(struct.pack("<I", claim), struct.pack("<I", (1 << 30) + 1)))
    with cheap(), pytest.raises(CheckpointError, match=r"packed arrays of 1073741825 .*savez"):
        read_tables(path)


def test_directories_of_archives_have_a_limit(tmp_path: Path) -> None:
    """A chunk of a distributed checkpoint lies in an archive of one tensor."""
    import torch.distributed.checkpoint as dcp

    with pytest.warns(UserWarning, match="single process"):
        dcp.save({"user": torch.ones(6, 2)}, checkpoint_id=tmp_path / "step")
    (data,) = (tmp_path / "step").glob("*.distcp")
    with zipfile.ZipFile(data, "a") as archive:
        for number in range(2000):
            archive.writestr(f"archive/more/{number}", b"")
    with cheap(), pytest.raises(CheckpointError, match="damaged"):
        read_tables(tmp_path / "step")


def small_model(folder: Path) -> Path:
    weights = numpy_helper.from_array(np.ones((6, 4), np.float32), "w")
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])
    rows = helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["n", 4])
    node = helper.make_node("Gather", ["w", "ids"], ["rows"])
    graph = helper.make_graph([node], "model", [ids], [rows], [weights])
    onnx.save(helper.make_model(graph), folder / "a.onnx")
    return folder / "a.onnx"


def archive_of_a_large_claim(folder: Path) -> Path:
    """Its directory is said to take 60 MiB."""
    path = write_archive(folder / "a.pt", pickle.dumps({}))
    whole = path.read_bytes()
    at = whole.rindex(b"PK\5\6") + 12  # where the length of the directory stands
    path.write_bytes(whole[:at] + struct.pack("<I", 60 * MIB) + whole[at + 4 :])
    return path


@pytest.mark.parametrize("write", [small_model, archive_of_a_large_claim])
def test_no_more_memory_is_asked_for_than_a_file_has(
    tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    """Python allocates the bytes of a read in advance, so reads must not request the 2 GB limit."""
    path = write(tmp_path)
    tracemalloc.start()
    with suppress(CheckpointError):
        read_tables(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * MIB


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.pt", "a.safetensors", "a.onnx", "a.parquet"])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(CheckpointError, match="is a named pipe, not a regular file"):
        read_tables(tmp_path / name)
    os.mkfifo(tmp_path / ".metadata")
    with pytest.raises(CheckpointError):
        read_tables(tmp_path)


def test_pipes_beside_the_files_that_name_them_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "w")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "w"}}')
    with pytest.raises(CheckpointError, match=r"names 'w'; .* is a named pipe"):
        read_tables(index)
    index.write_text('{"weight_map": {"a": "%s"}}' % ("w" * 300))
    with pytest.raises(CheckpointError, match="File name too long"):
        read_tables(index)
    with pytest.raises(MetricError, match="is a named pipe"):
        load_metrics(tmp_path / "w")
    with pytest.raises(CheckpointError, match="File name too long"):
        read_tables(tmp_path / ("w" * 300))


def test_pipes_in_a_log_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log.csv")
    with pytest.raises(DataError, match="is a named pipe"):
        count_columns(tmp_path, {"user": "user"}, progress=False)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
PAGE = b"<!DOCTYPE html>\n<html><body>404</body></html>"


@pytest.mark.parametrize(
    "name",
    ["a.npy", "a.npz", "a.pt", "a.bin", "a.safetensors", "a.onnx", "a.parquet", "a.ckpt2"],
)
def test_pointers_and_pages_are_called_by_their_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(LFS)
    with pytest.raises(CheckpointError, match=f"{name} is a Git LFS pointer; run 'git lfs pull'"):
        read_tables(path)
    path.write_bytes(PAGE)
    with pytest.raises(CheckpointError, match=f"{name} is an HTML page; the download has failed"):
        read_tables(path)


def test_pointers_in_place_of_logs_and_metrics(tmp_path: Path) -> None:
    (tmp_path / "log.parquet").write_bytes(LFS)
    with pytest.raises(DataError, match="is a Git LFS pointer"):
        count_columns(tmp_path, {"user": "user"}, progress=False)
    (tmp_path / "m.safetensors").write_bytes(LFS)
    with pytest.raises(MetricError, match="is a Git LFS pointer"):
        load_metrics(tmp_path / "m.safetensors")


def test_odd_names_and_scalars_in_safetensors(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / "a.safetensors"
    rows = np.ones((2, 2), np.float32)
    save_file({"t": rows, "s-0-of-2": np.array(1.0), "s-1-of-2": np.array(2.0)}, path)
    assert list(read_tables(path)) == ["t"]
    save_file({"t": rows, f"s-{'1' * 5000}": rows}, path, {"dtype": "F32"})
    assert len(read_tables(path)) == 2


def chain(nodes: int) -> list[object]:
    """Identities one after the other, and a Gather from each of them."""
    made: list[object] = []
    for number in range(nodes):
        before = f"v{number - 1}" if number else "table"
        made.append(helper.make_node("Identity", [before], [f"v{number}"]))
        made.append(helper.make_node("Gather", [f"v{number}", "ids"], [f"r{number}"]))
    return made


def many_inputs(nodes: int) -> list[object]:
    return [helper.make_node("Gather", [f"none{n}", "ids"], [f"r{n}"]) for n in range(nodes)]


@pytest.mark.exhaustive(keep=1)
@pytest.mark.parametrize("nodes", [chain, many_inputs])
def test_graphs_are_searched_in_linear_time(
    tmp_path: Path, nodes: Callable[[int], list[object]]
) -> None:
    count = 8_000
    graph = helper.make_graph(
        nodes(count),
        "model",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])]
        + [helper.make_tensor_value_info(f"i{n}", TensorProto.INT64, []) for n in range(count)],
        [],
        [numpy_helper.from_array(np.ones((3, 2), np.float32), "table")],
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
    with cheap(seconds=10, mib=500):
        if nodes is chain:
            assert list(read_tables(path)) == ["table"]
        else:
            with pytest.raises(CheckpointError, match="no two-dimensional"):
                read_tables(path)


def test_a_file_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], ["rows"])],
        "model",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])],
        [],
        [numpy_helper.from_array(np.ones((3, 2), np.float32), "table")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="w", size_threshold=0)
    assert list(read_tables(path)) == ["table"]
    path.write_bytes(path.read_bytes().replace(b"location\x12\x01w", b"location\x12\x01\xff"))
    with pytest.raises(CheckpointError, match="whose name is no text"):
        read_tables(path)
