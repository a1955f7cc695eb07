"""Return memory that was freed to the system."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["trim"]


def trim() -> bool:
    """Return free pages of all heaps; False if the C library is not glibc, which alone can do
    it.

    glibc returns freed memory only from the end of a heap, so a small block in use keeps all memory
    before it; and each thread has a heap of its own. A trim takes milliseconds, and locks one heap
    at a time.
    """
    if not sys.platform.startswith("linux"):
        return False
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is None:
        return False
    malloc_trim(ctypes.c_size_t(0))
    return True
