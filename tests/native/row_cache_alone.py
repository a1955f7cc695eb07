"""Use a cache of rows in a process of its own: ``python row_cache_alone.py CASE FILE``.

The file has the rows of :func:`rows`. It ends with status 0 if all is as it should be.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from saec import _native
from saec.format.native_lookup import RowRun, pool_request, run_table

ROWS, DIM = 40_000, 8  # rows of 32 bytes
MEMORY = 1 << 20


def rows() -> Any:
    return np.random.default_rng(3).standard_normal((ROWS, DIM), np.float32)


def looked_up(table: _native.LookupTable, ids: Any) -> Any:
    out = np.empty((len(ids), DIM), np.float32)
    bags = (len(ids), 0, len(ids), 0, "sum", out.ctypes.data, out.strides[0])
    assert _native.pool([pool_request(table, ids.ctypes.data, 8, *bags)], 0)[0] == 0
    return out


def table_at(cache: _native.RowCache, part: int, rows: int = ROWS) -> _native.LookupTable:
    first = cache.offset(part)
    stored = cache.array()[first : first + 4 * DIM * rows].view(np.float32).reshape(rows, DIM)
    return run_table(rows, [RowRun(0, 0, 0, 0)], np.zeros(0, np.uint8), stored)


def cache_of(path: str) -> _native.RowCache:
    descriptor = os.open(path, os.O_RDONLY)
    return _native.RowCache([(descriptor, 0, 4 * DIM * ROWS)], [(ROWS, 0)], 4 * DIM, MEMORY)


def forked_child_keeps_its_own_memory(path: str) -> None:
    """A child has no part of the cache, so its addresses may be those of something else."""
    cache = cache_of(path)
    system = ctypes.CDLL(None)
    system.mmap.restype = ctypes.c_void_p
    system.mmap.argtypes = [ctypes.c_void_p, *[ctypes.c_size_t] * 3, ctypes.c_int, ctypes.c_long]
    child = os.fork()
    if child:
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    size = MEMORY // 4  # so that some are where the parent has the rows of the cache
    read_write, private_anonymous = 3, 0x22
    taken = [system.mmap(None, size, read_write, private_anonymous, -1, 0) for _ in range(100)]
    for at in taken:
        ctypes.memset(at, 7, size)
    del cache
    os._exit(any(ctypes.string_at(at, size) != b"\7" * size for at in taken))


class Filter(ctypes.Structure):
    """``struct sock_fprog``."""

    _fields_ = (("count", ctypes.c_ushort), ("steps", ctypes.c_void_p))


def forbid_io_uring_enter() -> None:
    """As containers do, by seccomp(2), for this thread and those that it starts."""
    load, equal, give, number = 0x20, 0x15, 0x06, 426  # on all processors
    refuse_with_eperm, allow = 0x00050001, 0x7FFF0000
    steps = np.array(
        [
            (load, 0, 0, 0),
            (equal, 0, 1, number),
            (give, 0, 0, refuse_with_eperm),
            (give, 0, 0, allow),
        ],
        np.dtype("u2, u1, u1, u4"),
    )
    no_new_privileges, seccomp, mode_filter = 38, 22, 2
    system = ctypes.CDLL(None)
    program = Filter(len(steps), steps.ctypes.data)
    assert system.prctl(no_new_privileges, 1, 0, 0, 0) == 0
    assert system.prctl(seccomp, mode_filter, ctypes.byref(program)) == 0


def rows_are_read_if_io_uring_is_forbidden_later(path: str) -> None:
    cache, own = cache_of(path), rows()
    table = table_at(cache, 0)
    cache.serve(table)
    forbid_io_uring_enter()
    for seed in range(20):
        ids = np.random.default_rng(seed).integers(0, ROWS, 500)
        assert np.array_equal(looked_up(table, ids), own[ids])
    assert cache.counts()["reads"] > 500


CASES: dict[str, Callable[[str], None]] = {
    case.__name__: case
    for case in (forked_child_keeps_its_own_memory, rows_are_read_if_io_uring_is_forbidden_later)
}

if __name__ == "__main__":
    CASES[sys.argv[1]](sys.argv[2])
