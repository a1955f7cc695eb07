"""The file of compressed tables: safetensors, with a record that describes each field.

docs/format.md defines the format. This package handles the container only: entries with a
record and named tensors, whose bytes may be in shards beside the file. :mod:`saec.format.load`
validates their content.
"""

from __future__ import annotations

from saec.artifact.byte_reader import ByteReader, number_bytes, number_size
from saec.artifact.container import FIXED_BYTES, FORMAT, shortly
from saec.artifact.entry import Entry, FileRange, Stored, entry_bytes, file_bytes
from saec.artifact.patch_file import (
    PatchHead,
    artifact_digest,
    patch_bytes,
    patch_digest,
    read_patch,
    write_patch,
)
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
from saec.artifact.writing import write

__all__ = [
    "FIXED_BYTES",
    "FORMAT",
    "GRAIN",
    "ByteReader",
    "Entry",
    "FileRange",
    "PatchHead",
    "Shard",
    "ShardedTensor",
    "Stored",
    "artifact_digest",
    "entry_bytes",
    "file_bytes",
    "find_shard",
    "map_shards",
    "number_bytes",
    "number_size",
    "patch_bytes",
    "patch_digest",
    "read",
    "read_patch",
    "remove_run",
    "remove_stale",
    "shortly",
    "write",
    "write_patch",
    "write_shard",
]
