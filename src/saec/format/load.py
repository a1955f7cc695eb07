"""Opening an artifact: every field is checked against its description."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import saec.artifact as artifact
from saec.errors import ArtifactError, FieldError
from saec.format.clustered_field import ClusteredField
from saec.format.compressed import PREDICTED, Compressed, checked_loss
from saec.format.compressed_field import CompressedField
from saec.format.permutation_file import (
    saved_permutations,
)
from saec.format.raw_field import RawField
from saec.format.tiered_field import TieredField
from saec.util.atomic_file import readable_file
from saec.util.remote_file import as_url

__all__ = ["load"]


_FIELDS: dict[str, type[CompressedField]] = {
    field.codec: field for field in (ClusteredField, RawField, TieredField)
}


def load(source: str | os.PathLike[str] | bytes | BinaryIO) -> Compressed:
    """Open an artifact, memory-mapped: lookups read only the pages that they need.

    Shards that it joins are mapped, too, and must lie beside it, or beside what it is a link to.
    There, too, are the old ids of renumbered features, which a field's ``old_ids`` and ``new_ids``
    read; lookups need none of them.

    Args:
        source: path of the file; or a URL such as ``s3://bucket/model.saec``, downloaded by way of
            fsspec; or bytes, or a binary stream such as ``io.BytesIO``. None of these but a path
            can have shards.

    Raises:
        ArtifactError: the file or a shard is missing, damaged, hostile or of another format.
        OptionalDependencyError: fsspec, or its package for the URL's protocol, is missing.
    """
    named = str(as_url(source) or source) if isinstance(source, str | os.PathLike) else "the bytes"
    with readable_file(source, ArtifactError) as path:
        try:
            result = _loaded(path)
        except ArtifactError as error:
            if str(path) == named:
                raise
            raise ArtifactError(str(error).replace(str(path), named)) from error
    if isinstance(source, str | os.PathLike):
        for name, saved in saved_permutations(source, result.values()).items():
            result[name].saved_permutation = saved
    return result


def _loaded(path: Path) -> Compressed:
    entries, facts = artifact.read(path)
    try:
        result = Compressed([_checked_field(entry) for entry in entries], _checked_facts(facts))
    except (ArtifactError, FieldError) as error:
        raise ArtifactError(f"{path}: {error}") from error
    result.sharded = {name: entry.sharded for name, entry in zip(result, entries, strict=True)}
    return result


def _checked_field(entry: artifact.Entry) -> CompressedField:
    name = artifact.shortly(entry.description.get("name", "without a name"))
    for key, value in entry.description.items():
        # To Python, true is the number 1, and 8.0 the same as 8.
        if isinstance(value, float) or (isinstance(value, bool) and key != "renumbered"):
            raise ArtifactError(f"damaged field {name}: {key!r} is {value!r}, not a whole number")
    try:
        field = _FIELDS[entry.description["codec"]]._from_entry(entry)
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ArtifactError(f"damaged field {name}: {error}") from error
    if field.description != entry.description or set(field.tensors) != set(entry.tensors):
        raise ArtifactError(
            f"field {name} is described as {artifact.shortly(dict(entry.description))}, but its "
            f"tensors say {field.description}"
        )
    return field


def _checked_facts(facts: Mapping[str, Any]) -> float | None:
    """The predicted loss increase, if the file states it and nothing else."""
    if not facts:
        return None
    if set(facts) != {PREDICTED}:
        raise ArtifactError(f"unknown facts: {artifact.shortly(sorted(facts))}")
    return checked_loss(facts[PREDICTED])
