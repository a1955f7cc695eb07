"""Freed memory goes back to the system."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import subprocess
import sys
import weakref

import pytest

from saec.serve import heap
from saec.util import heap as util_heap

# 90 MB in blocks too small for maps of their own, and one block behind them that stays.
_SCRIPT = """
import runpy, sys
from pathlib import Path

trim = runpy.run_path(sys.argv[1])["trim"]  # without what else the package imports

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))

blocks = [bytes(60_000) for _ in range(1500)]
last = bytes(60_000)
del blocks
before = resident()
assert trim()
print(before - resident())
"""


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "malloc_trim"),
    reason="only glibc can trim its heaps",
)
def test_trimming_returns_freed_memory_to_the_system() -> None:
    words = [sys.executable, "-c", _SCRIPT, str(util_heap.__file__)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert int(done.stdout) > 60_000  # KiB


def test_trimming_does_nothing_with_a_c_library_without_malloc_trim(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not util_heap.trim()


def test_a_server_trims_periodically(monkeypatch: pytest.MonkeyPatch) -> None:
    trims: list[int] = []
    monkeypatch.setattr(heap, "_TRIM_SECONDS", 0.001)
    monkeypatch.setattr(heap, "trim", lambda: trims.append(1))

    async def served() -> None:
        trimming = asyncio.create_task(heap.keep_trimming())
        while len(trims) < 3:
            await asyncio.sleep(0.001)
        trimming.cancel()

    asyncio.run(asyncio.wait_for(served(), 30))


def test_a_server_collects_reference_cycles(monkeypatch: pytest.MonkeyPatch) -> None:
    class Cycle:
        def __init__(self) -> None:
            self.own = self

    monkeypatch.setattr(heap, "_TRIM_SECONDS", 0.001)

    async def served() -> None:
        trimming = asyncio.create_task(heap.keep_trimming())
        await asyncio.sleep(0)  # it begins
        assert gc.get_freeze_count() > 0
        left = weakref.ref(Cycle())
        while left() is not None:
            await asyncio.sleep(0.001)
        trimming.cancel()

    gc.disable()  # so that nothing else collects it
    try:
        asyncio.run(asyncio.wait_for(served(), 30))
    finally:
        gc.enable()
    assert gc.get_freeze_count() == 0
