"""Memory or temporary files for large results, and the memory limit."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import numpy as np
import pytest

from saec import Axes, Clusters, Field
from saec.codecs.raw import Raw
from saec.errors import ArtifactError, BudgetError
from saec.streaming.scratch import IN_MEMORY, Workspace, held_bytes
from saec.util.atomic_file import reserve


@pytest.mark.parametrize("nbytes", [0, 1, 5000, 1 << 20])
def test_zeros_in_memory_and_in_a_folder_are_alike(nbytes: int, tmp_path: Path) -> None:
    for space in (IN_MEMORY, Workspace(tmp_path)):
        zeros = space.zeros(nbytes)
        assert (zeros.dtype, zeros.shape) == (np.uint8, (nbytes,))
        assert not zeros.any()
        zeros[nbytes // 2 :] = 7
        assert zeros[nbytes // 2 :].tolist() == [7] * (nbytes - nbytes // 2)
        assert list(tmp_path.iterdir()) == []


def test_zeros_in_a_folder_are_mapped(tmp_path: Path) -> None:
    space = Workspace(tmp_path)
    one, other = space.zeros(100), space.zeros(100)
    assert isinstance(one.base, np.memmap)
    one[:] = 1
    assert not other.any()
    assert IN_MEMORY.zeros(100).base is None


def test_no_zeros_without_room_for_them(tmp_path: Path) -> None:
    message = (
        rf"cannot write {1 << 60} bytes to {re.escape(str(tmp_path))}: .*; (\d+) bytes are free"
    )
    with pytest.raises(ArtifactError, match=message) as caught:
        Workspace(tmp_path).zeros(1 << 60)
    found = re.search(r"(\d+) bytes are free", str(caught.value))
    assert found is not None
    assert 0 < int(found[1]) < 1 << 60
    assert list(tmp_path.iterdir()) == []


def unsupported(*_: int) -> None:
    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


@pytest.mark.parametrize("allocate", ["as it is", "unsupported", "missing"])
def test_zeros_have_room_on_every_file_system(
    allocate: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if allocate == "unsupported":
        monkeypatch.setattr(os, "posix_fallocate", unsupported)
    elif allocate == "missing":  # as on macOS
        monkeypatch.delattr(os, "posix_fallocate")
    nbytes = (3 << 20) + 17
    with (tmp_path / "zeros").open("w+b") as file:
        reserve(file, nbytes, tmp_path)
        status = os.fstat(file.fileno())
        assert status.st_size == nbytes
        assert 512 * status.st_blocks >= nbytes
        assert not any(file.read())


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"cannot write to .*gone: No such file"):
        Workspace(tmp_path / "gone").zeros(1)


def test_what_is_remembered_in_a_folder_is_recalled(tmp_path: Path) -> None:
    arrays = {"a": np.arange(3), "b/c": np.array([[0.5]], np.float16)}
    name = "a field / with any name"
    for space in (IN_MEMORY, Workspace(tmp_path)):
        assert space.recalled("curves", name) is None
        assert space.remembered("curves", name, arrays) is arrays
    assert IN_MEMORY.recalled("curves", name) is None
    found = Workspace(tmp_path).recalled("curves", name)
    assert found is not None
    assert set(found) == {"a", "b/c"}
    assert found["a"].tolist() == [0, 1, 2]
    assert found["b/c"].dtype == np.float16
    assert Workspace(tmp_path).recalled("other", name) is None
    assert Workspace(tmp_path).recalled("curves", "another field") is None


def test_bytes_that_may_be_held_in_memory() -> None:
    large, small = held_bytes("64GB", 16, 0), held_bytes(64 * 10**9, 16, 10**9)
    assert 0 < small < large < 64 * 10**9
    assert large - small == pytest.approx(10**9, abs=64 << 20)
    assert held_bytes("65GB", 16, 0) - large == pytest.approx(10**9, abs=64 << 20)


def test_memory_of_samples_by_codec() -> None:
    def table(rows: int) -> Field:
        zeros = np.broadcast_to(np.float32(0), (rows, 4))
        return Field("a", zeros, np.broadcast_to(1, rows))

    # Rows, three times: all of small tiers, 2^17 of each of the larger ones.
    assert Axes().sampled_bytes(table(300)) == 3 * 16 * 300
    assert Axes().sampled_bytes(table(300_000)) == 3 * 16 * (65_536 + 131_072 + 37_856)
    # Rows, twice: at most 2^15 of the most frequent, and as many of the others.
    assert Clusters().sampled_bytes(table(300)) == 2 * 16 * 300
    assert Clusters().sampled_bytes(table(300_000)) == 2 * 16 * 65_536
    assert Raw().sampled_bytes(table(300)) == 0


@pytest.mark.parametrize("memory", ["100MB", 1000])
def test_too_little_memory_is_refused_with_what_it_takes(memory: int | str) -> None:
    with pytest.raises(BudgetError, match=f"{memory} of memory are") as caught:
        held_bytes(memory, 64, 10**8)
    found = re.search(r"tables of dim 64 need at least (\d+) bytes", str(caught.value))
    assert found is not None
    least = int(found[1])
    assert least > (400 << 20) + 10**8
    assert held_bytes(least + (64 << 20), 64, 10**8) == pytest.approx(64 << 20, abs=63 << 20)


def test_memory_that_cannot_be_read() -> None:
    with pytest.raises(BudgetError, match="cannot read 'much' as a size"):
        held_bytes("much", 8, 0)
