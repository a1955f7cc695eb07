"""How many cores this process may use."""

from __future__ import annotations

import saec._native as _native

__all__ = ["usable_cores"]


def usable_cores() -> int:
    """At least 1: what affinity and cpusets allow, but no more than the CPU quota, rounded up.

    The quota is that of the process's control groups, of version 1 or 2, as it was when saec was
    imported. The native core uses as many threads, unless a call or OMP_NUM_THREADS says otherwise.
    """
    return _native.usable_cores()
