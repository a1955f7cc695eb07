"""Number of cores that this process may use, and of threads that it uses by default."""

from __future__ import annotations

import saec._native as _native

__all__ = ["default_threads", "usable_cores"]


def usable_cores() -> int:
    """At least 1: the cores of affinity and cpusets, but no more than the CPU quota, rounded up.

    The quota is that of the process's control groups, of version 1 or 2, at the time of
    import. The native core uses this many threads, unless a call or OMP_NUM_THREADS sets the
    number.
    """
    return _native.usable_cores()


def default_threads() -> int:
    """At least 1: OMP_NUM_THREADS as it was at the time of import, or :func:`usable_cores`.

    The native core uses so many threads, unless a call sets the number; passes over parts of a
    table use at most three of them.
    """
    return _native.default_threads()
