"""The file that holds compressed tables: safetensors, with their description as one more tensor.

The format is described in docs/format.md. This package knows the container only: facts, and entries
with a description and named tensors, whose bytes may stand in shards beside the file. What they
mean is checked in :mod:`saec.format.compressed`.
"""

from __future__ import annotations

from saec.artifact.container import FORMAT, shortly
from saec.artifact.entry import Entry
from saec.artifact.reading import read
from saec.artifact.shards import (
    GRAIN,
    Shard,
    ShardedTensor,
    find_shard,
    map_shards,
    remove_run,
    remove_stale,
    write_shard,
)
from saec.artifact.writing import entry_bytes, file_bytes, write

__all__ = [
    "FORMAT",
    "GRAIN",
    "Entry",
    "Shard",
    "ShardedTensor",
    "entry_bytes",
    "file_bytes",
    "find_shard",
    "map_shards",
    "read",
    "remove_run",
    "remove_stale",
    "shortly",
    "write",
    "write_shard",
]
