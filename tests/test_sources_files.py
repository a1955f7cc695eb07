"""Every kind of file read alike, and bad files refused by name."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import re
import struct
import sys
import zipfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from saec.errors import CheckpointError
from saec.streaming.rows import ArrayRows, FileRows, Rows
from saec.tables.checkpoint import read_tables

USER = np.arange(6, dtype=np.float32).reshape(3, 2)
ITEM = np.linspace(-1, 1, 8, dtype=np.float16).reshape(2, 4)

State = dict[str, torch.Tensor]


def values(rows: Rows) -> np.ndarray:
    return rows.read(0, len(rows))


def state() -> State:
    return {
        "user.weight": torch.from_numpy(USER.copy()),
        "item.weight": torch.from_numpy(ITEM.copy()),
        "bias": torch.ones(3),
        "ids": torch.ones(2, 2, dtype=torch.int64),
        "cube": torch.ones(2, 2, 2),
    }


def save_safetensors(path: Path, tensors: State) -> None:
    safetensors.torch.save_file(tensors, path)


def save_npz(path: Path, tensors: State) -> None:
    np.savez(path, **{name: tensor.numpy() for name, tensor in tensors.items()})


def save_old_torch(path: Path, tensors: State) -> None:
    torch.save(tensors, path, _use_new_zipfile_serialization=False)


def save_nested(key: str) -> Callable[[Path, State], None]:
    def save(path: Path, tensors: State) -> None:
        optimizer = {"state": {0: {"exp_avg": torch.zeros(3, 2)}}}
        torch.save({"epoch": 3, key: tensors, "optimizer": optimizer}, path)

    return save


class Hooks:
    """An object of the kind that trainers keep in their checkpoints."""

    def __init__(self) -> None:
        self.seen = {"best": Path("best.ckpt"), "scores": [0.5]}


def save_lightning(path: Path, tensors: State) -> None:
    rest = {
        "epoch": 3,
        "pytorch-lightning_version": "2.4.0",
        "hyper_parameters": Namespace(dim=2, hooks=Hooks()),
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5), "hooks": Hooks()}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3, 2)}}, "param_groups": []}],
    }
    torch.save(rest | {"state_dict": tensors}, path)


WRITERS: dict[str, Callable[[Path, State], None]] = {
    "model.safetensors": save_safetensors,
    "model.npz": save_npz,
    "model.pt": lambda path, tensors: torch.save(tensors, path),
    "model.pth": save_old_torch,
    "lightning.pt": save_nested("state_dict"),
    "epoch=3-step=100.ckpt": save_lightning,
    "recipe.pt": save_nested("model_state_dict"),
    "pytorch_model.bin": save_nested("model"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_tables_of_every_kind_of_file(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name, state())
    tables = read_tables(tmp_path / name)
    assert set(tables) == {"user.weight", "item.weight"}
    for table, expected in ((tables["user.weight"], USER), (tables["item.weight"], ITEM)):
        assert table.dtype == expected.dtype
        assert np.array_equal(values(table), expected)


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt", "model.pth"])
def test_bfloat16(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name, {"user": torch.from_numpy(USER).to(torch.bfloat16)})
    table = read_tables(tmp_path / name)["user"]
    assert table.dtype == ml_dtypes.bfloat16
    assert np.array_equal(values(table).astype(np.float32), USER)


@pytest.mark.parametrize(("order", "kind"), [("C", FileRows), ("F", ArrayRows)])
def test_npy_is_one_table_named_like_the_file(tmp_path: Path, order: str, kind: type[Rows]) -> None:
    np.save(tmp_path / "user.npy", np.array(USER, order=order))  # type: ignore[call-overload]
    tables = read_tables(tmp_path / "user.npy")
    assert list(tables) == ["user"]
    assert isinstance(tables["user"], kind)
    assert np.array_equal(values(tables["user"]), USER)
    assert tables["user"].read(1, 3).tolist() == [[2, 3], [4, 5]]


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_is_read_in_place_unless_packed(
    tmp_path: Path, save: Callable[..., None], order: str
) -> None:
    save(tmp_path / "model.npz", user=np.array(USER, order=order), one=np.float32(2))
    table = read_tables(tmp_path / "model.npz")["user"]
    assert isinstance(table, FileRows) == (save is np.savez and order == "C")
    assert np.array_equal(values(table), USER)


def test_a_single_saved_tensor(tmp_path: Path) -> None:
    torch.save(torch.from_numpy(USER), tmp_path / "user.pt")
    assert np.array_equal(values(read_tables(tmp_path / "user.pt")["user"]), USER)


def test_parameters_and_strided_tensors(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(6, 4)
    tensors = {
        "turned": torch.nn.Parameter(torch.from_numpy(USER.copy()).T),
        "columns": base[1:, 1:3],
        "every": base[::2],
        "rows": base[2:4],
        "one": base[3:4, 1:3],
        "again": base[:1].expand(3, 4),
        "none": base[:0],
    }
    torch.save(tensors, tmp_path / "model.pt")
    tables = read_tables(tmp_path / "model.pt")
    assert {name for name, rows in tables.items() if isinstance(rows, FileRows)} == {
        "rows",
        "one",
        "none",
    }
    for name, tensor in tensors.items():
        assert np.array_equal(values(tables[name]), tensor.detach().numpy()), name


UNREAD = {
    "sparse": (lambda rows: rows.to_sparse(), r"sparse; save its \.to_dense\(\)"),
    "rows": (lambda rows: rows.to_sparse_csr(), r"sparse; save its \.to_dense\(\)"),
    "fp8": (
        lambda rows: rows.to(torch.float8_e4m3fn),
        r"of torch\.float8_e4m3fn; save its \.float",
    ),
    "meta": (lambda rows: rows.to("meta"), "on the meta device, without values"),
    "complex": (lambda rows: rows + 1j, r"complex; save its \.real and its \.imag"),
    "half": (lambda rows: rows.to(torch.complex32), r"complex; save its \.real and its \.imag"),
    "quantised": (
        lambda rows: torch.quantize_per_tensor(rows, 0.1, 0, torch.qint8),
        r"quantised; save its \.dequantize\(\)",
    ),
}


@pytest.mark.filterwarnings(
    "ignore:.*quantize_per_tensor", "ignore:Sparse CSR", "ignore:ComplexHalf"
)
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kind", UNREAD)
def test_tensors_that_cannot_be_read_are_named(
    kind: str, legacy: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make, reason = UNREAD[kind]
    path, zipped = tmp_path / "model.pt", not legacy
    user = torch.from_numpy(USER)
    other = make(torch.ones(3, 2))
    torch.save({"other": nn.Parameter(other, False)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=f"cannot be read: other is {reason}"):
        read_tables(path)
    torch.save({"user": user, "other": other}, path, _use_new_zipfile_serialization=zipped)
    assert list(read_tables(path)) == ["user"]
    assert re.search(f"{path}: tensors that cannot be read: other is {reason}", caplog.text)


def test_parameters_with_attributes_are_read(tmp_path: Path) -> None:
    parameter = nn.Parameter(torch.from_numpy(USER))
    parameter.note = "kept with it"  # type: ignore[attr-defined]
    torch.save({"user": parameter}, tmp_path / "model.pt")
    assert np.array_equal(values(read_tables(tmp_path / "model.pt")["user"]), USER)


@pytest.mark.parametrize("name", ["model.safetensors", "model.npz", "model.pt"])
def test_rows_are_read_in_place(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name, state())
    table = read_tables(tmp_path / name)["user.weight"]
    assert isinstance(table, FileRows)
    assert table.path == tmp_path / name
    assert pickle.loads(pickle.dumps(table)).read(1, 2).tolist() == [[2, 3]]


def write_header(path: Path, header: dict[str, object], data: bytes, padding: int = 0) -> None:
    text = json.dumps(header).encode() + b" " * padding
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.mark.parametrize("padding", range(4))
def test_unaligned_safetensors_become_aligned(tmp_path: Path, padding: int) -> None:
    entry = {"dtype": "F32", "shape": [3, 2], "data_offsets": [0, 24]}
    write_header(tmp_path / "odd.safetensors", {"user": entry}, USER.tobytes(), padding)
    table = values(read_tables(tmp_path / "odd.safetensors")["user"])
    assert table.flags.aligned
    assert np.array_equal(table, USER)


def test_unknown_and_empty_safetensors_are_left_out(tmp_path: Path) -> None:
    header = {
        "__metadata__": {"format": "pt"},
        "fp4": {"dtype": "F4", "shape": [2, 2], "data_offsets": [0, 2]},
        "fp8": {"dtype": "F8_E4M3", "shape": [2, 2], "data_offsets": [2, 6]},
        "none": {"dtype": "F32", "shape": [0], "data_offsets": [6, 6]},
        "scalar": {"dtype": "F16", "shape": [], "data_offsets": [6, 8]},
        "user": {"dtype": "F32", "shape": [3, 2], "data_offsets": [8, 32]},
    }
    write_header(tmp_path / "m.safetensors", header, bytes(8) + USER.tobytes())
    assert list(read_tables(tmp_path / "m.safetensors")) == ["user"]


@pytest.mark.parametrize("shape", [(2, -3), (-2, -3), (1 << 40, 1 << 40)])
def test_impossible_shapes_in_an_npz(tmp_path: Path, shape: tuple[int, int]) -> None:
    buffer = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)  # type: ignore[arg-type]
    with zipfile.ZipFile(tmp_path / "odd.npz", "w") as archive:
        archive.writestr("user.npy", buffer.getvalue() + bytes(24))
    with pytest.raises(CheckpointError, match=r"odd.npz: cannot be read as .npz: user.npy"):
        read_tables(tmp_path / "odd.npz")


@pytest.mark.parametrize("name", ["model.safetensors", "model.npz", "model.pt"])
def test_no_table_says_what_was_found(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name, {"bias": torch.ones(3), "ids": torch.ones(2, 2).to(torch.int64)})
    with pytest.raises(CheckpointError, match="no two-dimensional floating-point table") as error:
        read_tables(tmp_path / name)
    assert "bias (3,) float32; " in str(error.value) + "; "
    assert "ids (2, 2) int64" in str(error.value)


def test_a_long_list_of_what_was_found_is_cut(tmp_path: Path) -> None:
    np.savez(tmp_path / "model.npz", **{f"bias{i}": np.ones(1) for i in range(20)})
    with pytest.raises(CheckpointError, match=r"bias7 \(1,\) float64; and 12 more$"):
        read_tables(tmp_path / "model.npz")


@pytest.mark.parametrize("name", ["empty.safetensors", "empty.npz", "empty.npy", "empty.pt"])
def test_empty_files(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match=name):
        read_tables(tmp_path / name)


@pytest.mark.parametrize("name", ["a.safetensors", "a.npz", "a.npy", "a.pt"])
def test_missing_files(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=f"{name}: no such file"):
        read_tables(tmp_path / name)


def test_unknown_kinds(tmp_path: Path) -> None:
    (tmp_path / "model.h5").touch()
    with pytest.raises(
        CheckpointError, match=r"unknown kind of file; known are .safetensors, .npz"
    ):
        read_tables(tmp_path / "model.h5")


def test_files_named_wrongly(tmp_path: Path) -> None:
    text = b"user,0.5\n" * 100
    for name in ("a.safetensors", "a.npz", "a.npy", "a.pt"):
        (tmp_path / name).write_bytes(text)
        with pytest.raises(CheckpointError, match=name):
            read_tables(tmp_path / name)


class Exploit:
    """Unpickling one would run a command."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return sys.exit, ("unpickled",)


