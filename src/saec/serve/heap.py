"""Return memory that requests have freed to the system."""

from __future__ import annotations

import asyncio
import ctypes
import sys

__all__ = ["keep_trimming", "trim"]

_TRIM_SECONDS = 5.0


async def keep_trimming() -> None:
    """Trim every few seconds, forever.

    glibc returns freed memory only from the end of a heap, so a small block in use
    keeps all memory before it. A trim takes milliseconds, and locks one heap at a time.
    """
    while True:
        await asyncio.sleep(_TRIM_SECONDS)
        await asyncio.to_thread(trim)


def trim() -> bool:
    """Return free pages of all heaps; False if the C library is not glibc, which alone can do
    it."""
    if not sys.platform.startswith("linux"):
        return False
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is None:
        return False
    malloc_trim(ctypes.c_size_t(0))
    return True
