"""Memory that requests have freed goes back to the system."""

from __future__ import annotations

import asyncio
import ctypes
import sys

__all__ = ["keep_trimming", "trim"]

_TRIM_SECONDS = 5.0


async def keep_trimming() -> None:
    """Trim every few seconds; never ends.

    glibc gives freed memory back only from the end of a heap, where a small block that is in use
    holds all before it. A trim takes milliseconds, and holds one heap at a time.
    """
    while True:
        await asyncio.sleep(_TRIM_SECONDS)
        await asyncio.to_thread(trim)


def trim() -> bool:
    """Give free pages of all heaps back; False where the C library is not glibc and cannot."""
    if not sys.platform.startswith("linux"):
        return False
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is None:
        return False
    malloc_trim(ctypes.c_size_t(0))
    return True
