"""An artifact with patches: the chain is checked, and its fields are asked as one."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import saec.artifact as artifact
from saec.errors import ArtifactError, PatchError
from saec.format.compressed import Compressed
from saec.format.compressed_field import CompressedField
from saec.format.forms import checked_field
from saec.format.keyed_field import KeyedField
from saec.format.keyed_patch import KeyedPatch, PatchCounts
from saec.format.patched_field import PatchedField

__all__ = ["Patch", "Patched", "chain_digest", "next_patch", "with_following", "with_patches"]


@dataclass(frozen=True, eq=False)
class Patch:
    """A patch of an artifact.

    Attributes:
        path: the file, as given; empty before it is written.
        head: what it says before its fields.
        fields: by field name changed keys and their rows, or the whole field as it is from now on.
    """

    path: str
    head: artifact.PatchHead
    fields: Mapping[str, KeyedPatch | KeyedField]

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
        return [name for name, own in self.fields.items() if not isinstance(own, KeyedPatch)]

    @property
    def counts(self) -> PatchCounts:
        """Keys of all fields together of which the patch has changes."""
        each = [own.counts for own in self.fields.values() if isinstance(own, KeyedPatch)]
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
    """

    def __init__(self, base: Compressed, patches: Sequence[Patch]) -> None:
        fields = [_patched(field, patches) for field in base.values()]
        super().__init__(fields, patches[-1].head.loss)
        self.base = base
        self.patches = tuple(patches)

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
    changes: list[KeyedPatch] = []
    for own in (patch.fields[field.name] for patch in patches if field.name in patch.fields):
        if isinstance(own, KeyedPatch):
            changes.append(own)
        else:
            field, changes = own, []
    if not changes:
        return field
    assert isinstance(field, KeyedField), "changes are made of such fields"
    return PatchedField(field, changes)


def chain_digest(result: Compressed) -> bytes:
    """The digest that the next patch follows: of the base and of all patches."""
    if isinstance(result, Patched):
        last = result.patches[-1]
        return artifact.patch_digest(last.head, last.entries)
    entries = [field.entry for field in result.values()]
    return artifact.artifact_digest(entries, result.predicted_loss_increase)


def next_patch(
    result: Compressed,
    fields: Mapping[str, KeyedPatch | KeyedField],
    loss: float | None,
    afresh: float | None,
) -> Patch:
    """The patch of these ``fields`` that follows ``result``."""
    before = result.patches if isinstance(result, Patched) else ()
    head = artifact.PatchHead(len(before) + 1, chain_digest(result), loss, afresh)
    return Patch("", head, fields)


def with_patches(base: Compressed, paths: Sequence[str | os.PathLike[str]]) -> Compressed:
    """``base`` with the patches in these files, oldest first.

    Raises:
        ArtifactError: a file is missing, damaged, hostile or no patch.
        PatchError: a patch belongs to another artifact, or patches are out of order, missing or
            given twice.
    """
    if not paths:
        return base
    digests, now = [chain_digest(base)], base
    patches: list[Patch] = []
    for path in paths:
        head, entries = artifact.read_patch(path)
        _check_follows(str(path), head, digests)
        patches.append(Patch(str(path), head, _fields_of(str(path), entries, now)))
        digests.append(artifact.patch_digest(head, entries))
        now = Patched(base, patches)
    return now


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
    path: str, entries: Sequence[artifact.Entry], now: Compressed
) -> dict[str, KeyedPatch | KeyedField]:
    """The fields of a patch that follows ``now``."""
    fields: dict[str, KeyedPatch | KeyedField] = {}
    for entry in entries:
        name = artifact.shortly(entry.name)
        if entry.name in fields:
            raise ArtifactError(f"{path}: field {name} stands in it twice")
        field = now.get(entry.name)
        if not isinstance(field, KeyedField):
            raise PatchError(f"{path}: the artifact has no field {name} with keys")
        if entry.dim != field.dim or entry.dtype != field.dtype:
            raise PatchError(
                f"{path}: field {name} is {entry.dtype} of dim {entry.dim}, and in the artifact "
                f"{field.dtype} of dim {field.dim}"
            )
        try:
            fields[entry.name] = _field_of(entry, field)
        except KeyError as error:
            raise ArtifactError(f"{path}: field {name}: there is no tensor {error}") from error
        except ArtifactError as error:
            raise ArtifactError(f"{path}: damaged field {name}: {error}") from error
    return fields


def _field_of(entry: artifact.Entry, now: KeyedField) -> KeyedPatch | KeyedField:
    """The changes of a field, or a new field in its place."""
    if entry.codec == KeyedPatch.kind:
        return KeyedPatch.from_entry(entry, now.base if isinstance(now, PatchedField) else now)
    whole = checked_field(entry)
    if not isinstance(whole, KeyedField) or whole.key_kind != now.key_kind:
        raise ArtifactError("it has other keys than in the artifact")
    return whole
