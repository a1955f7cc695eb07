"""Files that are not paths: URLs through fsspec, bytes and streams."""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pytest

import saec
from saec import (
    ArtifactError,
    Axes,
    CheckpointError,
    DataError,
    Field,
    OptionalDependencyError,
    Ratio,
)
from saec.cli import main
from saec.tables.checkpoint import read_tables
from saec.tables.counting import count_columns
from saec.util.remote_file import as_url

TABLE = np.random.default_rng(0).standard_normal((300, 4)).astype(np.float32)
COUNTS = 1000 // np.arange(1, 301)
IDS = [0, 7, 299]


@pytest.fixture(autouse=True)
def _logging() -> Iterator[None]:
    yield
    logging.getLogger("saec").setLevel(logging.NOTSET)  # --quiet raises it


@pytest.fixture(scope="module")
def result() -> saec.Compressed:
    return saec.compress([Field("user", TABLE, COUNTS)], Ratio(4), progress=False)


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    """A file system of this process, ``memory://``."""
    files = fsspec.filesystem("memory")
    yield files
    files.rm("/", recursive=True)


@pytest.mark.parametrize(
    ("path", "url"),
    [
        ("s3://bucket/a.saec", "s3://bucket/a.saec"),
        (Path("s3://bucket/a.saec"), "s3://bucket/a.saec"),
        ("https://host:8080/a?b=c", "https://host:8080/a?b=c"),
        ("simplecache::s3://bucket/a", "simplecache::s3://bucket/a"),
        (Path("file:///tmp/a"), "file:///tmp/a"),
        ("C:/a.saec", None),
        ("a.saec", None),
        ("/tmp/s3:/a", None),
        ("a/b:/c", None),
        (b"s3://bucket/a", None),
    ],
)
def test_which_strings_are_urls(path: object, url: str | None) -> None:
    assert as_url(path) == url


def test_artifacts_in_bytes_and_streams(result: saec.Compressed, tmp_path: Path) -> None:
    result.save(tmp_path / "a.saec")
    content = (tmp_path / "a.saec").read_bytes()
    stream = io.BytesIO()
    result.save(stream)
    assert stream.getvalue() == content
    expected = saec.load(tmp_path / "a.saec")["user"].lookup(IDS)
    stream.seek(0)
    for source in (content, bytearray(content), memoryview(content), stream):
        loaded = saec.load(source)  # type: ignore[arg-type]
        np.testing.assert_array_equal(loaded["user"].lookup(IDS), expected)
        assert loaded.nbytes == len(content)


def test_bytes_that_are_no_artifact() -> None:
    with pytest.raises(ArtifactError, match=r"^the bytes is no saec artifact or is damaged"):
        saec.load(b"something else")
    with pytest.raises(ArtifactError, match="give a path, bytes or a binary stream, not int"):
        saec.load(5)  # type: ignore[arg-type]
    with pytest.raises(ArtifactError, match="give a path, bytes or a binary stream, not str"):
        saec.load(io.StringIO("text"))  # type: ignore[arg-type]


def test_streams_that_cannot_be_written_or_read(result: saec.Compressed) -> None:
    closed = io.BytesIO()
    closed.close()
    with pytest.raises(ArtifactError, match="a path or a binary stream to write to, not NoneType"):
        result.save(None)  # type: ignore[arg-type]
    with pytest.raises(ArtifactError, match="a path or a binary stream to write to, not StringIO"):
        result.save(io.StringIO())  # type: ignore[arg-type]
    with pytest.raises(ArtifactError, match="cannot write to the stream: I/O operation on closed"):
        result.save(closed)
    with pytest.raises(ArtifactError, match="cannot read the stream: I/O operation on closed"):
        saec.load(closed)


def test_a_stream_that_breaks(result: saec.Compressed) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with (
        open(writing, "wb", buffering=0) as stream,  # noqa: PTH123 (a descriptor, not a path)
        pytest.raises(ArtifactError, match="cannot write to the stream: Broken pipe"),
    ):
        result.save(stream)


class Slow(io.RawIOBase):
    """Writes at most 1,000 bytes at once, and after ``most`` none."""

    def __init__(self, most: int) -> None:
        self.most, self.written = most, b""

    def write(self, data: object) -> int | None:
        part = bytes(data)[: min(1000, self.most - len(self.written))]  # type: ignore[call-overload]
        self.written += part
        return len(part) or None


def test_streams_without_buffers_get_all_bytes(result: saec.Compressed) -> None:
    expected = io.BytesIO()
    result.save(expected)
    assert len(expected.getvalue()) > 1000
    slow = Slow(1 << 20)
    result.save(slow)  # type: ignore[arg-type]
    assert slow.written == expected.getvalue()
    assert not slow.closed
    with pytest.raises(ArtifactError, match="cannot write to the stream: it takes no more bytes"):
        result.save(Slow(1000))  # type: ignore[arg-type]


class Refusing(io.RawIOBase):
    def write(self, data: object) -> int:
        raise OSError(errno.EACCES, "Permission denied")


def test_a_stream_whose_first_write_fails(result: saec.Compressed) -> None:
    with pytest.raises(ArtifactError, match="cannot write to the stream: Permission denied"):
        result.save(Refusing())  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [str, Path])
