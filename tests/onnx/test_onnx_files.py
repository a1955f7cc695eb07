"""Models with external data, models over the limit of a message, and damaged models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import clustered, lookup_model, run, stack_model
from onnx import TensorProto

import saec
import saec.onnx
from saec.errors import CheckpointError
from saec.onnx import files

COUNT, DIM = 3000, 16
TABLE = np.random.default_rng(1).standard_normal((COUNT, DIM)).astype(np.float32)
IDS = np.arange(0, COUNT, 7)


def outside(path: Path) -> Path:
    """A model whose tables are in a separate file."""
    onnx.save(
        stack_model({"a": TABLE, "b": TABLE[:2000]}),
        path,
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=100,
    )
    assert path.stat().st_size < 5000
    return path


def result() -> saec.Compressed:
    return saec.Compressed([clustered("a", COUNT)])


def located(path: Path) -> dict[str, dict[str, str]]:
    """Location of each tensor that is in another file, by name."""
    model = onnx.load(path, load_external_data=False)
    return {
        tensor.name: {entry.key: entry.value for entry in tensor.external_data}
        for tensor in model.graph.initializer
        if tensor.data_location == TensorProto.EXTERNAL
    }


def test_a_model_with_external_data_becomes_one_file(tmp_path: Path) -> None:
    path = outside(tmp_path / "model.onnx")
    (tmp_path / "elsewhere").mkdir()
    out = tmp_path / "elsewhere" / "small.onnx"
    report = saec.onnx.compress(path, result(), out)
    assert report.original_nbytes == TABLE.nbytes
    assert [file.name for file in out.parent.iterdir()] == ["small.onnx"]
    ids = np.array([[2999, 1999], [4, 5]])
    (rows,) = run(out, ids=ids)
    np.testing.assert_array_equal(rows[:, 0], result()["a"].lookup(ids[:, 0]))
    np.testing.assert_array_equal(rows[:, 1], TABLE[ids[:, 1]])


def test_over_2_gib_tensors_go_to_a_second_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = outside(tmp_path / "model.onnx"), tmp_path / "small.onnx"
    whole = tmp_path / "whole.onnx"
    saec.onnx.compress(path, result(), whole)
    monkeypatch.setattr(files, "_LARGEST_MESSAGE", 128_000 + 3000)  # the other table and the codes
    saec.onnx.compress(path, result(), out)
    assert out.stat().st_size < 5000
    onnx.checker.check_model(str(out), full_check=True)
    found = located(out)
    assert {about["location"] for about in found.values()} == {"small.onnx.data"}
    assert all(int(about["offset"]) % 4096 == 0 for about in found.values())
    assert len({about["offset"] for about in found.values()}) == len(found) == 3
    ids = np.array([[2999, 1999], [4, 5]])
    np.testing.assert_array_equal(run(out, ids=ids)[0], run(whole, ids=ids)[0])
    monkeypatch.setattr(files, "_LARGEST_MESSAGE", whole.stat().st_size)
    saec.onnx.compress(path, result(), out)
    assert located(out) == {}


@pytest.mark.exhaustive
def test_a_table_of_more_than_2_gib_is_copied(tmp_path: Path) -> None:
    """It is copied from file to file and mapped by the runtime, so it takes little memory."""
    count = (1 << 31) // (4 * DIM) + 1000
    path, out = tmp_path / "model.onnx", tmp_path / "small.onnx"
    with (tmp_path / "weights.bin").open("wb") as stream:
        stream.write(TABLE.tobytes())
        stream.truncate(TABLE.nbytes + count * 4 * DIM)  # zeros, which take no space on disk
        stream.seek(-4, 2)
        stream.write(np.float32(7).tobytes())
    model = stack_model({"a": TABLE, "b": TABLE[:1]})
    places = {"a": (0, COUNT), "b": (TABLE.nbytes, count)}
    for tensor in model.graph.initializer:
        if tensor.name in places:
            offset, rows = places[tensor.name]
            tensor.ClearField("raw_data")
            tensor.dims[0] = rows
            tensor.data_location = TensorProto.EXTERNAL
            said = {"location": "weights.bin", "offset": offset, "length": rows * 4 * DIM}
            for key, value in said.items():
                tensor.external_data.add(key=key, value=str(value))
    path.write_bytes(model.SerializeToString())
    assert saec.onnx.tables(path)["b"].shape == (count, DIM)
    saec.onnx.compress(path, result(), out)
    assert out.stat().st_size < 5000
    (rows,) = run(out, ids=np.array([[2999, count - 1], [4, 5]]))
    np.testing.assert_array_equal(rows[:, 0], result()["a"].lookup([2999, 4]))
    np.testing.assert_array_equal(rows[:, 1], [[0] * (DIM - 1) + [7], [0] * DIM])
    for file in tmp_path.iterdir():  # pytest keeps temporary files for a while
        file.unlink()


def test_input_files_are_not_changed(tmp_path: Path) -> None:
    path = outside(tmp_path / "model.onnx")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    saec.onnx.compress(path, result(), tmp_path / "small.onnx")
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_the_artifact_may_be_a_path(tmp_path: Path) -> None:
    onnx.save(lookup_model(TABLE), tmp_path / "model.onnx")
    saec.Compressed([clustered("table", COUNT)]).save(tmp_path / "t.saec")
    out = tmp_path / "small.onnx"
    saec.onnx.compress(tmp_path / "model.onnx", tmp_path / "t.saec", out)
    np.testing.assert_array_equal(run(out, ids=IDS)[0], clustered("table", COUNT).lookup(IDS))


def test_files_that_are_not_models_are_refused(tmp_path: Path) -> None:
    for number, content in enumerate((b"", b"not a model", b"\x08\x0a", b"\xff" * 50)):
        path = tmp_path / f"{number}.onnx"
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"{number}\.onnx: not an ONNX model"):
            saec.onnx.compress(path, result(), tmp_path / "small.onnx")
    with pytest.raises(CheckpointError, match=r"none\.onnx: no such file"):
        saec.onnx.tables(tmp_path / "none.onnx")


def test_a_truncated_model(tmp_path: Path) -> None:
    content = lookup_model(TABLE).SerializeToString()
    (tmp_path / "model.onnx").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="not an ONNX model"):
        saec.onnx.tables(tmp_path / "model.onnx")


def test_a_missing_data_file_is_named(tmp_path: Path) -> None:
    path = outside(tmp_path / "model.onnx")
    data = tmp_path / "weights.bin"
    data.write_bytes(data.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=r"b takes 128000 bytes from byte \d+ on"):
        saec.onnx.tables(path)
    with pytest.raises(CheckpointError, match=r"b takes 128000 bytes from byte \d+ on"):
        saec.onnx.compress(path, result(), tmp_path / "small.onnx")
    data.unlink()
    with pytest.raises(CheckpointError, match=r"weights\.bin: no such file"):
        saec.onnx.tables(path)
    assert not (tmp_path / "small.onnx").exists()


@pytest.mark.parametrize("place", ["../weights.bin", "/etc/hostname", ""])
def test_external_data_outside_the_folder_are_refused(place: str, tmp_path: Path) -> None:
    path = outside(tmp_path / "model.onnx")
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = place
    path.write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError, match="outside the folder"):
        saec.onnx.tables(path)
    with pytest.raises(CheckpointError, match="outside the folder"):
        saec.onnx.compress(path, result(), tmp_path / "small.onnx")


@pytest.mark.parametrize(
    ("length", "message"),
    [
        ("x", "b: invalid literal"),
        ("-1", "b takes -1 bytes from byte"),
        ("127999", "b takes 128000 bytes, not 127999"),
        ("999999", "b takes 999999 bytes from byte"),
    ],
)
def test_external_data_of_a_wrong_length_are_refused(
    length: str, message: str, tmp_path: Path
) -> None:
    path = outside(tmp_path / "model.onnx")
    model = onnx.load(path, load_external_data=False)
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == "b")
    for entry in tensor.external_data:
        if entry.key == "length":
            entry.value = length
    path.write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError, match=message):
        saec.onnx.tables(path)


def test_a_table_with_too_few_bytes_is_refused(tmp_path: Path) -> None:
    model = lookup_model(TABLE)
    model.graph.initializer[0].raw_data = TABLE.tobytes()[:-4]
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(CheckpointError, match=r"model\.onnx: table: "):
        saec.onnx.tables(tmp_path / "model.onnx")


def test_damaged_bytes_end_in_typed_errors(tmp_path: Path) -> None:
    content = np.frombuffer(stack_model({"a": TABLE[:90]}).SerializeToString(), np.uint8)
    head = [n for n in range(len(content)) if not 100 < n < len(content) - 700]
    rng = np.random.default_rng(0)
    table = saec.Compressed([clustered("a", 90)])
    outcomes = set()
    for number in range(300):
        damaged = content.copy()
        damaged[rng.choice(head, 1 + number % 3)] = rng.integers(0, 256, 1 + number % 3)
        path = tmp_path / "model.onnx"
        path.write_bytes(damaged.tobytes())
        try:
            saec.onnx.compress(path, table, tmp_path / "small.onnx")
            outcomes.add("written")
        except saec.SaecError as error:
            outcomes.add(type(error).__name__)
    assert outcomes == {"written", "CheckpointError", "OnnxError"}


def test_tables_of_local_functions_are_replaced(tmp_path: Path) -> None:
    gather = onnx.helper.make_node("Gather", ["table", "at"], ["found"])
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("local", 1)]
    look = onnx.helper.make_function("local", "Look", ["table", "at"], ["found"], [gather], opsets)
    model = lookup_model(TABLE)
    model.graph.node[0].CopyFrom(
        onnx.helper.make_node("Look", ["table", "ids"], ["rows"], domain="local")
    )
    model.functions.append(look)
    model.opset_import.append(onnx.helper.make_opsetid("local", 1))
    onnx.save(model, tmp_path / "model.onnx")
    small = saec.Compressed([clustered("table", COUNT)])
    saec.onnx.compress(tmp_path / "model.onnx", small, tmp_path / "small.onnx")
    (rows,) = run(tmp_path / "small.onnx", ids=IDS)
    np.testing.assert_array_equal(rows, small["table"].lookup(IDS))
