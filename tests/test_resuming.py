"""Compression directly into a file: equal to that in memory, and resumed after interruptions."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from functools import cache
from multiprocessing.process import BaseProcess
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

import numpy as np
import pytest
from copies import PROCESSES
from safetensors.numpy import load_file

import saec
from saec import (
    ArtifactError,
    Axes,
    BudgetError,
    Clusters,
    Compressed,
    Field,
    OptionError,
    Ratio,
)
from saec.codecs.protocol import Codec
from saec.compression.resume import Resumable

# More of them take minutes: make test-kills.
KILLS = int(os.environ.get("SAEC_KILLS", "1"))

DIM = 4
ROWS = {"user": 1_500, "item": 600, "city": 120, "user x item": 2_000}
RATIO = Ratio(12)
CODECS: dict[str, Codec] = {
    "axes": Axes(),
    "frequency": Axes(order="frequency"),
    "code": Axes(order="code"),
    "clusters": Clusters(),
}


def write_tables(folder: Path) -> None:
    for number, (name, rows) in enumerate(ROWS.items()):
        rng = np.random.default_rng(number)
        weights = rng.standard_normal((rows, DIM)) * np.logspace(0, -1.5, DIM)
        np.save(folder / f"{name}.npy", weights.astype(np.float32))
        counts = rng.permutation(rows // np.arange(1, rows + 1))
        np.save(folder / f"{name}.counts.npy", counts)


def fields(folder: Path, mapped: bool = True) -> list[Field]:
    mode = "r" if mapped else None
    return [
        Field(
            name,
            np.load(folder / f"{name}.npy", mmap_mode=mode),
            np.load(folder / f"{name}.counts.npy", mmap_mode=mode),
        )
        for name in ROWS
    ]


def metrics() -> dict[str, np.ndarray]:
    return {name: np.diag(0.5 ** np.arange(float(DIM))) for name in ROWS}


def compress(folder: Path, codec: Codec, **options: object) -> Compressed:
    return saec.compress(
        fields(folder),
        RATIO,
        codec,
        metrics=metrics(),
        progress=False,
        out=folder / "out.saec",
        **options,  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    write_tables(folder)
    return folder


@pytest.fixture(scope="module")
def in_memory(tables: Path) -> Callable[[str], Compressed]:
    """Compresses by a codec in memory, once for all tests."""

    @cache
    def compressed(name: str) -> Compressed:
        return saec.compress(
            fields(tables, mapped=False), RATIO, CODECS[name], metrics=metrics(), progress=False
        )

    return compressed


@pytest.fixture(scope="module")
def expected(
    in_memory: Callable[[str], Compressed], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], bytes]:
    """The bytes of that."""
    path = tmp_path_factory.mktemp("whole") / "whole.saec"

    @cache
    def content(name: str) -> bytes:
        in_memory(name).save(path)
        return path.read_bytes()

    return content


@pytest.fixture
def folder(tables: Path, tmp_path: Path) -> Path:
    for file in tables.glob("*.npy"):
        (tmp_path / file.name).symlink_to(file)
    return tmp_path


@pytest.mark.exhaustive(keep=1)
@pytest.mark.parametrize("name", CODECS)
def test_the_file_is_that_of_a_compression_in_memory(
    name: str,
    folder: Path,
    in_memory: Callable[[str], Compressed],
    expected: Callable[[str], bytes],
) -> None:
    whole = in_memory(name)
    result = compress(folder, CODECS[name])
    assert (folder / "out.saec").read_bytes() == expected(name)
    assert result.predicted_loss_increase == whole.predicted_loss_increase
    assert not (folder / "out.saec.partial").exists()
    permutations = folder / "out.saec.permutation.safetensors"
    assert permutations.exists() == (name in ("frequency", "code"))
    if permutations.exists():
        for field, old in load_file(permutations).items():
            assert np.array_equal(old, whole[field].permutation)


@pytest.mark.exhaustive
def test_a_permutation_goes_with_the_artifact_that_it_belongs_to(folder: Path) -> None:
    compress(folder, CODECS["frequency"])
    assert (folder / "out.saec.permutation.safetensors").exists()
    compress(folder, CODECS["axes"])
    assert not (folder / "out.saec.permutation.safetensors").exists()


class StopError(Exception):
    """Interrupts a compression."""


def interrupted(folder: Path, codec: Codec, at: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stop before the field of a number is coded; names of the fields that were coded."""
    coded: list[str] = []
    encode = type(codec).encode

    def counting(self: Codec, field: Field, *rest: object) -> object:
        if len(coded) == at:
            raise StopError
        coded.append(field.name)
        return encode(self, field, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(type(codec), "encode", counting)
        try:
            compress(folder, codec)
        except StopError:
            assert not (folder / "out.saec").exists()
    return coded


# One that leaves no permutation beside a field, and one that does.
@pytest.mark.exhaustive(keep=1)
@pytest.mark.parametrize("name", ["clusters", "code"])
def test_finished_fields_are_not_coded_again(
    name: str,
    folder: Path,
    expected: Callable[[str], bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    codec = CODECS[name]
    assert interrupted(folder, codec, 2, monkeypatch) == ["user", "item"]
    assert interrupted(folder, codec, 1, monkeypatch) == ["city"]
    assert interrupted(folder, codec, 9, monkeypatch) == ["user x item"]
    assert (folder / "out.saec").read_bytes() == expected(name)


@pytest.mark.exhaustive
def test_fields_are_not_measured_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(folder, Axes(), 0, monkeypatch)
    measured = sorted((folder / "out.saec.partial").glob("survey-*.npz"))
    assert len(measured) == len(ROWS)
    times = [file.stat().st_mtime_ns for file in measured]
    interrupted(folder, Axes(), 1, monkeypatch)
    assert [file.stat().st_mtime_ns for file in measured] == times


@pytest.mark.exhaustive
def test_work_of_other_options_is_not_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    interrupted(folder, Axes(), 3, monkeypatch)
    assert interrupted(folder, Clusters(), 9, monkeypatch) == list(ROWS)
    assert "belongs to other options or inputs: starting anew" in caplog.text


@pytest.mark.exhaustive
def test_work_on_another_table_is_not_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(folder, Axes(), 3, monkeypatch)
    weights = np.load(folder / "city.npy")
    (folder / "city.npy").unlink()
    np.save(folder / "city.npy", weights + 1)
    assert interrupted(folder, Axes(), 9, monkeypatch) == list(ROWS)


def test_one_process_at_a_time(folder: Path) -> None:
    with (
        Resumable(folder / "out.saec", "mark"),
        pytest.raises(ArtifactError, match=r"another process is writing .*out\.saec"),
    ):
        compress(folder, Axes())
    compress(folder, Axes())


def test_an_artifact_that_cannot_be_written(folder: Path) -> None:
    with pytest.raises(ArtifactError, match=r"cannot write .*no/out\.saec\.partial: No such file"):
        saec.compress(fields(folder), RATIO, Axes(), metrics=metrics(), out=folder / "no/out.saec")


def test_impossible_requests_leave_no_files(folder: Path) -> None:
    with pytest.raises(BudgetError, match="allows"):
        saec.compress(
            fields(folder), Ratio(1e9), metrics=metrics(), out=folder / "out.saec", progress=False
        )
    assert not list(folder.glob("out.saec*"))


def test_too_little_memory(folder: Path) -> None:
    with pytest.raises(BudgetError, match=r"1MB of memory are 1000000 bytes; tables of dim 4 need"):
        compress(folder, Axes(), memory="1MB")
    assert not (folder / "out.saec.partial").exists()


def test_memory_needs_a_file(folder: Path) -> None:
    with pytest.raises(OptionError, match=r"memory='2GB' needs out"):
        saec.compress(fields(folder), RATIO, memory="2GB")


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", CODECS)
def test_memory_changes_no_byte(
    name: str,
    folder: Path,
    expected: Callable[[str], bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Nothing may be held. (saec.compress is the function, too.)
    module = sys.modules["saec.compression.run"]
    monkeypatch.setattr(module, "held_bytes", lambda memory, dim, sampled: 0)
    compress(folder, CODECS[name], memory="64GB")
    assert (folder / "out.saec").read_bytes() == expected(name)


def compress_in_a_process(folder: Path, name: str) -> BaseProcess:
    process = PROCESSES.Process(target=compress, args=(folder, CODECS[name]))
    process.start()
    return process


def killed(folder: Path, name: str, after: float) -> bool:
    """Whether the process was killed so many seconds after it began, before it ended by itself."""
    process = compress_in_a_process(folder, name)
    process.join(after)
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


# "frequency" also writes the permutation beside the artifact.
@pytest.mark.parametrize("name", ["frequency"] if KILLS == 1 else ["axes", "frequency"])
def test_killed_at_any_moment_it_resumes(
    name: str, folder: Path, expected: Callable[[str], bytes]
) -> None:
    out = folder / "out.saec"
    start = time.perf_counter()
    compress(folder, CODECS[name])
    whole = time.perf_counter() - start
    out.unlink()
    moments = random.Random(0)
    kills = 0
    while kills < KILLS:
        known = {file: file.stat().st_ino for file in finished(folder)}
        if killed(folder, name, moments.uniform(0.02, 0.8) * whole):
            kills += 1
            assert not out.exists() or out.read_bytes() == expected(name)
            # What is finished stays as it is.
            again = {file: file.stat().st_ino for file in finished(folder)}
            assert out.exists() or known.items() <= again.items()
        else:
            assert out.read_bytes() == expected(name)
            out.unlink()
    compress(folder, CODECS[name])
    assert out.read_bytes() == expected(name)
    left = {path.name for path in folder.iterdir()} - {f"{n}{e}" for n in ROWS for e in ENDINGS}
    assert left <= {"out.saec", "out.saec.permutation.safetensors"}


def compress_and_count(folder: Path, killed_at: int, calls: Synchronized[int]) -> None:
    """Count the files synced; end the process at the sync of a number, as its last bytes go."""
    sync = os.fsync

    def counted(handle: int) -> None:
        calls.value += 1
        if calls.value == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        sync(handle)

    os.fsync = counted
    compress(folder, CODECS["frequency"])


def syncs(folder: Path, killed_at: int) -> int:
    """How often files were synced; negative if the process was killed."""
    calls = PROCESSES.Value("i", 0, lock=False)
    process = PROCESSES.Process(target=compress_and_count, args=(folder, killed_at, calls))
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return -1 if process.exitcode else calls.value


def test_killed_as_it_writes_the_artifact(folder: Path, expected: Callable[[str], bytes]) -> None:
    """Only the permutation and the artifact are ever beside the folder of what is finished."""
    whole = syncs(folder, 0)
    assert (folder / "out.saec").read_bytes() == expected("frequency")
    (folder / "out.saec").unlink()
    # Of the permutation and of the artifact: the file, its folder, its place.
    last = 6
    assert syncs(folder, whole - last + 1) == -1
    for killed_at in range(1, last + 1) if KILLS > 1 else (1, 4, last):
        assert syncs(folder, killed_at) == -1
        beside = {file.name for file in folder.glob("*out.saec*")}
        known = {"out.saec.permutation.safetensors", "out.saec.partial"}
        assert beside == (known | {"out.saec"} if killed_at == last else known)
    assert (folder / "out.saec").read_bytes() == expected("frequency")
    assert syncs(folder, 0) == last
    assert (folder / "out.saec").read_bytes() == expected("frequency")
    assert not (folder / "out.saec.partial").exists()


ENDINGS = (".npy", ".counts.npy")


def finished(folder: Path) -> list[Path]:
    return sorted((folder / "out.saec.partial").glob("field-*.saec"))
