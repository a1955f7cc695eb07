"""Return memory that requests have freed to the system."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import sys

__all__ = ["keep_trimming", "trim"]

_TRIM_SECONDS = 5.0


async def keep_trimming() -> None:
    """Collect garbage and trim every few seconds, until this is cancelled.

    glibc returns freed memory only from the end of a heap, so a small block in use
    keeps all memory before it. A trim takes milliseconds, and locks one heap at a time.

    Python collects old reference cycles, such as those of closed connections, only after many
    have come. A collection looks at all objects, so those of the imports and of the model, most
    of them, are left out of it: it takes a millisecond or two.
    """
    gc.collect()
    gc.freeze()
    try:
        while True:
            await asyncio.sleep(_TRIM_SECONDS)
            gc.collect()
            await asyncio.to_thread(trim)
    finally:
        gc.unfreeze()


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
