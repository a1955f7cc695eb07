"""The page cache of files by itself: places of their bytes, and what is refused."""

from __future__ import annotations

import errno
import gc
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from saec import _native

PAGE = os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    """Ten pages and 100 bytes."""
    path = tmp_path / "bytes"
    path.write_bytes(np.random.default_rng(3).bytes(10 * PAGE + 100))
    descriptor = os.open(path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_each_part_begins_within_a_page_as_in_its_file(file: int) -> None:
    cache = _native.PageCache([(file, 256, PAGE), (file, 5, 10), (file, 2 * PAGE, PAGE)])
    assert cache.page_bytes == PAGE
    assert [cache.offset(part) for part in range(3)] == [256, 2 * PAGE + 5, 3 * PAGE]
    assert len(cache.array()) == 4 * PAGE
    with pytest.raises(ValueError, match="there is no such part"):
        cache.offset(3)


def test_parts_that_end_and_begin_with_a_page_follow_each_other(file: int) -> None:
    cache = _native.PageCache([(file, PAGE + 9, PAGE - 9), (file, 4 * PAGE, 7)])
    cache.keep(0, 2 * PAGE)
    own = os.pread(file, PAGE - 9, PAGE + 9) + os.pread(file, 7, 4 * PAGE)
    assert cache.array()[9 : PAGE + 7].tobytes() == own


def test_kept_bytes_and_those_that_were_not_read(file: int) -> None:
    cache = _native.PageCache([(file, 0, 10 * PAGE + 100)])
    cache.keep(3 * PAGE - 1, 2)  # the last byte of a page and the first of the next
    cache.keep(10 * PAGE + 99, 1)  # where the file ends within a page
    array = cache.array()
    assert array[2 * PAGE : 4 * PAGE].tobytes() == os.pread(file, 2 * PAGE, 2 * PAGE)
    assert array[10 * PAGE :].tobytes() == os.pread(file, 100, 10 * PAGE) + bytes(PAGE - 100)
    assert not array[4 * PAGE : 10 * PAGE].any()
    counts = cache.counts()
    assert (counts["resident_pages"], counts["pages_read"]) == (3, 0)
    with pytest.raises(ValueError, match="there are no such bytes"):
        cache.keep(11 * PAGE, 1)
    cache.limit(100)
    assert cache.counts()["most_pages"] == 11
    with pytest.raises(ValueError, match="there is a limit already"):
        cache.limit(1)
    with pytest.raises(ValueError, match="kept before the others have a limit"):
        cache.keep(0, 1)


@pytest.mark.parametrize(
    ("first", "nbytes", "message"),
    [
        (0, 0, "a part is empty, or too long"),
        (0, 2**63, "a part is empty, or too long"),
        (0, 10 * PAGE + 101, "a file is too short"),
        (2**63, 1, "a file is too short"),
        (11 * PAGE, 1, "a file is too short"),
        (0, 2**32 * PAGE, "there are too many pages"),
    ],
)
def test_parts_that_are_refused(file: int, first: int, nbytes: int, message: str) -> None:
    open_before = open_descriptors()
    with pytest.raises(ValueError, match=message):
        _native.PageCache([(file, 0, 1), (file, first, nbytes)])
    assert open_descriptors() == open_before


def test_no_parts_and_no_files() -> None:
    with pytest.raises(ValueError, match="there are no parts"):
        _native.PageCache([])
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        _native.PageCache([(-1, 0, 1)])
    assert caught.value.errno == errno.EBADF


def test_descriptors_and_addresses_go_with_the_last_array(file: int) -> None:
    _native.PageCache([(file, 0, PAGE)]).array()  # the first one opens the process's own descriptor
    gc.collect()  # also arrays of other tests
    before = open_descriptors()
    array = _native.PageCache([(file, 0, PAGE)]).array()[:1]
    gc.collect()
    assert open_descriptors() > before
    del array
    gc.collect()
    assert open_descriptors() == before