def test_urls_of_artifacts_and_metrics(
    kind: type, result: saec.Compressed, memory: fsspec.AbstractFileSystem
) -> None:
    result.save(kind("memory://bucket/a.saec"))
    assert memory.cat("/bucket/a.saec")[8:9] == b"{"
    loaded = saec.load(kind("memory://bucket/a.saec"))
    np.testing.assert_array_equal(loaded["user"].lookup(IDS), result["user"].lookup(IDS))
    metrics = saec.LossMetrics({"user": np.eye(4)}, 10, {"user": 0.1})
    saec.save_metrics(metrics, kind("memory://bucket/m.safetensors"))
    assert saec.load_metrics(kind("memory://bucket/m.safetensors")).examples == 10


def test_urls_of_checkpoints_and_logs(
    memory: fsspec.AbstractFileSystem, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(2):
        np.save(tmp_path / f"user-{number}.npy", TABLE[150 * number : 150 * (number + 1)])
    np.save(tmp_path / "user.npy", TABLE)
    (tmp_path / "log.csv").write_text("user\n0\n299\n")
    memory.put(f"{tmp_path}/", "/bucket/run/", recursive=True)
    memory.mkdir("/bucket/shards")
    for number in range(2):
        memory.copy(f"/bucket/run/user-{number}.npy", f"/bucket/shards/user-{number}.npy")
    for url in ("memory://bucket/run/user.npy", "memory://bucket/shards"):
        (rows,) = read_tables(url).values()
        np.testing.assert_array_equal(rows.read(0, 300), TABLE)
    counts = count_columns("memory://bucket/run/log.csv", {"u": "user"}, {"u": 300})["u"]
    assert np.flatnonzero(counts).tolist() == [0, 299]
    words = ["--log", "memory://bucket/run/log.csv", "--column", "user=user", "--ratio", "3", "-q"]
    out = str(tmp_path / "o.saec")
    assert main(["compress", "memory://bucket/run/user.npy", *words, "-o", out]) == 0
    out = "memory://bucket/rows.npy"
    assert main(["lookup", str(tmp_path / "o.saec"), "user", "0", "-q", "-o", out]) == 0
    assert memory.exists("/bucket/rows.npy")
    assert capsys.readouterr().err == ""


def test_missing_urls(memory: fsspec.AbstractFileSystem) -> None:
    with pytest.raises(
        ArtifactError, match=r"cannot read memory://bucket/no\.saec: there is no such file"
    ):
        saec.load("memory://bucket/no.saec")
    with pytest.raises(CheckpointError, match=r"cannot read memory://bucket/no\.pt: "):
        read_tables("memory://bucket/no.pt")
    memory.pipe("/bucket/no.saec", b"something else")
    with pytest.raises(ArtifactError, match=r"^memory://bucket/no\.saec is no saec artifact"):
        saec.load("memory://bucket/no.saec")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://bucket/a.npy", r"s3://bucket/a\.npy: .*s3fs.*; run: pip install 'fsspec\[s3\]'"),
        ("gs://bucket/a.npy", r"gs://bucket/a\.npy: .*gcsfs.*; run: pip install 'fsspec\[gs\]'"),
    ],
)
def test_protocols_whose_package_is_missing(
    url: str, message: str, result: saec.Compressed, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("s3fs", "gcsfs"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(OptionalDependencyError, match=message):
        read_tables(url)
    with pytest.raises(OptionalDependencyError, match=message):
        saec.load(url)
    with pytest.raises(OptionalDependencyError, match=message):
        result.save(url)


def test_without_fsspec_the_line_for_pip_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    monkeypatch.chdir(tmp_path)
    for url in ("s3://bucket/a.saec", Path("https://host/a.saec")):
        with pytest.raises(OptionalDependencyError, match=r"pip install 'saec\[remote\]'"):
            saec.load(url)
    assert main(["info", "s3://bucket/a.saec"]) == 2
    assert "fsspec is not installed; run: pip install 'saec[remote]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_unknown_protocol() -> None:
    with pytest.raises(ArtifactError, match="cannot open nope://a/b: Protocol not known: nope"):
        saec.load("nope://a/b")


def test_long_compressions_need_a_folder_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    message = "cannot write memory://bucket/o.saec: what is finished is kept beside the file"
    with pytest.raises(ArtifactError, match=message):
        saec.compress(
            [Field("user", TABLE, COUNTS)], Ratio(4), Axes(), out="memory://bucket/o.saec"
        )
    np.save("user.npy", TABLE)
    np.save("counts.npy", COUNTS)
    words = ["--frequencies", "counts.npy", "--ratio", "3", "-o", "memory://bucket/o.saec"]
    assert main(["compress", "user.npy", *words]) == 2
    assert message in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"user.npy", "counts.npy"}


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and writes no log."""

    def log_message(self, *args: object) -> None:
        """Nothing."""


@pytest.mark.exhaustive
def test_a_web_server(result: saec.Compressed, tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    result.save(tmp_path / "a.saec")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        where = f"http://127.0.0.1:{server.server_port}"
        loaded = saec.load(f"{where}/a.saec")
        with pytest.raises(ArtifactError, match=f"cannot read {where}/no.saec"):
            saec.load(f"{where}/no.saec")
        with pytest.raises(DataError, match=f"cannot read {where}/no.csv"):
            count_columns(f"{where}/no.csv", {"u": "user"})
        server.shutdown()
    np.testing.assert_array_equal(loaded["user"].lookup(IDS), result["user"].lookup(IDS))
