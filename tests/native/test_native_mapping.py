"""Pieces of files mapped one after the other: contents, lifetime, and what is refused."""

from __future__ import annotations

import errno
import gc
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from saec import _native

GRAIN = 1 << 16
NAME = "piece-of-a-test"


@pytest.fixture
def descriptors(tmp_path: Path) -> Iterator[list[int]]:
    """Three files of 2, 1 and a bit over 1 grains, and a grain of zeros before each."""
    rng = np.random.default_rng(5)
    opened = []
    for number, size in enumerate((2 * GRAIN, GRAIN, GRAIN + 77)):
        path = tmp_path / f"{NAME}-{number}"
        path.write_bytes(bytes(GRAIN) + rng.bytes(size))
        opened.append(os.open(path, os.O_RDONLY))
    yield opened
    for descriptor in opened:
        os.close(descriptor)


def content(descriptor: int) -> bytes:
    return os.pread(descriptor, 1 << 20, GRAIN)


def mapped(descriptors: list[int]) -> np.ndarray:
    sizes = [os.fstat(descriptor).st_size - GRAIN for descriptor in descriptors]
    mapping = _native.Mapping(sum(sizes))
    for descriptor, size in zip(descriptors, sizes, strict=True):
        mapping.add(descriptor, GRAIN, size)
    return mapping.array()


def test_pieces_are_contiguous(descriptors: list[int]) -> None:
    array = mapped(descriptors)
    assert (array.dtype, array.ndim, len(array)) == (np.uint8, 1, 4 * GRAIN + 77)
    assert array.tobytes() == b"".join(map(content, descriptors))
    assert array.ctypes.data % mmap.PAGESIZE == 0


def test_a_part_of_a_file_can_be_mapped_twice(descriptors: list[int]) -> None:
    mapping = _native.Mapping(2 * GRAIN + 5)
    mapping.add(descriptors[0], 2 * GRAIN, GRAIN)
    mapping.add(descriptors[0], 2 * GRAIN, GRAIN)
    mapping.add(descriptors[0], 0, 5)
    second = content(descriptors[0])[GRAIN:]
    assert mapping.array().tobytes() == second + second + bytes(5)


def test_the_array_is_read_only(descriptors: list[int]) -> None:
    array = mapped(descriptors)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        array.flags.writeable = True


def maps() -> int:
    return Path("/proc/self/maps").read_text().count(NAME)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc to read maps from")
def test_the_mapping_lives_as_long_as_its_arrays(descriptors: list[int]) -> None:
    part = mapped(descriptors)[GRAIN - 1 : GRAIN + 1].view(np.uint16)
    gc.collect()
    assert maps() == 3
    assert part.tobytes() == content(descriptors[0])[GRAIN - 1 : GRAIN + 1]
    del part
    gc.collect()
    assert maps() == 0


def test_files_may_be_closed_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * 100)
    descriptor = os.open(path, os.O_RDONLY)
    mapping = _native.Mapping(100)
    mapping.add(descriptor, 0, 100)
    os.close(descriptor)
    path.unlink()
    assert mapping.array().tobytes() == b"x" * 100


@pytest.mark.parametrize("nbytes", [0, 2**63, 2**64 - 1])
def test_invalid_sizes_are_refused(nbytes: int) -> None:
    with pytest.raises(ValueError, match=f"9223372036854775807 bytes, not {nbytes}"):
        _native.Mapping(nbytes)


def test_more_bytes_than_the_address_space_are_refused() -> None:
    with pytest.raises(OSError, match="Cannot allocate memory") as caught:
        _native.Mapping(2**62)
    assert caught.value.errno == errno.ENOMEM


@pytest.mark.parametrize(
    ("first", "nbytes", "message"),
    [
        (GRAIN, 0, "a piece has 0 bytes"),
        (GRAIN, 4 * GRAIN + 1, "bytes, .* are left of the mapping"),
        (GRAIN, 2**64 - 1, "a piece has 18446744073709551615 bytes"),
        (GRAIN + 1, GRAIN, "a piece does not start at a page"),
        (1, 1, "a piece does not start at a page"),
        (GRAIN, 2 * GRAIN + 1, "a file is too short"),
        (2 * GRAIN, GRAIN + 1, "a file is too short"),
        (4 * GRAIN, 1, "a file is too short"),
        (2**63, GRAIN, "a file is too short"),
        (2**64 - GRAIN, GRAIN, "a file is too short"),
    ],
)
def test_pieces_that_are_refused(
    first: int, nbytes: int, message: str, descriptors: list[int]
) -> None:
    mapping = _native.Mapping(4 * GRAIN)
    with pytest.raises(ValueError, match=message):
        mapping.add(descriptors[0], first, nbytes)


def test_a_piece_after_one_that_ends_within_a_page(descriptors: list[int]) -> None:
    mapping = _native.Mapping(2 * GRAIN)
    mapping.add(descriptors[0], GRAIN, GRAIN - 1)
    with pytest.raises(ValueError, match="a piece does not start at a page"):
        mapping.add(descriptors[1], GRAIN, 1)


def test_incomplete_mappings_cannot_be_read(descriptors: list[int]) -> None:
    mapping = _native.Mapping(3 * GRAIN)
    with pytest.raises(ValueError, match="pieces are missing"):
        mapping.array()
    mapping.add(descriptors[0], GRAIN, 2 * GRAIN)
    with pytest.raises(ValueError, match="pieces are missing"):
        mapping.array()


def test_mapping_continues_after_a_failed_piece(descriptors: list[int], tmp_path: Path) -> None:
    mapping = _native.Mapping(GRAIN)
    with pytest.raises(OSError, match="Bad file descriptor"):
        mapping.add(-1, GRAIN, GRAIN)
    writable = os.open(tmp_path / "write", os.O_WRONLY | os.O_CREAT)
    os.truncate(writable, GRAIN)
    with pytest.raises(PermissionError):
        mapping.add(writable, 0, GRAIN)
    os.close(writable)
    mapping.add(descriptors[1], GRAIN, GRAIN)
    assert mapping.array().tobytes() == content(descriptors[1])
