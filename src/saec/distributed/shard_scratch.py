"""Targets for vectors that workers make: memory, or shards beside a file."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from saec.artifact import remove_run
from saec.errors import DataError
from saec.streaming.scratch import IN_MEMORY, ShardNames, Workspace

__all__ = ["shards_for"]


@contextmanager
def shards_for(out: Path | None) -> Iterator[Workspace]:
    """The target of a vector that will be joined into the file ``out``; None for memory.

    The shards are removed at the end.

    Raises:
        DataError: the folder of ``out`` does not exist.
    """
    if out is None:
        yield IN_MEMORY
        return
    if not out.parent.is_dir():
        raise DataError(f"cannot write {out}: {out.parent} is no folder")
    run = secrets.token_hex(8)
    try:
        yield Workspace(shards=ShardNames(out, run))
    finally:
        remove_run(out, run)
