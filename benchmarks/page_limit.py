"""A mapped file of which only a limited number of pages stays in the system's cache.

Stands in for a process whose memory is limited, where the system drops the pages used longest
ago. Here, they are dropped between the batches, outside of the time that is measured.

The system reads single pages for the mapping (MADV_RANDOM). By default it reads up to megabytes
around a page at first, and stops after a hundred misses. Without a limit in the batch itself it
would not stop, because its own pages are hits, and it would fill the machine's memory.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_RANDOM, _PAGEOUT = 1, 21  # of madvise (Linux)
_libc = ctypes.CDLL(None, use_errno=True)


class LimitedPages:
    """The pages of a file through an array that is mapped from it.

    Args:
        path: of the file.
        mapped: the array, whose bytes begin at byte ``first`` of the file.
        most: pages that may stay.
    """

    def __init__(self, path: Path, mapped: NDArray[Any], first: int, most: int) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)
        self._start = mapped.__array_interface__["data"][0] - first
        self._pages = -(-path.stat().st_size // mmap.PAGESIZE)
        self._used = np.zeros(self._pages, np.int32)  # number of the batch that used a page last
        self._first, self._batch, self._most = first, 0, most
        assert self._start % mmap.PAGESIZE == 0
        self._advise(0, self._pages, _RANDOM)

    def _advise(self, first: int, pages: int, advice: int) -> None:
        address = ctypes.c_void_p(self._start + first * mmap.PAGESIZE)
        if _libc.madvise(address, ctypes.c_size_t(pages * mmap.PAGESIZE), advice):
            raise OSError(ctypes.get_errno(), "madvise")

    def forget(self) -> None:
        """Drop all pages."""
        self._drop(np.flatnonzero(self.resident()))

    def resident(self) -> NDArray[np.bool_]:
        """Which pages are in the system's cache."""
        held = np.zeros(self._pages, np.uint8)
        size = ctypes.c_size_t(self._pages * mmap.PAGESIZE)
        address = ctypes.c_void_p(self._start)
        if _libc.mincore(address, size, ctypes.c_void_p(held.__array_interface__["data"][0])):
            raise OSError(ctypes.get_errno(), "mincore")
        return held & 1 > 0

    def enforce(self, first_bytes: NDArray[np.int64]) -> None:
        """Drop the pages used longest ago beyond the limit.

        first_bytes: of the rows of the last batch, in the array.
        """
        self._batch += 1
        self._used[(first_bytes + self._first) // mmap.PAGESIZE] = self._batch
        held = np.flatnonzero(self.resident())
        if len(held) > self._most:
            oldest = np.argsort(self._used[held], kind="stable")[: len(held) - self._most]
            self._drop(np.sort(held[oldest]))

    def _drop(self, pages: NDArray[np.int64]) -> None:
        ends = np.flatnonzero(np.diff(pages) != 1) + 1
        for run in np.split(pages, ends):
            if len(run):
                first, count = int(run[0]), len(run)
                self._advise(first, count, _PAGEOUT)
                place, size = first * mmap.PAGESIZE, count * mmap.PAGESIZE
                os.posix_fadvise(self._descriptor, place, size, os.POSIX_FADV_DONTNEED)
