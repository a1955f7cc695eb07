"""Where a figure was measured: it means little without."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from saec._native import simd
from saec.util.cores import usable_cores

__all__ = ["machine"]

PACKAGES = ("saec", "numpy", "torch", "polars", "scikit-learn", "faiss-cpu")


def machine() -> dict[str, Any]:
    """Cores that this process may use, bytes of memory, processor, instruction set of lookups,
    caches of the first core, versions, and UTC time."""
    return {
        "cores": usable_cores(),
        "memory": _memory(),
        "cpu": _cpu(),
        "simd": simd(),
        "caches": _caches(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": _versions(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _caches() -> list[str]:
    """As ``L2 2048K``; none where the system does not tell."""
    folder = Path("/sys/devices/system/cpu/cpu0/cache")
    try:
        return [
            f"L{(one / 'level').read_text().strip()} {(one / 'size').read_text().strip()}"
            for one in sorted(folder.glob("index*"))
        ]
    except OSError:
        return []


def _versions() -> dict[str, str]:
    """Those that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
