"""Number of cores that this process may use."""

from __future__ import annotations

import saec._native as _native

__all__ = ["usable_cores"]


def usable_cores() -> int:
    """At least 1: the cores of affinity and cpusets, but no more than the CPU quota, rounded up.

    The quota is that of the process's control groups, of version 1 or 2, at the time of
    import. The native core uses this many threads, unless a call or OMP_NUM_THREADS sets the
    number.
    """
    return _native.usable_cores()