@pytest.mark.parametrize("name", ["a.npz", "a.npy", "a.pt"])
def test_pickles_are_not_loaded(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(pickle.dumps({"user": Exploit()}))
    with pytest.raises(CheckpointError, match=name):
        read_tables(tmp_path / name)


def test_object_arrays_are_not_loaded(tmp_path: Path) -> None:
    exploit = np.array([[Exploit()]])
    np.savez(tmp_path / "a.npz", user=exploit)
    with pytest.raises(CheckpointError, match=r"a.npz: cannot be read .*holds Python objects"):
        read_tables(tmp_path / "a.npz")
    np.savez_compressed(tmp_path / "b.npz", user=exploit)
    with pytest.raises(CheckpointError, match=r"b.npz: cannot be read .*holds Python objects"):
        read_tables(tmp_path / "b.npz")
    np.save(tmp_path / "a.npy", exploit)
    with pytest.raises(CheckpointError, match=r"a.npy: cannot be read .*Python objects"):
        read_tables(tmp_path / "a.npy")


def test_a_pickled_module_is_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Embedding(3, 2), tmp_path / "model.pt")
    with pytest.raises(
        CheckpointError,
        match=r"not a file of tensors alone.*state_dict\(\).*holds a torch.nn.modules.sparse.Embed",
    ):
        read_tables(tmp_path / "model.pt")


