"""Open an artifact: every field is checked against its record."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import saec.artifact as artifact
from saec.errors import ArtifactError, FieldError
from saec.format.cold_tables import ColdTables, file_identity
from saec.format.compressed import Compressed
from saec.format.forms import checked_field
from saec.format.patched import with_patches
from saec.format.permutation_file import saved_permutations
from saec.util.atomic_file import readable_file
from saec.util.remote_file import as_url
from saec.util.sizes import parse_size

__all__ = ["load"]


def load(
    source: str | os.PathLike[str] | bytes | BinaryIO,
    *,
    patches: Sequence[str | os.PathLike[str]] = (),
    memory: int | str | None = None,
) -> Compressed:
    """Open an artifact, memory-mapped: lookups read only the pages that they need.

    With ``memory``, for tables that are larger, lookups of the result read rows or codes from the
    file, those of a batch at once, and keep no more than that in memory. The result's
    ``read_counts`` say how much they read. The limit is for each process that opens the artifact.

    Its shards are mapped, too, and must be in the directory of the artifact or, if this is a link,
    of the link's target. The same directory has the old ids of renumbered features, which a field's
    ``old_ids`` and ``new_ids`` read; lookups do not need them.

    Args:
        source: path of the file; or a URL such as ``s3://bucket/model.saec``, downloaded through
            fsspec; or bytes, or a binary stream such as ``io.BytesIO``. Only a path can have
            shards.
        patches: files written by :func:`saec.update`, oldest first: the result is the artifact as
            of the last of them. To check them, all bytes of the artifact are read.
        memory: largest number of bytes that the tables may take, such as ``"2GB"``; a batch's own
            rows are not included. None: the system decides what stays in memory.

    Raises:
        ArtifactError: the file, a shard or a patch is missing, damaged, hostile or of another
            format.
        PatchError: a patch belongs to another artifact, or patches are out of order, missing or
            given twice.
        BudgetError: ``memory`` is no size, or not enough for what must be in memory; or a field
            has keys, or there are patches, which have no support for it.
        OptionalDependencyError: fsspec, or its package for the URL's protocol, is missing.
    """
    named = str(as_url(source) or source) if isinstance(source, str | os.PathLike) else "the bytes"
    with readable_file(source, ArtifactError) as path:
        try:
            result = _loaded(path, None if memory is None else parse_size(memory))
        except ArtifactError as error:
            if str(path) == named:
                raise
            raise ArtifactError(str(error).replace(str(path), named)) from error
    if isinstance(source, str | os.PathLike):
        for name, saved in saved_permutations(source, result.values()).items():
            result[name].saved_permutation = saved
    return with_patches(result, patches)


def _loaded(path: Path, memory: int | None) -> Compressed:
    identity = file_identity(path.stat()) if path.exists() else ()
    entries, loss = artifact.read(path)
    try:
        result = Compressed([checked_field(entry) for entry in entries], loss)
    except (ArtifactError, FieldError) as error:
        raise ArtifactError(f"{path}: {error}") from error
    result.sharded = {name: entry.sharded for name, entry in zip(result, entries, strict=True)}
    if memory is not None:
        result.cold = ColdTables(list(result.values()), entries, memory, path, identity)
    return result
