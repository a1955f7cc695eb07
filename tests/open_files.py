"""Descriptors of one file in this process, whatever other files are open."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

OPEN = Path("/proc/self/fd")
needs_descriptors = pytest.mark.skipif(not OPEN.exists(), reason="no /proc to look for files in")


def descriptors_of(path: Path) -> list[int]:
    return [
        int(link.name)
        for link in OPEN.iterdir()
        if link.is_symlink() and os.path.realpath(link) == str(path.resolve())
    ]
