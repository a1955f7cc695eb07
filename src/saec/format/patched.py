"""An artifact with patches: the chain is checked, and its fields are asked as one."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import saec.artifact as artifact
from saec.errors import ArtifactError, BudgetError, PatchError
from saec.format.compressed import Compressed
from saec.format.compressed_field import CompressedField
from saec.format.forms import checked_field
from saec.format.id_patch import IdPatch, PlainField
from saec.format.keyed_field import KeyedField
from saec.format.keyed_patch import KeyedPatch, PatchCounts
from saec.format.merged_ids import merged_ids
from saec.format.patched_field import PatchedField

__all__ = ["Patch", "Patched", "chain_digest", "next_patch", "with_following", "with_patches"]


Changes = KeyedPatch | IdPatch


@dataclass(frozen=True, eq=False)
class Patch:
    """A patch of an artifact.

    Attributes:
        path: the file, as given; empty before it is written.
        head: what it says before its fields.
        fields: by field name changed keys or ids and their rows, or the whole field as it is from
            now on.
    """

    path: str
    head: artifact.PatchHead
    fields: Mapping[str, Changes | CompressedField]

    @property
    def entries(self) -> list[artifact.Entry]:
        """What the file holds."""
        return [field.entry for field in self.fields.values()]

    @property
    def nbytes(self) -> int:
        """Bytes of the file."""
        return artifact.patch_bytes(self.entries)

    @property
    def whole(self) -> list[str]:
        """Names of the fields that the patch has as a whole."""
        return [name for name, own in self.fields.items() if isinstance(own, CompressedField)]

    @property
    def counts(self) -> PatchCounts:
        """Keys and ids of all fields together of which the patch has changes."""
        each = [own.counts for own in self.fields.values() if isinstance(own, Changes)]
        return PatchCounts(
            sum(one.added for one in each),
            sum(one.moved for one in each),
            sum(one.removed for one in each),
            sum(one.dropped for one in each),
        )


class Patched(Compressed):
    """A base and its patches, asked as one artifact.

    Attributes:
        base: the artifact without patches.
        patches: in their order, oldest first.
        digests: of the base, and of it with each number of patches.
    """

    def __init__(
        self, base: Compressed, patches: Sequence[Patch], digests: Sequence[bytes]
    ) -> None:
        fields = [_patched(field, patches) for field in base.values()]
        super().__init__(fields, patches[-1].head.loss)
        self.base = base
        self.patches = tuple(patches)
        self.digests = tuple(digests)

    @property
    def nbytes(self) -> int:
        """Bytes of the base and of all patches as saved."""
        return self.base.nbytes + sum(patch.nbytes for patch in self.patches)

    @property
    def shard_count(self) -> int:
        """Number of shards of the base."""
        return self.base.shard_count

    def save(self, path: str | os.PathLike[str] | BinaryIO) -> None:
        """Refused: a base and its patches are several files.

        Raises:
            PatchError: always; names :func:`saec.compact`.
        """
        raise PatchError(
            f"cannot save a base with {len(self.patches)} patches to one file: saec.compact makes "
            "one artifact of them"
        )


def _patched(field: CompressedField, patches: Sequence[Patch]) -> CompressedField:
    """The field as of the last patch: the newest whole one, behind the changes after it."""
    changes: list[Changes] = []
    for own in (patch.fields[field.name] for patch in patches if field.name in patch.fields):
        if isinstance(own, CompressedField):
            field, changes = own, []
        else:
            changes.append(own)
    if not changes:
        return field
    if isinstance(field, KeyedField):
        return PatchedField(field, [own for own in changes if isinstance(own, KeyedPatch)])
    assert isinstance(field, PlainField), "there are no other fields"
    return merged_ids(field, [own for own in changes if isinstance(own, IdPatch)])


def chain_digest(result: Compressed) -> bytes:
    """The digest that the next patch follows: of the base and of all patches."""
    if isinstance(result, Patched):
        return result.digests[-1]
    entries = [field.entry for field in result.values()]
    return artifact.artifact_digest(entries, result.predicted_loss_increase)


def next_patch(
    result: Compressed,
    fields: Mapping[str, Changes | CompressedField],
    loss: float | None,
    afresh: float | None,
) -> Patch:
    """The patch of these ``fields`` that follows ``result``."""
    before = result.patches if isinstance(result, Patched) else ()
    head = artifact.PatchHead(len(before) + 1, chain_digest(result), loss, afresh)
    return Patch("", head, fields)


def with_patches(start: Compressed, paths: Sequence[str | os.PathLike[str]]) -> Compressed:
    """``start``, which may have patches, with those in these files, oldest first.

    Raises:
        ArtifactError: a file is missing, damaged, hostile or no patch.
        PatchError: a patch belongs to another artifact, or patches are out of order, missing or
            given twice.
        BudgetError: ``start`` was opened with a limit of its memory.
    """
    if not paths:
        return start
    if start.cold is not None:
        raise BudgetError(
            "patches are held in memory: load the artifact without a limit, or make one artifact "
            "of it and its patches by saec.compact"
        )
    base, patches, digests = start, list[Patch](), [chain_digest(start)]
    if isinstance(start, Patched):
        base, patches, digests = start.base, list(start.patches), list(start.digests)
    for path in paths:
        head, entries = artifact.read_patch(path)
        _check_follows(str(path), head, digests)
        fields = _fields_of(str(path), entries, *_as_of(base, patches))
        patches.append(Patch(str(path), head, fields))
        digests.append(artifact.patch_digest(head, entries))
    return Patched(base, patches, digests)


def _as_of(
    base: Compressed, patches: Sequence[Patch]
) -> tuple[dict[str, CompressedField], dict[str, int]]:
    """Behind the patches each field as it was last written as a whole, and its number of rows."""
    whole, rows = dict(base), {name: field.vocab_size for name, field in base.items()}
    for patch in patches:
        for name, own in patch.fields.items():
            rows[name] = own.vocab_size
            if isinstance(own, CompressedField):
                whole[name] = own
    return whole, rows


def with_following(base: Compressed, folder: Path) -> Compressed:
    """``base`` with the patches of a folder, files that end in ``.patch``, which follow it one
    after the other. Others are left alone, as long as two do not follow the same state.

    Raises:
        ArtifactError: a file is damaged, hostile or no patch.
        PatchError: two patches follow the same state.
    """
    found: dict[bytes, tuple[Path, bytes]] = {}
    for path in sorted(folder.glob("*.patch")):
        head, entries = artifact.read_patch(path)
        if head.follows in found:
            raise PatchError(f"{found[head.follows][0]} and {path} follow the same state")
        found[head.follows] = path, artifact.patch_digest(head, entries)
    chain, digest = [], chain_digest(base)
    while digest in found:
        path, digest = found[digest]
        chain.append(path)
    return with_patches(base, chain)


def _check_follows(path: str, head: artifact.PatchHead, digests: Sequence[bytes]) -> None:
    """Raise PatchError if a patch does not follow the last of ``digests``, of the base and of the
    patches before it."""
    if head.follows == digests[-1] and head.number == len(digests):
        return
    wanted = len(digests)
    if head.follows in digests:
        before = "given twice" if head.number < wanted else "out of order"
        raise PatchError(
            f"{path} is patch {head.number} of its chain, and stands as patch {wanted}: it is "
            f"{before}, or belongs to another chain of the same base"
        )
    if head.number > wanted:
        raise PatchError(
            f"{path} is patch {head.number} of its chain, and stands as patch {wanted}: patches "
            "before it are missing or out of order"
        )
    raise PatchError(
        f"{path} is a patch of another artifact: it follows {head.follows.hex()}, and this is "
        f"{digests[-1].hex()}"
    )


def _fields_of(
    path: str,
    entries: Sequence[artifact.Entry],
    now: Mapping[str, CompressedField],
    rows: Mapping[str, int],
) -> dict[str, Changes | CompressedField]:
    """The fields of a patch: ``now`` has them as they were last written as a whole, and ``rows``
    the rows that they have before it."""
    fields: dict[str, Changes | CompressedField] = {}
    for entry in entries:
        name = artifact.shortly(entry.name)
        if entry.name in fields:
            raise ArtifactError(f"{path}: field {name} stands in it twice")
        field = now.get(entry.name)
        if field is None:
            raise PatchError(f"{path}: the artifact has no field {name}")
        if entry.dim != field.dim or entry.dtype != field.dtype:
            raise PatchError(
                f"{path}: field {name} is {entry.dtype} of dim {entry.dim}, and in the artifact "
                f"{field.dtype} of dim {field.dim}"
            )
        try:
            fields[entry.name] = _field_of(entry, field, rows[entry.name])
        except KeyError as error:
            raise ArtifactError(f"{path}: field {name}: there is no tensor {error}") from error
        except ArtifactError as error:
            raise ArtifactError(f"{path}: damaged field {name}: {error}") from error
    return fields


def _field_of(entry: artifact.Entry, now: CompressedField, rows: int) -> Changes | CompressedField:
    """The changes of a field with so many rows, or a new field in its place."""
    if isinstance(now, KeyedField) and entry.codec == KeyedPatch.kind:
        return KeyedPatch.from_entry(entry, now)
    if not isinstance(now, KeyedField) and entry.codec == IdPatch.kind:
        return IdPatch.from_entry(entry, now, rows)
    whole = checked_field(entry)
    if isinstance(now, KeyedField):
        if not isinstance(whole, KeyedField) or whole.key_kind != now.key_kind:
            raise ArtifactError("it has other keys than in the artifact")
    elif isinstance(whole, KeyedField) or whole.vocab_size < rows:
        raise ArtifactError(f"it has keys, or less than the {rows} rows before")
    return whole