def test_code_named_in_a_torch_file_is_not_run(tmp_path: Path) -> None:
    torch.save({"user": torch.from_numpy(USER), "run": Exploit()}, tmp_path / "model.pt")
    assert list(read_tables(tmp_path / "model.pt")) == ["user"]


def test_other_objects_in_torch_files(tmp_path: Path) -> None:
    torch.save([torch.ones(2, 2)], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match=r"list.pt: holds a list, not a state_dict"):
        read_tables(tmp_path / "list.pt")
    torch.save({"epoch": 3, "weights": {}}, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match="no state_dict; it holds 'epoch', 'weights'"):
        read_tables(tmp_path / "odd.pt")


def test_members_of_an_npz_that_are_no_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "model.npz", user=USER)
    with zipfile.ZipFile(tmp_path / "model.npz", "a") as archive:
        archive.writestr("README.txt", "about")
    assert list(read_tables(tmp_path / "model.npz")) == ["user"]


def test_torch_is_not_needed_for_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(state(), tmp_path / "model.pt")
    save_old_torch(tmp_path / "old.pt", state())
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in ("model.pt", "old.pt"):
        assert len(read_tables(tmp_path / name)) == 2


@pytest.mark.parametrize(
    "name", ["model.safetensors", "model.npz", "user.npy", "model.pt", "o.pth"]
)
def test_truncated_at_any_place(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write(path)
    whole = path.read_bytes()
    for length in [*range(1, len(whole), max(1, len(whole) // 40)), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=name):
            read_tables(path)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "model.npz", "user.npy", "model.pt", "o.pth"]
)
def test_damaged_bytes_end_in_an_error_or_an_array(
    tmp_path: Path, name: str, rng: np.random.Generator
) -> None:
    path = tmp_path / name
    write(path)
    whole = path.read_bytes()
    for _ in range(150):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), 3):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        with contextlib.suppress(CheckpointError):
            assert all(values(table).ndim == 2 for table in read_tables(path).values())


def write(path: Path) -> None:
    writers = {".npy": lambda path, _: np.save(path, USER), ".pth": save_old_torch}
    writer = writers.get(path.suffix) or WRITERS[path.name]
    writer(path, state())


def test_a_header_that_exceeds_the_file_is_refused(tmp_path: Path) -> None:
    entry = {"dtype": "F32", "shape": [1 << 40, 2], "data_offsets": [0, 1 << 43]}
    write_header(tmp_path / "big.safetensors", {"user": entry}, USER.tobytes())
    with pytest.raises(CheckpointError, match="not a safetensors file, or truncated"):
        read_tables(tmp_path / "big.safetensors")
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": "<f4", "fortran_order": False, "shape": (1 << 50, 2)}
    )
    (tmp_path / "big.npy").write_bytes(buffer.getvalue() + USER.tobytes())
    with pytest.raises(CheckpointError, match=r"cannot be read as .npy"):
        read_tables(tmp_path / "big.npy")
    with zipfile.ZipFile(tmp_path / "big.npz", "w") as archive:
        archive.write(tmp_path / "big.npy", "user.npy")
    with pytest.raises(CheckpointError, match=r"cannot be read as .npz"):
        read_tables(tmp_path / "big.npz")
