"""Descriptors of one file in this process, whatever other files are open."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def replaced_descriptors(path: Path, other: int) -> Iterator[None]:
    """Redirect reads of ``path`` to another file within this context."""
    own = descriptors_of(path)
    assert own
    saved = {descriptor: os.dup(descriptor) for descriptor in own}
    try:
        for descriptor in own:
            os.dup2(other, descriptor, inheritable=False)
        yield
    finally:
        for descriptor, first in saved.items():
            os.dup2(first, descriptor, inheritable=False)
            os.close(first)
