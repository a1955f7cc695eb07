"""Compression into a file when disks, readers and processes fail: nothing finished is lost."""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
from copies import PROCESSES

import saec
from saec import (
    ArtifactError,
    Axes,
    BudgetError,
    CheckpointError,
    ClusterError,
    Compressed,
    DataError,
    Field,
    FieldError,
    Ratio,
)

# More of them take minutes: make test-kills.
FAULTS = int(os.environ.get("SAEC_KILLS", "1"))

DIM = 4
ROWS = {"user": 1_500, "item": 700, "user x item": 2_000}


def fields(folder: Path) -> list[Field]:
    return [
        Field(
            name,
            np.load(folder / f"{name}.npy", mmap_mode="r"),
            np.load(folder / f"{name}.counts.npy", mmap_mode="r"),
        )
        for name in ROWS
    ]


def compress(
    folder: Path, out: Path | None = None, ratio: float = 15, order: str = "code"
) -> Compressed:
    return saec.compress(
        fields(folder),
        Ratio(ratio),
        Axes(order=order),  # type: ignore[arg-type]
        metrics={name: np.diag(0.5 ** np.arange(float(DIM))) for name in ROWS},
        progress=False,
        out=out or folder / "out.saec",
    )


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    for number, (name, rows) in enumerate(ROWS.items()):
        rng = np.random.default_rng(number)
        weights = rng.standard_normal((rows, DIM)) * np.logspace(0, -1.5, DIM)
        np.save(folder / f"{name}.npy", weights.astype(np.float32))
        np.save(folder / f"{name}.counts.npy", rng.permutation(rows // np.arange(1, rows + 1)))
    return folder


@pytest.fixture(scope="module")
def expected(tables: Path) -> bytes:
    compress(tables)
    content = (tables / "out.saec").read_bytes()
    for file in tables.glob("out.saec*"):
        file.unlink()
    return content


@pytest.fixture
def folder(tables: Path, tmp_path: Path) -> Path:
    for file in tables.glob("*.npy"):
        (tmp_path / file.name).symlink_to(file)
    return tmp_path


def finished(folder: Path) -> dict[str, int]:
    """Inodes of the finished fields: a field that is coded again gets another one."""
    return {
        file.name: file.stat().st_ino for file in (folder / "out.saec.partial").glob("field-*.saec")
    }


@contextmanager
def failing_at(call: int, name: str, error: Exception) -> Iterator[list[int]]:
    """Have a function of ``os`` raise ``error`` at the call of a number, counted from 1."""
    calls = [0]
    real: Callable[..., object] = getattr(os, name)

    def counted(*given: object) -> object:
        calls[0] += 1
        if calls[0] == call:
            raise error
        return real(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, name, counted)
        yield calls


IO_ERROR = OSError(errno.EIO, os.strerror(errno.EIO))
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def resumes(folder: Path, expected: bytes) -> None:
    """The same call finishes with the same bytes, and codes nothing again that was finished."""
    before = finished(folder)
    coded: list[str] = []
    encode = Axes.encode

    def counting(self: Axes, field: Field, *rest: object) -> object:
        coded.append(field.name)
        return encode(self, field, *rest)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Axes, "encode", counting)
        compress(folder)
    assert (folder / "out.saec").read_bytes() == expected
    assert coded == list(ROWS)[len(before) :]
    left = {file.name for file in folder.glob("*out.saec*")}
    assert left == {"out.saec", "out.saec.permutation.safetensors"}


@pytest.mark.exhaustive
def test_failed_by_a_read_error_it_resumes(folder: Path, expected: bytes) -> None:
    with failing_at(0, "preadv", IO_ERROR) as calls:
        compress(folder)
    assert (folder / "out.saec").read_bytes() == expected
    moments = random.Random(0)
    for number in range(FAULTS):
        (folder / "out.saec").unlink()
        # The last reads code the last field: the fields before it are finished then.
        at = calls[0] if not number else moments.randint(1, calls[0])
        with (
            failing_at(at, "preadv", IO_ERROR),
            pytest.raises(CheckpointError, match=r"\.npy: Input/output error"),
        ):
            compress(folder)
        assert number or len(finished(folder)) == len(ROWS) - 1
        resumes(folder, expected)


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", [ClusterError, DataError, FieldError, OSError])
def test_no_error_removes_finished_fields(
    kind: type[Exception], folder: Path, expected: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = Axes.encode

    def failing(self: Axes, field: Field, *rest: object) -> object:
        if field.name == "item":
            raise kind("for a while")
        return encode(self, field, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Axes, "encode", failing)
        with pytest.raises(kind, match="for a while"):
            compress(folder)
    assert list(finished(folder)) == ["field-00000.saec"]
    resumes(folder, expected)


def test_an_impossible_budget_leaves_nothing(folder: Path) -> None:
    with pytest.raises(BudgetError, match="allows"):
        compress(folder, ratio=1e9)
    assert not list(folder.glob("out.saec*"))


@contextmanager
def largest_file(nbytes: int) -> Iterator[None]:
    """Writes beyond so many bytes of a file fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.exhaustive
def test_failed_by_a_limit_on_files_it_resumes(folder: Path, expected: bytes) -> None:
    # From the survey of the smallest field to the permutation, the largest file.
    limits = random.Random(0)
    for number in range(FAULTS):
        (folder / "out.saec").unlink(missing_ok=True)
        nbytes = 30_000 if not number else limits.randint(1_000, 8 * sum(ROWS.values()))
        with largest_file(nbytes), pytest.raises(ArtifactError, match=r"cannot write .*too large"):
            compress(folder)
        assert not (folder / "out.saec").exists()
        resumes(folder, expected)


@pytest.mark.exhaustive
def test_failed_by_a_full_disk_it_resumes(folder: Path, expected: bytes) -> None:
    with failing_at(0, "posix_fallocate", FULL) as calls:
        compress(folder)
    assert calls[0] >= len(ROWS)
    (folder / "out.saec").unlink()
    message = r"cannot write \d{4,} bytes to .*out\.saec\.partial: No space left .*; \d+ bytes are"
    with (
        failing_at(calls[0], "posix_fallocate", FULL),
        pytest.raises(ArtifactError, match=message),
    ):
        compress(folder)
    assert len(finished(folder)) == len(ROWS) - 1
    resumes(folder, expected)


def test_a_keyed_field_failed_by_a_limit_on_files_resumes(
    folder: Path, coarse_prices: None
) -> None:
    """Coded rows wait in files until all are coded."""
    weights, counts = (np.load(folder / f"user x item{end}.npy") for end in ("", ".counts"))
    field = Field("item", weights[:900], counts[:900], keys=np.arange(900) * 1_000_003)
    encode = Axes.encode

    def compressed() -> bytes:
        saec.compress([field], Ratio(8), progress=False, out=folder / "keyed.saec")
        return (folder / "keyed.saec").read_bytes()

    def limited(self: Axes, *given: object) -> object:
        with largest_file(15_000):
            return encode(self, *given)  # type: ignore[arg-type]

    wanted = compressed()
    (folder / "keyed.saec").unlink()
    message = r"cannot write to .*keyed\.saec\.partial: File too large"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Axes, "encode", limited)
        with pytest.raises(ArtifactError, match=message):
            compressed()
    kept = sorted(file.name[:7] for file in (folder / "keyed.saec.partial").iterdir())
    assert kept == ["lock", "mark", "survey-"]
    assert compressed() == wanted


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """A file system in memory."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("only the superuser mounts a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, left: int) -> None:
    """Leave so many bytes of a disk."""
    status = os.statvfs(disk)
    (disk / "filled").write_bytes(bytes(status.f_bavail * status.f_frsize - left))


def fill_before_coding(disk: Path) -> None:
    """Have the disk full as the first field is coded."""
    encode = Axes.encode

    def filling(self: Axes, *given: object) -> object:
        fill(disk, 0)
        return encode(self, *given)  # type: ignore[arg-type]

    Axes.encode = filling  # type: ignore[method-assign, assignment]


def compress_and_report(folder: Path, out: Path, filled: bool, report: Connection) -> None:
    """Send the error's text, or an empty one; on a disk that is ``filled`` before coding."""
    if filled:
        fill_before_coding(out.parent)
    try:
        compress(folder, out)
    except saec.SaecError as error:
        report.send(str(error))
    else:
        report.send("")


def started(folder: Path, out: Path, filled: bool = False) -> tuple[BaseProcess, Connection]:
    """A process that compresses, and where it reports."""
    here, there = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=compress_and_report, args=(folder, out, filled, there))
    process.start()
    there.close()
    return process, here


