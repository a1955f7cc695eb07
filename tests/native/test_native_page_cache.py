"""The page cache by itself: positions of bytes, and arguments that are refused."""

from __future__ import annotations

import errno
import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from open_files import descriptors_of, needs_descriptors

from saec import _native

PAGE = os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Ten pages and 100 bytes."""
    (tmp_path / "bytes").write_bytes(np.random.default_rng(3).bytes(10 * PAGE + 100))
    return tmp_path / "bytes"


@pytest.fixture
def file(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def test_parts_keep_their_offset_within_a_page(file: int) -> None:
    cache = _native.PageCache([(file, 256, PAGE), (file, 5, 10), (file, 2 * PAGE, PAGE)])
    assert cache.page_bytes == PAGE
    assert [cache.offset(part) for part in range(3)] == [256, 2 * PAGE + 5, 3 * PAGE]
    assert len(cache.array()) == 4 * PAGE
    with pytest.raises(ValueError, match="part 3 of 3 parts does not exist"):
        cache.offset(3)


def test_parts_with_page_boundaries_are_contiguous(file: int) -> None:
    cache = _native.PageCache([(file, PAGE + 9, PAGE - 9), (file, 4 * PAGE, 7)])
    cache.keep(0, 2 * PAGE)
    own = os.pread(file, PAGE - 9, PAGE + 9) + os.pread(file, 7, 4 * PAGE)
    assert cache.array()[9 : PAGE + 7].tobytes() == own


def test_kept_pages_are_read_and_others_are_zeros(file: int) -> None:
    cache = _native.PageCache([(file, 0, 10 * PAGE + 100)])
    cache.keep(3 * PAGE - 1, 2)  # the last byte of a page and the first of the next
    cache.keep(10 * PAGE + 99, 1)  # where the file ends within a page
    array = cache.array()
    assert array[2 * PAGE : 4 * PAGE].tobytes() == os.pread(file, 2 * PAGE, 2 * PAGE)
    assert array[10 * PAGE :].tobytes() == os.pread(file, 100, 10 * PAGE) + bytes(PAGE - 100)
    assert not array[4 * PAGE : 10 * PAGE].any()
    counts = cache.counts()
    assert (counts["memory_bytes"], counts["pages_read"]) == (3 * PAGE, 0)
    with pytest.raises(ValueError, match="go beyond the"):
        cache.keep(11 * PAGE, 1)
    cache.limit(100)
    assert cache.counts()["most_memory_bytes"] == 11 * PAGE
    with pytest.raises(ValueError, match="there is a limit already, of 8 pages"):
        cache.limit(1)
    with pytest.raises(ValueError, match=r"keep\(\) comes before limit"):
        cache.keep(0, 1)


@needs_descriptors
@pytest.mark.parametrize(
    ("first", "nbytes", "message"),
    [
        (0, 0, "part 1 has 1 or more bytes, .* not 0"),
        (0, 2**63, "part 1 has 1 or more bytes, .* not 9223372036854775808"),
        (0, 10 * PAGE + 101, "a file is too short"),
        (2**63, 1, "a file is too short"),
        (11 * PAGE, 1, "a file is too short"),
        (0, 2**32 * PAGE, "parts take 4294967297 pages"),
    ],
)
def test_parts_that_are_refused(
    path: Path, file: int, first: int, nbytes: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        _native.PageCache([(file, 0, 1), (file, first, nbytes)])
    assert descriptors_of(path) == [file]


def test_empty_parts_and_bad_descriptors_are_refused() -> None:
    with pytest.raises(ValueError, match="there are no parts"):
        _native.PageCache([])
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        _native.PageCache([(-1, 0, 1)])
    assert caught.value.errno == errno.EBADF


@needs_descriptors
def test_files_stay_open_until_the_last_array_is_gone(path: Path, file: int) -> None:
    array = _native.PageCache([(file, 0, PAGE)]).array()[:1]
    gc.collect()
    assert len(descriptors_of(path)) == 2
    del array
    gc.collect()
    assert descriptors_of(path) == [file]


@needs_descriptors
def test_all_descriptors_are_closed(path: Path) -> None:
    """In a separate process, where nothing else opens or closes files."""
    program = f"""
import os
from saec import _native
file = os.open({str(path)!r}, os.O_RDONLY)
before = os.listdir("/proc/self/fd")
cache = _native.PageCache([(file, 0, 1)])
assert len(os.listdir("/proc/self/fd")) > len(before)
del cache
try:
    _native.PageCache([(file, 0, 1), (file, 0, 2**40)])
except ValueError:
    assert os.listdir("/proc/self/fd") == before
    print("refused, and closed")
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert (ended.stdout, ended.stderr) == (b"refused, and closed\n", b"")
