"""Where outputs are written: special files are refused, links followed, modes kept."""

from __future__ import annotations

import logging
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import saec
import saec.onnx
from saec import Axes, Field, Ratio, SaecError
from saec.cli import main

DIM, ROWS = 4, 400
COUNTS = 1000 // np.arange(1, ROWS + 1)
METRICS = saec.LossMetrics({"user": np.diag([4e-3, 1e-3, 2e-4, 0])}, 5000, {"user": 0.02})

Writer = Callable[[Path], object]


def write_model(path: Path, weights: np.ndarray) -> None:
    table = onnx.numpy_helper.from_array(weights, "user")
    node = helper.make_node("Gather", ["user", "ids"], ["rows"])
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])
    rows = helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["n", DIM])
    graph = helper.make_graph([node], "g", [ids], [rows], [table])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)


@pytest.fixture(autouse=True)
def _logging() -> Iterator[None]:
    yield
    logging.getLogger("saec").setLevel(logging.NOTSET)  # --quiet raises it


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    weights = np.random.default_rng(0).standard_normal((ROWS, DIM)).astype(np.float32)
    np.save(folder / "user.npy", weights)
    np.save(folder / "counts.npy", COUNTS)
    saec.save_metrics(METRICS, folder / "metrics.safetensors")
    write_model(folder / "model.onnx", weights)
    saec.compress([Field("user", weights, COUNTS)], Ratio(4), progress=False).save(
        folder / "a.saec"
    )
    return folder


def field(inputs: Path) -> Field:
    return Field("user", np.load(inputs / "user.npy", mmap_mode="r"), COUNTS)


def command(*words: object) -> None:
    """Run the command line here; errors are raised."""
    code = main([str(word) for word in words])
    if code:
        raise SaecError(f"ended with {code}")


def writers(inputs: Path) -> dict[str, Writer]:
    """All functions that write a file, by name; commands end with code 2."""
    tables = [inputs / "user.npy", "--frequencies", inputs / "counts.npy", "-q"]
    metrics = ["--metrics", inputs / "metrics.safetensors"]
    loaded, model = saec.load(inputs / "a.saec"), inputs / "model.onnx"
    axes = Axes(order="frequency")
    return {
        "save": loaded.save,
        "metrics": lambda out: saec.save_metrics(METRICS, out),
        "compress": lambda out: saec.compress(
            [field(inputs)], Ratio(4), axes, metrics=METRICS, out=out, progress=False
        ),
        "onnx": lambda out: saec.onnx.compress(model, loaded, out),
        "saec compress": lambda out: command("compress", *tables, "--ratio", 4, "-o", out),
        "saec forecast --json": lambda out: command("forecast", *tables, *metrics, "--json", out),
        "saec forecast --svg": lambda out: command("forecast", *tables, *metrics, "--svg", out),
        "saec lookup": lambda out: command(
            *("lookup", inputs / "a.saec", "user", 0, 1, "-q", "-o", out)
        ),
        "saec export": lambda out: command("export", model, inputs / "a.saec", "-q", "-o", out),
    }


NAMES = (
    *("save", "metrics", "compress", "onnx", "saec compress", "saec forecast --json"),
    *("saec forecast --svg", "saec lookup", "saec export"),
)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def make_device(path: Path) -> None:
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only the superuser makes devices")


MAKERS: dict[str, Callable[[Path], object]] = {
    "a named pipe": os.mkfifo,
    "a character device": make_device,
    "a socket": make_socket,
    "a directory": Path.mkdir,
}


@pytest.fixture
def short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: names of sockets are no longer than some hundred bytes."""
    monkeypatch.chdir(tmp_path)
    return Path()


def kinds_and_writers() -> Iterator[tuple[str, str]]:
    """Every kind of file for one writer, and every writer for one kind."""
    yield from ((kind, "compress") for kind in MAKERS)
    yield from (("a named pipe", name) for name in NAMES if name != "compress")


@pytest.mark.parametrize(("kind", "name"), list(kinds_and_writers()))
@pytest.mark.parametrize("link", [False, True])
def test_special_files_are_refused_and_stay(
    kind: str,
    name: str,
    link: bool,
    inputs: Path,
    short: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    MAKERS[kind](short / "special")
    before = (short / "special").lstat()
    out = short / "special"
    if link:
        out = short / "link"
        out.symlink_to("special")
    with pytest.raises(SaecError) as caught:
        writers(inputs)[name](out)
    assert f"cannot write {out}: it is {kind}" in f"{caught.value}{capsys.readouterr().err}"
    after = (short / "special").lstat()
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
    assert {path.name for path in short.iterdir()} <= {"special", "link"}
    assert out.is_symlink() == link


@pytest.mark.parametrize("name", NAMES)
def test_links_are_followed_and_modes_kept(name: str, inputs: Path, tmp_path: Path) -> None:
    writer = writers(inputs)[name]
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere" / "file"
    target.write_bytes(b"old")
    target.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to(target)
    writer(link)
    assert link.is_symlink()
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert target.stat().st_size > 3
    # What goes with a file lies beside it.
    assert {path.name for path in tmp_path.iterdir()} == {"elsewhere", "link"}


@pytest.mark.parametrize("name", NAMES)
def test_new_files_follow_the_umask(name: str, inputs: Path, tmp_path: Path) -> None:
    writer = writers(inputs)[name]
    before = os.umask(0o027)
    try:
        writer(tmp_path / "file")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o640}


def test_a_link_to_nothing_gets_its_file(inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("made")
    saec.load(inputs / "a.saec").save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert list(saec.load(tmp_path / "made")) == ["user"]


def test_links_that_go_in_circles(inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    with pytest.raises(saec.ArtifactError, match=r"cannot write .*one: Too many levels"):
        saec.load(inputs / "a.saec").save(tmp_path / "one")


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser gives files away")
def test_the_owner_is_kept(inputs: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.saec"
    out.write_bytes(b"old")
    os.chown(out, 1234, 2345)
    saec.load(inputs / "a.saec").save(out)
    assert (out.stat().st_uid, out.stat().st_gid) == (1234, 2345)


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("saec")])
def test_standard_output_is_refused_by_name(
    name: str, inputs: Path, short: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SaecError):
        writers(inputs)[name](Path("-"))
    assert "cannot write to standard output (-): give the name of a file" in capsys.readouterr().err
    assert not list(short.iterdir())


def test_a_permutation_that_cannot_be_removed(inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "a.saec.permutation.safetensors").mkdir()
    with pytest.raises(saec.ArtifactError, match=r"cannot remove .*safetensors: Is a dir"):
        saec.compress([field(inputs)], Ratio(4), out=tmp_path / "a.saec", progress=False)