def test_a_full_disk_is_an_error_and_not_a_crash(folder: Path, expected: bytes) -> None:
    """Writing to a mapped file without space on the disk would end the process by SIGBUS."""
    disk = folder / "disk"
    disk.mkdir()
    spaces = random.Random(0)
    with small_disk(disk, "2m"):
        for number in range(FAULTS):
            (disk / "out.saec").unlink(missing_ok=True)
            if number:
                fill(disk, spaces.randint(10_000, 300_000))
            said = said_by(*started(folder, disk / "out.saec", filled=not number))
            assert "No space left on device" in said or (number and not said)
            assert (disk / "out.saec").exists() == (not said)
            (disk / "filled").unlink()
            assert said_by(*started(folder, disk / "out.saec")) == ""
            assert (disk / "out.saec").read_bytes() == expected


def said_by(process: BaseProcess, report: Connection) -> str:
    """The error, if there is one, of a process that is to end by itself."""
    with report:
        try:
            said: str = report.recv()
        except EOFError:
            process.join()
            raise AssertionError(f"the process ended with {process.exitcode}") from None
    process.join()
    assert process.exitcode == 0
    return said


@pytest.mark.exhaustive
def test_resumes_after_sigterm(folder: Path, expected: bytes) -> None:
    moments = random.Random(0)
    ended = 0
    while ended < FAULTS:
        (folder / "out.saec").unlink(missing_ok=True)
        process, report = started(folder, folder / "out.saec")
        process.join(moments.uniform(0.01, 0.5))
        process.terminate()
        process.join()
        report.close()
        if process.exitcode == -signal.SIGTERM:
            ended += 1
            resumes(folder, expected)
        else:
            assert process.exitcode == 0


def test_of_two_writers_at_once_one_is_refused(folder: Path, expected: bytes) -> None:
    for _ in range(FAULTS):
        (folder / "out.saec").unlink(missing_ok=True)
        both = [started(folder, folder / "out.saec") for _ in range(2)]
        said = [said_by(*one) for one in both]
        # One after the other is possible, too, on a machine that is busy.
        assert "" in said
        assert all("another process is writing" in text for text in said if text)
        assert (folder / "out.saec").read_bytes() == expected
        assert not (folder / "out.saec.partial").exists()


@pytest.mark.exhaustive
def test_two_that_save_at_once_leave_one_whole_file(folder: Path, expected: bytes) -> None:
    results = [
        compress(folder, folder / f"{order}.saec", order=order) for order in ("keep", "code")
    ]
    whole = [(folder / f"{order}.saec").read_bytes() for order in ("keep", "code")]
    out = folder / "saved.saec"

    def save(result: Compressed) -> None:
        for _ in range(10):
            result.save(out)

    writers = [threading.Thread(target=save, args=[result]) for result in results]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert not out.exists() or out.read_bytes() in whole
    assert out.read_bytes() in whole
    assert whole[1] == expected
    assert not list(folder.glob(".*.part"))


def stopped_after(folder: Path, fields: int) -> Path:
    """The folder of what is finished once so many fields are."""
    encode = Axes.encode

    def stopping(self: Axes, field: Field, *rest: object) -> object:
        if field.name == list(ROWS)[fields]:
            raise InterruptedError
        return encode(self, field, *rest)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Axes, "encode", stopping)
        with pytest.raises(InterruptedError):
            compress(folder)
    return folder / "out.saec.partial"


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 255
    file.write_bytes(content)


def empty(file: Path) -> None:
    file.write_bytes(b"")


def a_folder(file: Path) -> None:
    file.unlink()
    (file / "inner").mkdir(parents=True)


FIELD, PERMUTATION = "field-00000.saec", "field-00000.permutation.npy"


@pytest.mark.exhaustive(keep=2)
@pytest.mark.parametrize(
    ("pattern", "damage"),
    [
        ("survey-*.npz", cut),
        ("survey-*.npz", flip),
        ("mark", a_folder),
        (FIELD, cut),
        (PERMUTATION, cut),
        (PERMUTATION, Path.unlink),
    ],
)
def test_damaged_leftovers_count_as_absent(
    pattern: str, damage: Callable[[Path], object], folder: Path, expected: bytes
) -> None:
    partial = stopped_after(folder, 2)
    for file in partial.glob(pattern):
        damage(file)
    compress(folder)
    assert (folder / "out.saec").read_bytes() == expected
    assert not partial.exists()


def test_a_mark_of_other_bytes_and_strange_leftovers(folder: Path, expected: bytes) -> None:
    partial = folder / "out.saec.partial"
    (partial / "sub" / "inner").mkdir(parents=True)
    (partial / "mark").write_bytes(b"\xff\xfe\x80")
    (partial / ".field-00000.saec.0123456789abcdef.part").write_bytes(b"half")
    (partial / "nowhere").symlink_to(folder / "no such file")
    compress(folder)
    assert (folder / "out.saec").read_bytes() == expected
    assert not partial.exists()


@pytest.mark.exhaustive
def test_leftovers_of_killed_writers_are_removed(folder: Path) -> None:
    partial = stopped_after(folder, 1)
    left = partial / ".field-00001.saec.0123456789abcdef.part"
    left.write_bytes(bytes(1000))
    stopped_after(folder, 2)
    assert not left.exists()


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to("nowhere")])
def test_something_else_in_place_of_the_folder(
    make: Callable[[Path], object], folder: Path
) -> None:
    make(folder / "out.saec.partial")
    with pytest.raises(ArtifactError, match=r"cannot write .*out\.saec\.partial: it is no folder"):
        compress(folder)
